"""One event, one line; nothing that a sender controls gets out of it; nobody waits for the reader."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from kafka_webhook_bridge.errors import NOT_DURABLE, UNAUTHORIZED, KafkaError
from kafka_webhook_bridge.observability import logs, metrics
from kafka_webhook_bridge.settings import LogSettings

HOSTILE = (
    "line\nbreak", "carriage\rreturn", "\x1b[31mred\x1b[0m", "rtl \u202e txt.exe", "bell\x07", "nul\x00", "c1 \x9b31m",
    "ls\u2028ps\u2029", 'quote" , "level":"info', "lone \ud800 surrogate", "zero\u200bwidth", "\ufeffbom",
)  # fmt: skip
FORBIDDEN = {*map(chr, range(32)), *map(chr, range(0x7F, 0xA0)), *"\u2028\u2029\u202e\u200b\ufeff"}
log = logs.get_logger("test")


class Pipe:
    """What standard error's reader sees."""

    def __init__(self) -> None:
        self.read_fd, self.write_fd = os.pipe()
        self._chunks: list[bytes] = []
        self._thread = threading.Thread(target=self._read)

    def start(self) -> None:
        self._thread.start()

    def _read(self) -> None:
        while chunk := os.read(self.read_fd, 65_536):
            self._chunks.append(chunk)

    def text(self) -> str:
        """Everything written; ends the pipe."""
        logs.close()
        os.close(self.write_fd)
        self._thread.join()
        os.close(self.read_fd)
        return b"".join(self._chunks).decode()


@pytest.fixture
def configured() -> Iterator[Callable[..., Pipe]]:
    handlers, level = list(logging.getLogger().handlers), logging.getLogger().level

    def configure(**settings: Any) -> Pipe:
        pipe = Pipe()
        logs.configure(LogSettings(**{"format": "json", **settings}), "ingest-0", fd=pipe.write_fd)
        return pipe

    yield configure
    logs._use(LogSettings(level="warning"), "kwb", 2)
    root = logging.getLogger()
    root.handlers[:] = handlers
    root.setLevel(level)


def parsed(pipe: Pipe) -> list[dict[str, Any]]:
    return [json.loads(line) for line in pipe.text().splitlines()]


def test_hostile_strings_stay_on_one_line_of_valid_json(configured: Callable[..., Pipe]) -> None:
    pipe = configured()
    pipe.start()
    for text in HOSTILE:
        log.info("request", path=text, nested={text: [text]}, raw=text.encode("utf-8", "surrogatepass"))
        log.info(text)
    text = pipe.text()
    lines = text.removesuffix("\n").split("\n")
    assert len(lines) == 2 * len(HOSTILE)
    for line in lines:
        found = json.loads(line)
        assert (found["process"], found["level"], found["room"]) == ("ingest-0", "info", "test")
        assert not FORBIDDEN & set(line)
        assert not FORBIDDEN & set("".join(str(value) for value in found.values()))


def test_hostile_strings_stay_on_one_line_of_a_terminal(configured: Callable[..., Pipe]) -> None:
    pipe = configured(format="console")
    pipe.start()
    for text in HOSTILE:
        log.info("request", path=text)
    lines = pipe.text().removesuffix("\n").split("\n")
    assert len(lines) == len(HOSTILE)
    assert not FORBIDDEN & set("".join(lines))


@given(st.text())
def test_escape_leaves_no_control_character(text: str) -> None:
    escaped = logs.escape(text)
    assert not FORBIDDEN & set(escaped)
    escaped.encode()  # no lone surrogate either


@given(st.binary())
def test_a_path_is_printable_ascii_when_escaped(path: bytes) -> None:
    text = logs.escape(logs.path_text(path))
    assert text.removesuffix("…").isascii()
    assert text.isprintable()


def test_one_canonical_line_for_a_refused_request(configured: Callable[..., Pipe]) -> None:
    pipe = configured()
    pipe.start()
    request = {"source": "erp", "method": b"POST", "path": b"/erp/\xff\r\n" + b"x" * 10_000, "peer": "192.0.2.7"}
    logs.request_refused(log, NOT_DURABLE, **request, event_id="0199", ms=1900.123, reason="_MSG_TIMED_OUT")
    logs.request_refused(log, UNAUTHORIZED, **request, ms=0.2)
    refused, rejected = parsed(pipe)
    assert refused["event"] == "request refused"
    assert (refused["code"], refused["status"], refused["event_id"]) == ("deliver.timeout", 503, "0199")
    assert (refused["source"], refused["method"], refused["peer"]) == ("erp", "POST", "192.0.2.7")
    assert (refused["ms"], refused["reason"]) == (1900.12, "_MSG_TIMED_OUT")
    assert refused["path"].startswith("/erp/\\xff\\r\\nxxx")
    assert len(refused["path"]) < 300
    assert (rejected["event"], rejected["code"]) == ("request rejected", "auth.wrong")
    assert "event_id" not in rejected


def test_secrets_are_never_written(configured: Callable[..., Pipe]) -> None:
    pipe = configured()
    pipe.start()
    canary = "canary-7f3a"
    log.info("x", value=SecretStr(canary), password=canary, headers={"Authorization": canary, "Cookie": [canary]})
    text = pipe.text()
    assert canary not in text
    assert text.count("[redacted]") == 4


def test_a_flood_of_lines_alike_is_bounded_and_accounted_for(configured: Callable[..., Pipe]) -> None:
    pipe = configured()
    pipe.start()
    dropped = metrics.registry().counter("kwb_log_lines_dropped_total", reason="rate")
    before = dropped.value
    for _ in range(5_000):
        logs.request_refused(log, UNAUTHORIZED, source="erp", method=b"POST", path=b"/", peer="192.0.2.7", ms=0.1)
    log.warning("something else")
    lines = parsed(pipe)
    written = [line for line in lines if line["event"] == "request rejected"]
    summaries = [line for line in lines if line["event"] == "lines left out"]
    assert len(written) + sum(line["count"] for line in summaries) == 5_000
    assert len(lines) < 200
    assert {line["code"] for line in summaries} == {"auth.wrong"}
    assert dropped.value - before == 5_000 - len(written)
    assert [line for line in lines if line["event"] == "something else"]


def test_the_throttle_grants_anew_as_time_passes() -> None:
    now = 0.0
    throttle = logs.Throttle(lambda: now)
    kind = logs.Kind("warning", "ingest", "request rejected", "auth.wrong")
    assert sum(throttle.allow(kind) for _ in range(100)) == logs.REPEATS_BURST
    now = 3.0
    assert sum(throttle.allow(kind) for _ in range(100)) == 3 * logs.REPEATS_PER_S
    assert throttle.summaries() == [(kind, 200 - logs.REPEATS_BURST - 3 * logs.REPEATS_PER_S)]
    assert throttle.summaries() == []


def test_the_kinds_that_the_throttle_remembers_are_bounded() -> None:
    throttle = logs.Throttle(lambda: 0.0)
    allowed = sum(throttle.allow(logs.Kind("warning", "x", f"event {n}")) for n in range(10_000))
    assert allowed == logs.REPEATS_KINDS_MAX + logs.REPEATS_BURST  # the others share one allowance
    assert len(throttle._kinds) <= logs.REPEATS_KINDS_MAX + 1


def test_a_stalled_reader_stops_nobody_and_loss_is_counted(configured: Callable[..., Pipe]) -> None:
    pipe = configured()  # nobody reads
    stalled = metrics.registry().counter("kwb_log_lines_dropped_total", reason="stalled")
    before = stalled.value
    lines = 2 * logs.QUEUE_BYTES_MAX // 1000
    for n in range(lines):
        log.info("filler", n=n, text="x" * 900)
    lost = stalled.value - before
    assert lost > 0
    pipe.start()  # and now somebody does
    numbers = [line["n"] for line in parsed(pipe)]
    assert numbers == sorted(numbers)
    assert len(numbers) + lost == lines


def test_an_exception_is_one_line_without_the_values_of_variables(configured: Callable[..., Pipe]) -> None:
    pipe = configured()
    pipe.start()
    hidden = "canary" + "-local"
    try:
        raise KafkaError("first\nsecond", hint="none")
    except KafkaError as error:
        log.exception("it failed", error=error)
    (line,) = parsed(pipe)
    assert line["error"] == "first\\nsecond"
    assert any("KafkaError: first" in part for part in line["traceback"])
    assert hidden not in json.dumps(line)


def test_exceptions_of_background_tasks_and_libraries_are_logged_alike(configured: Callable[..., Pipe]) -> None:
    pipe = configured()
    pipe.start()

    async def main() -> None:
        asyncio.get_running_loop().call_exception_handler({"message": "boom", "exception": ValueError("x\ny")})

    asyncio.run(main())
    logging.getLogger("uvicorn.error").info("hidden detail\n%s", "x")
    lines = parsed(pipe)
    assert [(line["room"], line["level"]) for line in lines] == [("asyncio", "error"), ("uvicorn.error", "info")]
    assert any("ValueError" in part for part in lines[0]["traceback"])


def test_levels_below_the_setting_are_not_written(configured: Callable[..., Pipe]) -> None:
    pipe = configured(level="error")
    pipe.start()
    log.warning("no")
    log.error("yes")
    assert [line["event"] for line in parsed(pipe)] == ["yes"]
