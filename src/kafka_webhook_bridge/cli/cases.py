"""`kwb verify --jsonl`: one case a line in, one verdict a line out (rules.md 33)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    from kafka_webhook_bridge.sources.catalog import Catalog

# A body of 10 MiB in base64, and room for the rest.
LINE_BYTES_MAX = 16 * 1024**2
INVALID = "input.invalid"


def judge_lines(
    stream: BinaryIO,
    catalog: Catalog,
    clock: Callable[[], float],
    write: Callable[[str], None],
    fault: Callable[[str], None],
) -> int:
    """Writes the verdict on each line of `stream`, in order; `clock` is for cases without `now`.

    A fault of the engine itself is no reason to leave the lines behind it without an answer: it is answered as input
    that cannot be read, and told by `fault`. Gives the number of faults.
    """
    faults = 0
    for number, line in enumerate(bounded_lines(stream), 1):
        try:
            answer = judge_line(line, catalog, clock)
        except Exception as error:
            faults += 1
            fault(f"line {number}: a fault of the engine: {type(error).__name__}: {error}")
            answer = {"id": None, "verified": False, "code": INVALID}
        write(_dumps(answer))
    return faults


def bounded_lines(stream: BinaryIO) -> Iterator[bytes | None]:
    """The lines without their ends; None for one that is longer than LINE_BYTES_MAX, of which no more is kept."""
    while line := stream.readline(LINE_BYTES_MAX + 2):
        if line.endswith(b"\n") or len(line) <= LINE_BYTES_MAX:
            line = line.removesuffix(b"\n").removesuffix(b"\r")
            yield line if len(line) <= LINE_BYTES_MAX else None
            continue
        while (rest := stream.readline(65536)) and not rest.endswith(b"\n"):
            pass
        yield None


def judge_line(line: bytes | None, catalog: Catalog, clock: Callable[[], float]) -> dict[str, Any]:
    """`{"id", "verified", "code"}` of one line."""
    import orjson

    from kafka_webhook_bridge.sources.catalog import UnknownProfile
    from kafka_webhook_bridge.sources.verify.case import CaseError, judge, parse_case

    case_id = None
    try:
        data = orjson.loads(line or b"")
        if isinstance(data, dict) and isinstance(data.get("id"), (str, int, float)):
            case_id = data["id"]
        case = parse_case(data)
        verdict = judge(catalog.load(case.profile), case, clock() if case.now is None else case.now)
    except (orjson.JSONDecodeError, CaseError, UnknownProfile, RecursionError):
        return {"id": case_id, "verified": False, "code": INVALID}
    return {"id": case_id, "verified": verdict.ok, "code": verdict.code}


def _dumps(value: dict[str, Any]) -> str:
    import orjson

    return orjson.dumps(value).decode()
