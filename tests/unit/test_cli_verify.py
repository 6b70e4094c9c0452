"""`kwb verify`: verdicts on cases a line, and why a signature fails."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from kafka_webhook_bridge.cli import cases, main
from kafka_webhook_bridge.cli.cases import LINE_BYTES_MAX, bounded_lines, judge_lines
from kafka_webhook_bridge.sources.catalog import Catalog

VECTORS = json.loads((Path(__file__).parents[1] / "data" / "providers" / "vectors.json").read_text())["vectors"]
GITHUB = VECTORS[0]


def judged(*lines: str | bytes) -> list[dict[str, Any]]:
    """The answers of the command's inside to these lines."""
    data = b"".join((line.encode() if isinstance(line, str) else line) + b"\n" for line in lines)
    answers: list[str] = []
    judge_lines(io.BytesIO(data), Catalog(), time.time, answers.append)
    return [json.loads(answer) for answer in answers]


def test_rule_33_every_vector_passes_through_one_process() -> None:
    lines = "".join(json.dumps(vector) + "\n" for vector in VECTORS)
    done = subprocess.run(
        [sys.executable, "-m", "kafka_webhook_bridge.cli", "verify", "--jsonl"],
        input=lines, env={}, capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(answers) == 945
    assert [answer["id"] for answer in answers] == [vector["id"] for vector in VECTORS]
    wrong = [a for a, v in zip(answers, VECTORS, strict=True) if a["verified"] is not v["expected"]]
    assert wrong == []
    assert all(set(answer) == {"id", "verified", "code"} for answer in answers)
    assert done.stderr == ""


def test_rule_33_headers_are_an_object_or_pairs() -> None:
    pairs = [[name, value] for name, value in GITHUB["headers"].items()]
    listed = {name: [value] for name, value in GITHUB["headers"].items()}
    twice = [*pairs, ["x-hub-signature-256", "sha256=00"]]
    several = {**GITHUB["headers"], "X-Hub-Signature-256": ["sha256=00", "sha256=01"]}
    answers = judged(*(json.dumps({**GITHUB, "headers": headers}) for headers in (pairs, listed, twice, several)))
    assert [answer["code"] for answer in answers] == ["ok", "ok", "header.duplicate", "header.duplicate"]


BROKEN: list[str | bytes] = [
    "",
    "not JSON",
    "[]",
    "null",
    "\ufffd",
    b"\xff\xfe",
    "[" * 100_000,
    '{"a":' * 5_000,
    *(
        json.dumps({**GITHUB, **change})
        for change in (
            {"profile": "no-such"}, {"profile": 7}, {"profile": None}, {"url": "ftp://x"}, {"url": "hooks"}, {"url": 1},
            {"method": "PO ST"}, {"headers": "x"}, {"headers": [["a"]]}, {"headers": {"a": 1}},
            {"headers": {"a": None}},
            {"headers": {"a\r\nb": "c"}}, {"headers": {"a": "b\r\nc: d"}}, {"body": 1}, {"body": {}},
            {"body_base64": "eHg="}, {"body": None, "body_base64": "e"}, {"body": None, "body_base64": "é"},
            {"secrets": "s"}, {"secrets": [1]}, {"now": "x"}, {"now": True}, {"now": 1e300}, {"params": []},
            {"jwks": 1}, {"jwks": {"keys": {}}}, {"jwks": {"keys": [1]}}, {"certs": {"a": 1}}, {"body": "\ud800"},
        )
    ),
]  # fmt: skip


def test_rule_33_a_broken_line_is_an_answer_of_its_own() -> None:
    """Each is answered in its place, and what follows is not disturbed."""
    lines = [line for broken in BROKEN for line in (broken, json.dumps(GITHUB))]
    answers = judged(*lines)
    assert len(answers) == len(lines)
    assert [answer["code"] for answer in answers[::2]] == ["input.invalid"] * len(BROKEN)
    assert [answer["code"] for answer in answers[1::2]] == ["ok"] * len(BROKEN)
    assert not any(answer["verified"] for answer in answers[::2])


def test_a_case_keeps_its_id_where_it_can_be_read() -> None:
    answers = judged(
        json.dumps({**GITHUB, "id": 7}), json.dumps({"id": "x", "profile": "no-such"}), json.dumps({**GITHUB, "id": {}})
    )
    assert [answer["id"] for answer in answers] == [7, "x", None]


def test_what_cannot_be_configured_is_a_verdict() -> None:
    empty, none, eleven = ({**GITHUB, "secrets": secrets} for secrets in ([""], [], ["s"] * 11))
    codes = [answer["code"] for answer in judged(*map(json.dumps, (empty, none, eleven)))]
    assert codes == ["key.malformed", "credentials.missing", "key.malformed"]


def test_a_case_without_a_time_is_judged_now() -> None:
    case = next(vector for vector in VECTORS if vector["profile"] == "stripe" and vector["expected"])
    answers: list[str] = []
    line = json.dumps({name: value for name, value in case.items() if name != "now"}).encode()
    judge_lines(io.BytesIO(line), Catalog(), lambda: case["now"], answers.append)
    judge_lines(io.BytesIO(line), Catalog(), lambda: case["now"] + 86_400, answers.append)
    assert [json.loads(answer)["code"] for answer in answers] == ["ok", "timestamp.old"]


def test_lines_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cases, "LINE_BYTES_MAX", 10)
    data = b"0123456789\r\n0123456789x\n" + b"y" * 200_000 + b"\nshort\n\n0123456789x"
    assert list(bounded_lines(io.BytesIO(data))) == [b"0123456789", None, None, b"short", b"", None]
    assert LINE_BYTES_MAX > 10 * 1024**2 * 4 / 3


def test_each_line_is_answered_before_the_next_is_needed(tmp_path: Path) -> None:
    """The command can stand behind a program that waits for each verdict."""
    with subprocess.Popen(
        [sys.executable, "-m", "kafka_webhook_bridge.cli", "verify", "--jsonl"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdin
        assert process.stdout
        for _ in range(2):
            process.stdin.write(json.dumps(GITHUB) + "\n")
            process.stdin.flush()
            assert json.loads(process.stdout.readline())["code"] == "ok"
        process.stdin.close()
        assert process.wait(60) == 0


def test_cases_come_from_a_file_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "cases.jsonl"
    file.write_text(json.dumps(GITHUB))
    assert main(["verify", "--jsonl", str(file)]) == 0
    assert json.loads(capsys.readouterr().out) == {"id": GITHUB["id"], "verified": True, "code": "ok"}
    assert main(["verify", "--jsonl", str(tmp_path / "none")]) == 2
