"""`kwb send` against a server whose answers the test writes."""

from __future__ import annotations

import asyncio
import hashlib
import json
import resource
import shutil
import signal
import ssl
import subprocess
import sys
import time
from base64 import b64decode
from pathlib import Path
from typing import Any

import pytest
from send_server import RECEIPT, Seen, always, answer, never, serving

from kafka_webhook_bridge.cli import main, openloop
from kafka_webhook_bridge.cli.openloop import Latencies, Plan

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (len(RECEIPT), RECEIPT)


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEBHOOK_USERNAME", "hooks")
    monkeypatch.setenv("WEBHOOK_PASSWORD", "pä:ss")


def send(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> dict[str, Any]:
    """The result of `kwb send github … --json`."""
    assert main(["send", "github", *arguments, "--json"]) == code
    return dict(json.loads(capsys.readouterr().out))


def lines(path: Path) -> list[dict[str, Any]]:
    """The whole lines: one that is being written just now is seen in part."""
    return [json.loads(line) for line in path.read_text().split("\n")[:-1]]


def test_one_request_prints_the_receipt(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    body = tmp_path / "push.json"
    body.write_bytes(b'{"ref":"refs/heads/main"}\n')
    with serving(always(answer())) as server:
        assert main(["send", "github", "--url", server.url, "--body", str(body), "--path", "/any?x=1"]) == 0
    assert "0196e0a2-0000-7000-8000-000000000001" in capsys.readouterr().out
    (request,) = server.seen
    assert request.line == "POST /github/any?x=1 HTTP/1.1"
    assert request.body == body.read_bytes()
    assert request.header("content-type") == ["application/json"]
    assert request.header("host") == [server.url.removeprefix("http://")]
    assert b64decode(request.header("authorization")[0].removeprefix("Basic ")).decode() == "hooks:pä:ss"


def test_every_made_body_is_unique_and_as_large_as_asked(capsys: pytest.CaptureFixture[str]) -> None:
    with serving(always(answer())) as server:
        result = send(capsys, "--url", server.url, "--count", "50", "--connections", "4", "--size", "2KiB")
    bodies = {request.body for request in server.seen}
    assert len(bodies) == result["accepted"] == 50
    assert {len(body) for body in bodies} == {2048}
    assert len({json.loads(body)["id"] for body in bodies}) == 50
    assert server.connections <= 4


@pytest.mark.parametrize(
    ("wire", "found"),
    [
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n" % len(RECEIPT) + RECEIPT + b"\r\n0\r\n\r\n",
            True,
        ),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r\n" + answer(), True),
        (answer(204, b"").replace(b"Content-Length: 0\r\n", b""), False),
        (answer(202, b"not JSON"), False),
        (answer(200, RECEIPT, "Connection: close"), True),
    ],
    ids=["chunked", "interim", "no content", "text", "close"],
)
def test_every_way_to_answer_is_understood(wire: bytes, found: bool, capsys: pytest.CaptureFixture[str]) -> None:
    async def byte_by_byte(_: Seen, writer: asyncio.StreamWriter) -> None:
        for i in range(len(wire)):
            writer.write(wire[i : i + 1])
            await writer.drain()
        if b"close" in wire:
            writer.close()

    with serving(byte_by_byte) as server:
        result = send(capsys, "--url", server.url, "--count", "3")
        assert result["accepted"] == 3
        one = send(capsys, "--url", server.url)
    assert bool(one["answer"]) == found


def test_a_body_that_ends_with_the_connection_is_an_answer(capsys: pytest.CaptureFixture[str]) -> None:
    async def reply(_: Seen, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n" + RECEIPT)
        writer.close()

    with serving(reply) as server:
        assert send(capsys, "--url", server.url, "--count", "3")["accepted"] == 3


def test_the_answer_to_head_has_no_body(capsys: pytest.CaptureFixture[str]) -> None:
    with serving(always(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n")) as server:
        assert send(capsys, "--url", server.url, "--method", "head")["accepted"] == 1
    assert server.seen[0].line == "HEAD /github HTTP/1.1"
    assert server.seen[0].header("content-length") == []


def test_a_stalled_server_is_charged_for_all_who_were_due(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """No coordinated omission: while the first request stalls for 10 s (of the injected clock), 99 others fall due."""
    offset_s = 0.0
    monkeypatch.setattr(openloop, "clock", lambda: time.perf_counter() + offset_s)

    async def reply(_: Seen, writer: asyncio.StreamWriter) -> None:
        nonlocal offset_s
        offset_s = 10.0
        writer.write(answer())

    with serving(reply) as server:
        plan = ["--rate", "10/s", "--count", "100", "--arrivals", "fixed", "--connections", "1", "--timeout", "1h"]
        result = send(capsys, "--url", server.url, *plan)
    assert result["accepted"] == 100
    assert result["latency_ms"]["max"] >= 10_000
    assert result["latency_ms"]["p50"] >= 5_000  # request 50 was due at 5 s and sent at 10 s
    assert result["lateness_ms"]["p50"] >= 4_900


@pytest.mark.parametrize("arrivals", ["fixed", "poisson"])
def test_the_schedule_has_the_rate_and_does_not_run_backwards(arrivals: openloop.Arrivals) -> None:
    due = list(Plan(rate=1000, duration_s=20, arrivals=arrivals).schedule())
    assert due == sorted(due)
    assert len(due) == pytest.approx(20_000, rel=0.05)  # seven standard deviations of a Poisson process
    assert due[-1] < 20
    assert len(list(Plan(rate=1000, duration_s=20, count=7, arrivals=arrivals).schedule())) == 7


def test_rule_16_a_request_is_on_file_before_its_bytes_are_sent(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    journal, missing = tmp_path / "receipts.jsonl", []

    async def reply(request: Seen, writer: asyncio.StreamWriter) -> None:
        digest = hashlib.sha256(request.body).hexdigest()
        on_file = [line for line in lines(journal) if line["op"] == "invoke" and line["body_sha256"] == digest]
        if [line["id"] for line in on_file] != [json.loads(request.body)["id"]]:
            missing.append(request)
        writer.write(answer())

    with serving(reply) as server:
        send(capsys, "--url", server.url, "--count", "40", "--connections", "5", "--receipts", str(journal))
    assert missing == []
    found = lines(journal)
    assert found[0]["op"] == "start"
    assert (found[0]["source"], found[0]["url"]) == ("github", f"{server.url}/github")
    assert found[-1]["op"] == "end"
    assert [found[-1][name] for name in ("complete", "invoked", "ok", "fail", "info")] == [True, 40, 40, 0, 0]
    outcomes = [line for line in found if line["op"] == "ok"]
    assert sorted(line["seq"] for line in outcomes) == list(range(40))
    assert {line["event_id"] for line in outcomes} == {"0196e0a2-0000-7000-8000-000000000001"}


def test_rule_16_refused_and_unknown_outcomes_are_kept_apart(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    problem = b'{"code":"deliver.timeout","event_id":"0196e0a2-0000-7000-8000-000000000002"}'
    replies = iter([answer(401, b'{"code":"auth.wrong"}'), answer(503, problem), b"", answer(200)])

    async def reply(_: Seen, writer: asyncio.StreamWriter) -> None:
        writer.write(data := next(replies))
        if not data:
            writer.close()

    journal = tmp_path / "receipts.jsonl"
    with serving(reply) as server:
        result = send(capsys, "--url", server.url, "--count", "4", "--receipts", str(journal), code=1)
    found = lines(journal)
    outcomes = {line["seq"]: line for line in found if line["op"] in {"ok", "fail", "info"}}
    assert [outcomes[seq]["op"] for seq in range(4)] == ["fail", "info", "info", "ok"]
    assert (outcomes[0]["status"], outcomes[0]["code"]) == (401, "auth.wrong")
    assert outcomes[1]["event_id"] == "0196e0a2-0000-7000-8000-000000000002"
    assert outcomes[2]["reason"] == "connection closed before the answer"
    assert found[-1]["complete"] is True
    assert result["status"] == {"200": 1, "401": 1, "503": 1}
    assert result["codes"] == {"auth.wrong": 1, "deliver.timeout": 1}
    assert result["unknown"] == 1


def test_rule_16_receipts_are_never_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    journal = tmp_path / "receipts.jsonl"
    journal.write_text("precious\n")
    with serving(always(answer())) as server:
        assert main(["send", "github", "--url", server.url, "--receipts", str(journal)]) == 2
    assert journal.read_text() == "precious\n"
    assert server.seen == []
    assert "exists" in capsys.readouterr().err


def kwb(*arguments: str, **options: Any) -> subprocess.Popen[bytes]:
    """`kwb send github …` as a process of its own."""
    command = [sys.executable, "-m", "kafka_webhook_bridge.cli", "send", "github", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)


def test_rule_16_what_cannot_be_journalled_is_not_sent(tmp_path: Path) -> None:
    journal = tmp_path / "receipts.jsonl"
    with serving(always(answer())) as server:
        process = kwb(
            "--url", server.url, "--count", "50", "--receipts", str(journal),
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000)),
        )  # fmt: skip
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert b"File too large" in errors
    whole = journal.read_text().splitlines(keepends=True)
    invoked = [line for line in whole if line.endswith("\n") and '"invoke"' in line]
    assert 0 < len(server.seen) == len(invoked) < 50
    assert '"end"' not in whole[-1]


def test_rule_16_a_killed_run_leaves_its_last_request_on_file_and_does_not_claim_to_be_complete(tmp_path: Path) -> None:
    journal = tmp_path / "receipts.jsonl"
    with serving(never) as server:
        process = kwb("--url", server.url, "--receipts", str(journal))
        server.wait_for(1)
        process.kill()
        process.communicate(timeout=30)
    found = lines(journal)
    assert [line["op"] for line in found] == ["start", "invoke"]
    assert found[1]["body_sha256"] == hashlib.sha256(server.seen[0].body).hexdigest()


def test_ctrl_c_ends_early_and_reports(tmp_path: Path) -> None:
    journal = tmp_path / "receipts.jsonl"
    with serving(always(answer())) as server:
        process = kwb("--url", server.url, "--rate", "200", "--duration", "1h", "--json", "--receipts", str(journal))
        server.wait_for(20)
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=60)
    result = json.loads(output)
    assert process.returncode == 0
    assert result["interrupted"] is True
    assert result["accepted"] == result["sent"] == len(server.seen) >= 20
    assert lines(journal)[-1]["complete"] is True


def test_a_second_ctrl_c_does_not_wait_for_answers() -> None:
    with serving(never) as server:
        process = kwb("--url", server.url, "--rate", "100", "--duration", "1h", "--timeout", "1h", "--json")
        server.wait_for(3)
        while process.poll() is None:  # the first ends the schedule, the second the waiting
            process.send_signal(signal.SIGINT)
            try:
                process.wait(5)  # long enough that a third never meets an interpreter on its way out
            except subprocess.TimeoutExpired:
                continue
        output, _ = process.communicate(timeout=30)
    result = json.loads(output)
    assert process.returncode == 1
    assert result["no_answer"] == {"interrupted": result["sent"]}


def test_no_answer_in_time_is_unknown_and_the_connection_is_given_up(capsys: pytest.CaptureFixture[str]) -> None:
    with serving(never) as server:
        result = send(capsys, "--url", server.url, "--count", "2", "--timeout", "50ms", code=1)
    assert result["no_answer"] == {"timeout": 2}
    assert result["accepted"] == 0
    assert server.connections == 2


def test_what_is_not_http_is_unknown(capsys: pytest.CaptureFixture[str]) -> None:
    with serving(always(b"SSH-2.0-OpenSSH_9.9\r\n")) as server:
        result = send(capsys, "--url", server.url, code=1)
    assert result["no_answer"] == {"the answer is not HTTP": 1}


def test_a_schedule_that_the_server_cannot_carry_is_counted_as_unsent(capsys: pytest.CaptureFixture[str]) -> None:
    with serving(never) as server:
        plan = ["--rate", "100", "--count", "20", "--arrivals", "fixed", "--connections", "1", "--timeout", "100ms"]
        result = send(capsys, "--url", server.url, *plan, code=1)
    assert result["sent"] + result["unsent"] == 20
    assert result["unsent"] > 0


def test_nobody_listens(capsys: pytest.CaptureFixture[str]) -> None:
    with serving(never) as server:
        url = server.url  # free again after the block
    assert main(["send", "github", "--url", url]) == 1
    errors = capsys.readouterr().err
    assert url in errors
    assert "kwb up" in errors


def test_wrong_credentials_exit_with_1_and_say_where_they_come_from(capsys: pytest.CaptureFixture[str]) -> None:
    with serving(always(answer(401, b'{"code":"auth.wrong","title":"Unauthorized"}'))) as server:
        assert main(["send", "github", "--url", server.url]) == 1
    captured = capsys.readouterr()
    assert "auth.wrong" in captured.out
    assert "WEBHOOK_PASSWORD" in captured.err
    assert "pä:ss" not in captured.out + captured.err


def test_without_credentials_nothing_is_claimed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("WEBHOOK_USERNAME")
    monkeypatch.delenv("WEBHOOK_PASSWORD")
    with serving(always(answer())) as server:
        send(capsys, "--url", server.url, "--header", "X-GitHub-Event: push", "-H", "user-agent: mine")
    (request,) = server.seen
    assert request.header("authorization") == []
    assert request.header("x-github-event") == ["push"]
    assert request.header("user-agent") == ["mine"]


def test_a_hostile_answer_cannot_move_the_cursor(capsys: pytest.CaptureFixture[str]) -> None:
    with serving(always(answer(400, b'{"code":"http.malformed","detail":"\\u001b[2J"}'))) as server:
        assert main(["send", "github", "--url", server.url]) == 1
    assert "\x1b" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--rate", "fast"], "--rate"),
        (["--rate", "0"], "--rate"),
        (["--duration", "soon"], "--duration"),
        (["--size", "12"], "--size"),
        (["--size", "many"], "--size"),
        (["--arrivals", "random"], "--arrivals"),
        (["--body", "no-such-file"], "no-such-file"),
        (["--body", "x", "--size", "1KiB"], "exclude"),
        (["--header", "nonsense"], "Name: value"),
        (["--header", "X-A: a\r\nX-B: b"], "line ends"),
        (["--header", "Authorization: Basic c2VjcmV0"], "WEBHOOK_PASSWORD"),
        (["--header", "Content-Length: 3"], "Content-Length"),
        (["--method", "P OST"], "method"),
        (["--path", "/ä"], "--path"),
        (["--path", "/a b"], "--path"),
        (["--url", "ftp://x"], "URL"),
        (["--url", "http://u:p@127.0.0.1"], "credentials"),
        (["--url", "http://127.0.0.1:99999"], "URL"),
        (["--url", "https://127.0.0.1", "--ca", "no-such-file"], "no-such-file"),
        (["--count", "0"], "count"),
    ],
)
def test_wrong_use_is_told_before_anything_is_sent(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["send", "github", *arguments]) == 2
    errors = capsys.readouterr().err
    assert words in errors
    assert "c2VjcmV0" not in errors


@pytest.mark.skipif(shutil.which("openssl") is None, reason="NOT RUN: no openssl here to make a certificate")
def test_https_with_an_authority_of_its_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-subj", "/CN=test", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)],
        check=True, capture_output=True,
    )  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with serving(always(answer()), context) as server:
        result = send(capsys, "--url", server.url, "--ca", str(certificate), "--count", "20", "--connections", "2")
        assert result["accepted"] == 20
        assert main(["send", "github", "--url", server.url]) == 1
    assert "--ca" in capsys.readouterr().err


def test_percentiles_are_within_a_percent() -> None:
    latencies = Latencies()
    for micros in range(1, 100_001):
        latencies.add(micros / 1e6)
    for quantile in (0.001, 0.5, 0.9, 0.99, 0.999):
        assert latencies.percentile_s(quantile) == pytest.approx(quantile * 0.1, rel=0.01)
    assert latencies.percentile_s(1) == latencies.max_s == 0.1
    assert Latencies().milliseconds()["p99"] == 0


def test_standard_input_is_sent_as_it_is(tmp_path: Path) -> None:
    with serving(always(answer())) as server:
        process = kwb("--url", server.url, "--body", "-", "--content-type", "text/xml", stdin=subprocess.PIPE)
        process.communicate(b"\x00\xff<a/>\r\n", timeout=60)
    assert process.returncode == 0
    assert server.seen[0].body == b"\x00\xff<a/>\r\n"
    assert server.seen[0].header("content-type") == ["text/xml"]


def test_the_default_address_is_that_of_the_settings(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving(always(answer())) as server:
        monkeypatch.setenv("KWB_INGEST_HOST", "0.0.0.0")
        monkeypatch.setenv("KWB_INGEST_PORT", str(server.port))
        assert send(capsys)["url"] == f"{server.url}/github"
