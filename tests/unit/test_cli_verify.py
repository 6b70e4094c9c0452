"""`kwb verify`: verdicts on cases a line, and why a signature fails."""

from __future__ import annotations

import base64
import contextlib
import hmac
import io
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kafka_webhook_bridge.cli import cases, main
from kafka_webhook_bridge.cli.cases import LINE_BYTES_MAX, bounded_lines, judge_lines
from kafka_webhook_bridge.sources.catalog import Catalog
from kafka_webhook_bridge.sources.verify import case
from kafka_webhook_bridge.sources.verify.case import CaseError
from kafka_webhook_bridge.sources.verify.saved import parse_saved

VECTORS = json.loads((Path(__file__).parents[1] / "data" / "providers" / "vectors.json").read_text())["vectors"]
GITHUB = VECTORS[0]
CATALOG = Catalog()
VECTORS_BY_ID = {vector["id"]: vector for vector in VECTORS}


def judged(*lines: str | bytes) -> list[dict[str, Any]]:
    """The answers of the command's inside to these lines."""
    data = b"".join((line.encode() if isinstance(line, str) else line) + b"\n" for line in lines)
    answers: list[str] = []
    faults: list[str] = []
    assert judge_lines(io.BytesIO(data), CATALOG, time.time, answers.append, faults.append) == 0, faults
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
            {"body": None, "body_base64": "eH*g="},
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


@pytest.mark.parametrize(
    ("url", "parts"),
    [
        ("https://a.example", ("https://a.example", b"", None)),
        ("https://a.example?x=1", ("https://a.example", b"", b"x=1")),
        ("https://u:p@a.example:8443/b//c?", ("https://u:p@a.example:8443", b"/b//c", b"")),
        ("HTTP://A.example/%2F?a=?b", ("HTTP://A.example", b"/%2F", b"a=?b")),
        ("https://[::1]:8080/x", ("https://[::1]:8080", b"/x", None)),
        ("https://a.example/é", ("https://a.example", "/é".encode(), None)),
        ("", (None, b"/", None)),
    ],
)
def test_an_address_is_taken_apart_and_nothing_is_changed(
    url: str, parts: tuple[str | None, bytes, bytes | None]
) -> None:
    assert case.split_url(url) == parts
    base, path, query = parts
    whole = (base or "") + path.decode() + ("" if query is None else "?" + query.decode())
    assert whole == (url or "/")


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
    stripe = next(vector for vector in VECTORS if vector["profile"] == "stripe" and vector["expected"])
    answers: list[str] = []
    line = json.dumps({name: value for name, value in stripe.items() if name != "now"}).encode()
    judge_lines(io.BytesIO(line), CATALOG, lambda: stripe["now"], answers.append, answers.append)
    judge_lines(io.BytesIO(line), CATALOG, lambda: stripe["now"] + 86_400, answers.append, answers.append)
    assert [json.loads(answer)["code"] for answer in answers] == ["ok", "timestamp.old"]


def test_lines_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cases, "LINE_BYTES_MAX", 10)
    data = b"0123456789\r\n0123456789x\n" + b"y" * 200_000 + b"\nshort\n\n0123456789x"
    assert list(bounded_lines(io.BytesIO(data))) == [b"0123456789", None, None, b"short", b"", None]
    assert LINE_BYTES_MAX > 10 * 1024**2 * 4 / 3


def test_a_fault_of_the_engine_does_not_cost_the_lines_behind_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = case.judge

    def judge(profile: Any, one: case.Case, now: float) -> Any:
        return 1 / 0 if one.request.body == b"boom" else real(profile, one, now)

    monkeypatch.setattr(case, "judge", judge)
    file = tmp_path / "cases.jsonl"
    file.write_text("\n".join(json.dumps(one) for one in (GITHUB, {**GITHUB, "body": "boom"}, GITHUB)))
    assert main(["verify", "--jsonl", str(file)]) == 1
    said = capsys.readouterr()
    assert [json.loads(line)["code"] for line in said.out.splitlines()] == ["ok", "input.invalid", "ok"]
    assert "line 2: a fault of the engine: ZeroDivisionError" in said.err


ODD = ["\x00", "\r\n", "=", ",", "t=", "v1=", "é", "\u2028", "9" * 40, "-1", "1e9"]
TEXT = st.text(max_size=20) | st.sampled_from(ODD)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)


@given(data=st.data())
@settings(max_examples=200, deadline=None)
def test_whatever_a_case_holds_it_gets_a_verdict(data: st.DataObject) -> None:
    """No member of a case, nor a header of it, can make the engine fail (`judged` tells of faults)."""
    vector = dict(data.draw(st.sampled_from(VECTORS)))
    headers = dict(vector["headers"])
    for name in data.draw(st.lists(st.sampled_from(sorted(headers)), max_size=2)) if headers else []:
        headers[name] = data.draw(TEXT | st.just(VECTORS_BY_ID[vector["id"]]["headers"][name][:-3]) | JSON)
    vector["headers"] = headers
    for member in data.draw(st.lists(st.sampled_from(sorted(set(vector) - {"headers", "profile"})), max_size=3)):
        vector[member] = data.draw(JSON)
    (answer,) = judged(json.dumps(vector))
    assert answer["verified"] is (answer["code"] == "ok")


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


# ---- one request: the doctor -----------------------------------------------------------------------------------------

SECRET = "8f3c0a51b2d94e6f"
BODY = b'{"id":1,"total":"2.00"}'
NOW = 1_760_000_000


def raw(body: bytes = BODY, *, sent: bytes = BODY, secret: str = SECRET, end: bytes = b"\r\n") -> bytes:
    """A saved request of Shopify."""
    digest = base64.b64encode(hmac.digest(secret.encode(), sent, "sha256"))
    lines = [
        b"POST /shop HTTP/1.1", b"Host: hooks.example.com", b"Content-Type: application/json",
        b"X-Shopify-Hmac-Sha256: " + digest, b"", b"",
    ]  # fmt: skip
    return end.join(lines) + body


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(("KWB_", "WEBHOOK_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("SHOP_SECRET", SECRET)
    monkeypatch.setenv("COLUMNS", "250")


def doctor(
    tmp_path: Path, data: bytes, capsys: pytest.CaptureFixture[str], *arguments: str, code: int
) -> dict[str, Any]:
    """What `kwb verify --json` says of a saved request. No secret is ever in it."""
    file = tmp_path / "request.http"
    file.write_bytes(data)
    assert main(["verify", str(file), *arguments, "--json"]) == code
    said = capsys.readouterr()
    assert SECRET not in said.out + said.err
    return dict(json.loads(said.out)) if code < 2 else {"error": said.err}


def test_a_right_request_ends_with_0(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for end in (b"\r\n", b"\n"):
        found = doctor(tmp_path, raw(end=end), capsys, "-p", "shopify", "--secret-env", "SHOP_SECRET", code=0)
        assert found == {
            "verified": True, "code": "ok", "detail": "", "profile": "shopify", "secret": "SHOP_SECRET",
            "findings": [], "tries": 1, "body_bytes": 23,
        }  # fmt: skip


def test_a_wrong_request_ends_with_1_and_says_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = doctor(tmp_path, raw(BODY + b"\n"), capsys, "-p", "shopify", "--secret-env", "SHOP_SECRET", code=1)
    assert [(finding["code"], finding["proved"]) for finding in found["findings"]] == [("body.newline_added", True)]
    assert main(["verify", str(tmp_path / "request.http"), "-p", "shopify", "--secret-env", "SHOP_SECRET"]) == 1
    said = capsys.readouterr().out
    assert "wrong: signature.mismatch" in said
    assert "a line feed was added at the end of the body" in said
    assert "→ " in said


def test_the_body_is_taken_to_the_byte(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    body = bytes(range(256)) + b"\r\n\r\n\n"
    doctor(tmp_path, raw(body, sent=body), capsys, "-p", "shopify", "--secret-env", "SHOP_SECRET", code=0)


def test_standard_input_and_a_secret_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(f"{SECRET}\n")
    done = subprocess.run(
        [sys.executable, "-m", "kafka_webhook_bridge.cli", "verify", "-p", "shopify", "--secret-file",
         str(tmp_path / "secret")],
        input=raw(), env={}, capture_output=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert b"right: this is a request of shopify" in done.stdout


def test_curl_marks_chunks_and_an_absolute_target(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    head, _, body = raw().partition(b"\r\n\r\n")
    marked = b"".join(b"> " + line + b"\r\n" for line in head.split(b"\r\n")) + b"> \r\n" + body
    chunks = (
        head
        + b"\r\nTransfer-Encoding: chunked\r\n\r\n"
        + b"5\r\n"
        + body[:5]
        + b"\r\n12\r\n"
        + body[5:]
        + b"\r\n0\r\n\r\n"
    )
    absolute = raw().replace(b"POST /shop", b"POST https://hooks.example.com/shop")
    for data in (marked, chunks, absolute):
        doctor(tmp_path, data, capsys, "-p", "shopify", "--secret-env", "SHOP_SECRET", code=0)


def test_a_vector_is_a_case_for_the_doctor_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    doctor(tmp_path, json.dumps(GITHUB).encode(), capsys, code=0)
    late = {**GITHUB, "profile": "standard-webhooks-v1"}
    assert doctor(tmp_path, json.dumps(late).encode(), capsys, code=1)["code"] == "header.missing"


def test_the_time_of_receipt(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    digest = hmac.digest(SECRET.encode(), b"v0:%d:%s" % (NOW, BODY), "sha256").hex()
    data = f"POST /slack HTTP/1.1\nX-Slack-Request-Timestamp: {NOW}\nX-Slack-Signature: v0={digest}\n\n".encode() + BODY
    arguments = ("-p", "slack", "--secret-env", "SHOP_SECRET")
    assert doctor(tmp_path, data, capsys, *arguments, code=1)["code"] == "timestamp.old"
    for at in (str(NOW + 10), "2025-10-09T08:53:30Z", "2025-10-09T10:53:30+02:00", "2025-10-09T08:53:30"):
        doctor(tmp_path, data, capsys, *arguments, "--at", at, code=0)
    assert doctor(tmp_path, data, capsys, *arguments, "--at", str(NOW - 301), code=1)["code"] == "timestamp.future"


def test_the_address_of_a_signature(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    url = "https://hooks.example.com/in?a=1"
    digest = base64.b64encode(hmac.digest(SECRET.encode(), url.encode() + BODY, "sha256")).decode()
    head = f"POST /prefix/in?a=1 HTTP/1.1\r\nHost: internal:8080\r\nX-Square-HmacSha256-Signature: {digest}\r\n\r\n"
    data, arguments = head.encode() + BODY, ("-p", "square", "--secret-env", "SHOP_SECRET")
    doctor(tmp_path, data, capsys, *arguments, "--url", "https://hooks.example.com/in", code=0)
    doctor(tmp_path, data, capsys, *arguments, "--url", url, code=0)
    assert doctor(tmp_path, data, capsys, *arguments, code=1)["code"] == "signature.mismatch"
    found = doctor(tmp_path, data, capsys, *arguments, "--url", "http://hooks.example.com/in", code=1)
    assert [finding["code"] for finding in found["findings"]] == ["url.other"]
    assert url in found["findings"][0]["what"]


def test_public_keys_by_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case = next(vector for vector in VECTORS if "jwks" in vector and vector["expected"])
    given = {name: value for name, value in case.items() if name != "jwks"}
    assert doctor(tmp_path, json.dumps(given).encode(), capsys, code=1)["code"] == "key.unknown"
    (tmp_path / "keys.json").write_text(json.dumps(case["jwks"]))
    doctor(tmp_path, json.dumps(given).encode(), capsys, "--jwks", str(tmp_path / "keys.json"), code=0)
    signed = next(vector for vector in VECTORS if vector.get("certs") and vector["expected"])
    ((address, pem),) = signed["certs"].items()
    (tmp_path / "cert.pem").write_text(pem)
    given = {name: value for name, value in signed.items() if name != "certs"}
    certificate = f"{address}={tmp_path / 'cert.pem'}"
    doctor(tmp_path, json.dumps(given).encode(), capsys, "--cert", certificate, code=0)


CONFIG = """
sources:
  shop: {profile: shopify, secrets: ["${SHOP_SECRET}"]}
  other: {profile: shopify, secrets: ["another-secret"]}
  erp: {auth: basic, username: u, password: p}
"""


def test_a_source_of_bridge_yaml(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bridge.yaml").write_text(CONFIG)
    monkeypatch.setenv("KWB_CONFIG", str(tmp_path / "bridge.yaml"))
    found = doctor(tmp_path, raw(), capsys, "--source", "shop", code=0)
    assert found["secret"] == "secret 1 of shop"
    found = doctor(tmp_path, raw(), capsys, "--source", "other", code=1)
    assert found["findings"][0]["what"] == "it is signed with another secret: secret 1 of shop"
    assert "there are: shop, other" in doctor(tmp_path, raw(), capsys, "--source", "erp", code=2)["error"]


@pytest.mark.parametrize(
    ("data", "arguments", "words"),
    [
        (raw(), [], "which sender is it?"),
        (raw(), ["-p", "shopfy"], "did you mean shopify"),
        (raw(), ["-p", "shopify", "--secret-env", "NOT_SET_HERE"], "NOT_SET_HERE is not set"),
        (raw(), ["-p", "shopify", "--secret-file", "/no/such/file"], "No such file"),
        (raw(), ["-p", "shopify", "--at", "yesterday"], "neither Unix seconds"),
        (raw(), ["-p", "shopify", "--url", "hooks"], "no http or https address"),
        (raw(), ["-p", "shopify", "--param", "x"], "NAME=VALUE"),
        (raw(), ["-p", "shopify", "--cert", "x"], "ADDRESS=FILE"),
        (raw(), ["-p", "shopify", "--source", "shop"], "exclude each other"),
        (b"", ["-p", "shopify"], "nothing to read"),
        (b"hello\n\nworld", ["-p", "shopify"], "line 1 is no request line"),
        (b"POST / HTTP/1.1\nHost: a\nno colon\n\n", ["-p", "shopify"], "line 3 is no header"),
        (b"{nonsense", ["-p", "shopify"], "is not JSON"),
        (b'{"headers": 1}', ["-p", "shopify"], "`headers` are"),
    ],
)
def test_wrong_use_ends_with_2(
    data: bytes, arguments: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert words in doctor(tmp_path, data, capsys, *arguments, code=2)["error"]


def test_without_a_secret_it_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = doctor(tmp_path, raw(), capsys, "-p", "shopify", code=1)
    assert found["code"] == "credentials.missing"


@given(data=st.binary(max_size=300) | st.binary(max_size=100).map(lambda tail: raw()[:90] + tail))
@settings(max_examples=150, deadline=None)
def test_any_bytes_are_a_request_or_are_told_why_not(data: bytes) -> None:
    with contextlib.suppress(CaseError):
        assert parse_saved(data).method


@given(data=st.binary(max_size=60), host=st.text("[]:.%@/ ab1\\", max_size=8))
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_doctor_comes_to_an_end(tmp_path_factory: pytest.TempPathFactory, data: bytes, host: str) -> None:
    file = tmp_path_factory.getbasetemp() / "any.http"
    head = f"POST /in?{host.replace(' ', '')} HTTP/1.1\r\nHost: {host}\r\nX-Square-HmacSha256-Signature: AAAA\r\n\r\n"
    file.write_bytes(head.encode() + data)
    assert main(["verify", str(file), "-p", "square", "--secret-env", "SHOP_SECRET", "--json"]) == 1
    url = f"https://{host}/x"
    assert main(["verify", str(file), "-p", "square", "--secret-env", "SHOP_SECRET", "--url", url, "--json"]) in (1, 2)
