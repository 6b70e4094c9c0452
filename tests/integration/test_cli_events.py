"""`kwb events` against a real archive, through the command."""

from __future__ import annotations

import base64
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from events_data import days_ago, event_id, fill, now_ms, row

from kafka_webhook_bridge import ids

PAYLOADS = Path(__file__).parents[1] / "data" / "payloads"


def kwb(database: str, *arguments: str, text: bool = True, **environ: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "kafka_webhook_bridge.cli", "events", *arguments],
        env={
            "COLUMNS": "160", "DATABASE_URL": database, "KWB_STORE_STATEMENT_TIMEOUT_MS": "60000",
            "KWB_STORE_CONNECT_TIMEOUT_MS": "30000", **environ,
        },
        capture_output=True, text=text, timeout=120, check=False,
    )  # fmt: skip


def found(database: str, *arguments: str) -> list[str]:
    done = kwb(database, "search", *arguments, "--json")
    assert done.returncode == 0, done.stderr
    return [event["event_id"] for event in json.loads(done.stdout)["events"]]


def test_filters_alone_and_together(database: str) -> None:
    old = row(
        days_ago(3), source="shop", type="orders/create", key="1234", body_json=b'{"order":{"id":1234,"vip":true}}'
    )
    shop = row(source="shop", type="orders/paid", key="1234", body_json=b'{"order":{"id":1234}}')
    erp = row(now_ms() + 1, key="77", body_json=b'{"order":{"id":77}}')
    fill(database, old, shop, erp)
    first, second, third = (str(one.event_id) for one in (old, shop, erp))
    assert found(database) == [third, second, first]  # the newest first
    assert found(database, "--key", "1234", "--source", "shop") == [second, first]
    assert found(database, "--type", "orders/create", "--until", "2d") == [first]
    assert found(database, "--since", "4d", "--until", ids.moment(days_ago(2)).isoformat()) == [first]
    order = '{"order": {"id": 1234}}'
    assert found(database, "--json-contains", order) == [second]  # of the last day
    assert found(database, "--json-contains", order, "--since", "1w") == [second, first]
    assert found(database, "--source", "erp", "--key", "1234") == []
    assert found(database, "--limit", "1", "--after", third) == [second]


def test_the_printed_command_gives_the_next_page(database: str) -> None:
    """Pages follow one another as a person would ask for them, and machines by `next_after`."""
    rows = [row(days_ago(0.5) + n, source="shop", type="it's $HOME") for n in range(5)]
    fill(database, *rows, row())
    ids_of_rows = [str(one.event_id) for one in reversed(rows)]
    seen: list[str] = []
    arguments = ["search", "--type", "it's $HOME", "--since", "1d", "--limit", "2"]
    for _ in range(3):
        done = kwb(database, *arguments)
        assert done.returncode == 0, done.stderr
        seen += re.findall(r"^\s*(0[0-9a-f-]{35}) ", done.stdout, re.MULTILINE)
        command = [line for line in done.stderr.splitlines() if line.startswith("Older ones: ")]
        if not command:
            break
        program, group, *arguments = shlex.split(command[0].removeprefix("Older ones: "))
        assert (program, group) == ("kwb", "events")
    assert seen == ids_of_rows
    page = json.loads(kwb(database, "search", "--source", "shop", "--limit", "5", "--json").stdout)
    assert page["next_after"] == ids_of_rows[-1]
    rest = json.loads(kwb(database, "search", "--source", "shop", "--after", page["next_after"], "--json").stdout)
    assert (rest["events"], rest["next_after"]) == ([], None)


def test_every_event_is_one_line_however_narrow_the_terminal(database: str) -> None:
    long = row(source="a-source-with-a-long-name", type="a/type/with/a/long/name", key="k" * 400)
    fill(database, long, row(now_ms() + 5))
    done = kwb(database, "search", COLUMNS="40")
    head, short, wide = done.stdout.splitlines()
    assert head.split() == ["event", "received", "(UTC)", "state", "source", "type", "key", "bytes"]
    assert wide.split()[0] == str(long.event_id)
    assert wide.split()[3] == "stored"
    assert "k" * 39 + "…" in wide
    assert short.index("webhook.erp") == wide.index("a/type/") == head.index("type")


def test_rule_21_a_json_search_says_how_far_it_looked(database: str) -> None:
    fill(database)
    done = kwb(database, "search", "--json-contains", "{}")
    assert (done.returncode, done.stdout) == (0, "")
    assert "Searched back to 20" in done.stderr
    assert "No event matches." in done.stderr
    assert "Searched back" not in kwb(database, "search", "--json-contains", "{}", "--since", "3d").stderr


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--json-contains", "{order: 1}"], "--json-contains is not JSON"),
        (["--json-contains", '"\\u0000"'], "U+0000"),
        (["--since", "yesterday"], "--since yesterday"),
        (["--since", "99999999999d"], "--since 99999999999d"),
        (["--since", "1h", "--until", "2h"], "--since is not before --until"),
        (["--limit", "0"], "--limit"),
        (["--after", "1234"], "1234 is not an event id"),
    ],
)
def test_wrong_use_is_told(arguments: list[str], told: str) -> None:
    """Before anything is asked of PostgreSQL."""
    done = kwb("", "search", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert told in done.stderr


def test_text_that_is_not_utf_8_is_searched_as_it_was_kept(database: str) -> None:
    kept = row(key="caf\N{REPLACEMENT CHARACTER}")
    fill(database, kept, row())
    done = subprocess.run(
        [sys.executable, "-m", "kafka_webhook_bridge.cli", "events", "search", "--json", "--key", b"caf\xe9"],
        env={"DATABASE_URL": database, "PYTHONUTF8": "1"}, capture_output=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert [event["event_id"] for event in json.loads(done.stdout)["events"]] == [str(kept.event_id)]


def test_show_tells_everything(database: str) -> None:
    body = (PAYLOADS / "shopify-order.json").read_bytes()
    first = row(
        source="shop", type="orders/create", path="/shop/orders", query="x=1", body=body, body_json=None,
        parse_error="too deep", key="1234", dedupe_key="d" * 64, topic="shop.orders", partition=3, offset=42,
        headers=json.dumps([["x-shopify-topic", "orders/create"], ["x-odd", "caf\ufffd", "Y2Fm6Q=="]]).encode(),
        key_bytes=b"12\xff34", marks=b'[["kwb_part", "1/2"]]',
    )  # fmt: skip
    again = row(now_ms() + 5, source="shop", dedupe_key="d" * 64)
    fill(database, first, again)
    done = kwb(database, "show", str(first.event_id).upper())
    assert done.returncode == 0, done.stderr
    for line in (
        f"event      {first.event_id}",
        "source     shop",
        "type       orders/create",
        "key        1234",
        "           not exactly: base64 MTL/MzQ=",
        "verified   basic, it does not cover the body",
        f"kafka      shop.orders, partition 3, offset 42 (topic id {first.topic_id})",
        f"duplicates {again.event_id}",
        "JSON       not indexed: too deep",
        "kwb_part   1/2",
        "POST /shop/orders?x=1",
        "x-shopify-topic: orders/create",
        "x-odd: caf\ufffd  (not UTF-8; base64 Y2Fm6Q==)",
        f"body: {len(body)} bytes, JSON",
    ):
        assert line in done.stdout.splitlines()
    shown = done.stdout[done.stdout.index("JSON\n{") + 5 :]
    assert json.loads(shown) == json.loads(body)

    machine = json.loads(kwb(database, "show", str(first.event_id), "--json").stdout)
    assert machine["body"] == body.decode()
    assert machine["duplicates"] == [str(again.event_id)]
    assert machine["headers"][1] == ["x-odd", "caf\ufffd", "Y2Fm6Q=="]
    assert (machine["topic"], machine["partition"], machine["offset"]) == ("shop.orders", 3, 42)
    assert machine["key_base64"] == "MTL/MzQ="
    copy = json.loads(kwb(database, "show", str(again.event_id), "--json").stdout)
    assert copy["duplicate_of"] == str(first.event_id)


def test_show_gives_every_byte_of_a_body(database: str) -> None:
    """Promise 2: `--body` writes what was received, whatever it is."""
    bodies = [(PAYLOADS / name).read_bytes() for name in ("empty", "every-byte.bin", "bom.json", "twilio-sms.form")]
    rows = [row(body=body, body_json=None) for body in [*bodies, bytes(range(256)) * 400]]
    fill(database, *rows)
    for one in rows:
        done = kwb(database, "show", str(one.event_id), "--body", text=False)
        assert (done.returncode, done.stderr) == (0, b"")
        assert done.stdout == one.body
    machine = json.loads(kwb(database, "show", str(rows[-1].event_id), "--json").stdout)
    assert base64.b64decode(machine["body_base64"]) == rows[-1].body
    people = kwb(database, "show", str(rows[-1].event_id))
    assert "00000010  10 11 12" in people.stdout
    assert f"{len(rows[-1].body) - 1024} bytes more" in people.stderr


def test_a_hostile_event_cannot_write_to_the_terminal(database: str) -> None:
    evil = "\x1b[2J\x9b31m\u202e\r"
    hostile = row(
        type=evil, key=evil, path=f"/{evil}", query=evil, body=f"text {evil}\nmore".encode(), body_json=None,
        headers=json.dumps([[f"x-{evil}", evil]]).encode(), parse_error=evil, marks=json.dumps([[evil, evil]]).encode(),
    )  # fmt: skip
    as_text = row(body='{"a":"\u202e\x7f"}'.encode(), body_json=None)
    fill(database, hostile, as_text)
    for arguments in (["search"], ["show", str(hostile.event_id)], ["show", str(as_text.event_id)]):
        done = kwb(database, *arguments)
        assert done.returncode == 0, done.stderr
        assert all(character.isprintable() or character == "\n" for character in done.stdout + done.stderr)
    assert "\\x1b[2J" in kwb(database, "show", str(hostile.event_id)).stdout


@pytest.mark.parametrize(
    ("time_ms", "hint"),
    [
        (lambda: now_ms(), "try again"),
        (lambda: days_ago(1), "kwb tail TOPIC --from 20"),
        (lambda: days_ago(400), "events are kept 90 days"),
        (lambda: days_ago(-1), "still to come"),
    ],
    ids=["young", "yesterday", "too old", "future"],
)
def test_a_missing_event_is_a_found_problem_with_advice(database: str, time_ms, hint: str) -> None:
    fill(database)
    missing = str(event_id(time_ms()))
    done = kwb(database, "show", missing)
    assert (done.returncode, done.stdout) == (1, f"There is no event {missing} in the archive.\n")
    assert hint in done.stderr


def test_machines_are_told_too_what_is_missing(database: str) -> None:
    fill(database)
    missing = str(event_id())
    machine = kwb(database, "show", missing, "--json")
    assert (machine.returncode, json.loads(machine.stdout)) == (1, None)
    raw = kwb(database, "show", missing, "--body")
    assert (raw.returncode, raw.stdout) == (1, "")


def test_an_archive_that_is_not_there_is_an_error_with_a_hint(database: str) -> None:
    empty = kwb(database, "search", "--json")
    assert (empty.returncode, empty.stdout) == (1, "")
    assert "kwb migrate" in json.loads(empty.stderr)["error"]["hint"]
    unreached = kwb("postgresql://kwb:canary@127.0.0.1:1/kwb", "search")
    assert unreached.returncode == 1
    assert "DATABASE_URL" in unreached.stderr
    assert "canary" not in unreached.stdout + unreached.stderr
    unset = kwb("", "search")
    assert (unset.returncode, unset.stdout) == (2, "")
    assert "DATABASE_URL: is not set" in unset.stderr
