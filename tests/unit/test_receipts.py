"""The receipts file: what one wrote the other reads, and what is none is told."""

from __future__ import annotations

import hashlib
import json
import random
import re
from pathlib import Path

import pytest

from kafka_webhook_bridge.errors import UsageError
from kafka_webhook_bridge.receipts import ReceiptsFile, ReceiptsReader, Sent

DIGEST = hashlib.sha256(b"x").hexdigest()
ID = "0196e0a2-0000-7000-8000-000000000001"


def written(path: Path, count: int = 4) -> Path:
    """A file of that many requests, each answered in one of four ways."""
    with ReceiptsFile(path, run="r", source="shop", url="http://x/shop") as file:
        for seq in range(count):
            file.invoke(seq, f"r-{seq}", DIGEST)
            file.flush()
        for seq in random.Random(1).sample(range(count), count):
            answers = [(200, {"event_id": ID, "stored": "kafka", "duplicate": False}), (401, {"code": "auth.wrong"})]
            status, answer = [*answers, (503, {"event_id": ID}), (0, {})][seq % 4]
            file.ended(seq, status, answer, "timeout")
    return path


def test_rule_16_the_reader_gives_what_the_writer_wrote(tmp_path: Path) -> None:
    reader = ReceiptsReader(written(tmp_path / "r"))
    found = list(reader)
    assert sorted(sent.outcome for sent in found) == ["fail", "info", "info", "ok"]
    assert {(sent.source, sent.body_sha256.hex()) for sent in found} == {("shop", DIGEST)}
    by_outcome = {sent.outcome: sent for sent in found}
    assert by_outcome["ok"].event_id == bytes.fromhex(ID.replace("-", ""))
    assert by_outcome["fail"].event_id is None
    assert reader.complete
    assert not reader.cut
    assert reader.started_s <= min(sent.at_s for sent in found)
    assert reader.ended_s >= max(sent.at_s for sent in found)


@pytest.mark.parametrize("lines", range(1, 10))
@pytest.mark.parametrize("rest", [b"", b'{"op":"ok","seq":1,"sta', b'{"op"'])
def test_rule_16_a_file_that_was_cut_anywhere_is_read_and_claims_nothing(
    tmp_path: Path, lines: int, rest: bytes
) -> None:
    path = written(tmp_path / "r")
    kept = path.read_bytes().splitlines(keepends=True)[:lines]
    path.write_bytes(b"".join(kept) + rest)
    reader = ReceiptsReader(path)
    found = list(reader)
    assert len(found) == sum(b'"invoke"' in line for line in kept)
    assert [sent.outcome for sent in found].count("ok") == sum(b'"op":"ok"' in line for line in kept)
    assert not reader.complete
    assert reader.cut == bool(rest)


def told(path: Path) -> str:
    with pytest.raises(UsageError) as caught:
        list(ReceiptsReader(path))
    assert caught.value.exit_code == 2
    return caught.value.message.replace(str(path), "F")


def test_what_is_no_receipts_file_is_told(tmp_path: Path) -> None:
    path = tmp_path / "r"
    assert told(path) == "F: No such file or directory"
    assert told(tmp_path).endswith("Is a directory")
    for data in (b"", b"\n", b"precious\n", b"{}\n", b"[1]\n", b"\0" * 200_000, b'{"op":"start","version":1}\n'):
        path.write_bytes(data)
        assert told(path) == "F is not a receipts file: it does not begin with a start line"
    path.write_bytes(b'{"op":"start","version":2,"source":"s","t":1}\n')
    assert told(path) == "F is of version 2; this bridge reads version 1"


def test_rule_16_an_altered_file_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "r")
    whole = path.read_bytes().splitlines(keepends=True)

    def with_lines(lines: list[bytes]) -> str:
        path.write_bytes(b"".join(lines))
        return told(path)

    outcome = next(i for i, line in enumerate(whole) if b'"ok"' in line)
    assert "does not count what the file holds (4 invoked, 0 ok, 1 fail, 2 info)" in with_lines(
        whole[:outcome] + whole[outcome + 1 :]
    )
    assert "line 5 is no fail line that fits the lines before" in with_lines(whole[:2] + whole[3:])
    assert "line 3 is not JSON" in with_lines([*whole[:2], b'{"op":"inv\n', *whole[3:]])
    assert f"line {len(whole) + 1} stands behind the end" in with_lines([*whole, whole[-1]])
    changed = json.loads(whole[1]) | {"body_sha256": "ab"}
    assert "line 2 is no invoke line" in with_lines([whole[0], json.dumps(changed).encode() + b"\n", *whole[2:]])


def test_members_of_later_versions_are_passed_over(tmp_path: Path) -> None:
    path = written(tmp_path / "r")
    lines = [json.loads(line) | {"later": [1]} for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    found: list[Sent] = list(ReceiptsReader(path))
    assert len(found) == 4


@pytest.mark.parametrize("t", ['"soon"', "null", "[]", "true", "-1", "1e306"])
@pytest.mark.parametrize("line", [0, 1, 2])
def test_a_time_that_is_none_is_wrong_use(tmp_path: Path, line: int, t: str) -> None:
    path = written(tmp_path / "r")
    lines = path.read_bytes().splitlines(keepends=True)
    lines[line] = re.sub(rb'"t":[0-9.]+', b'"t":' + t.encode(), lines[line])
    path.write_bytes(b"".join(lines))
    with pytest.raises(UsageError):
        list(ReceiptsReader(path))
