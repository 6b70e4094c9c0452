"""`kwb tail`: follow topics live. Kafka keeps no position for it: where it is, it knows itself."""

from __future__ import annotations

import base64
import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kafka_webhook_bridge.cli.bodies import for_json, preview
from kafka_webhook_bridge.cli.output import Json, Output, safe
from kafka_webhook_bridge.errors import ConfigError, KafkaError, UsageError
from kafka_webhook_bridge.times import iso, moment

if TYPE_CHECKING:
    from kafka_webhook_bridge.kafka.admin import Admin
    from kafka_webhook_bridge.kafka.consumer import Place, Record, RecordReader
    from kafka_webhook_bridge.settings import Settings
    from kafka_webhook_bridge.sources.table import SourceTable

PREVIEW_BYTES = 80
READ_RECORDS = 500
READ_BYTES = 4 * 1024**2
_KEY_BYTES = 40
_WAIT_S = 0.2  # Ctrl-C is noticed between two reads
_LOOK_S = 3.0  # between two looks at the topics: a reader is not told when one is deleted or made anew
_MISSING_S = 5.0  # for so long Kafka must say that a topic is gone: a broker that starts says it, too
_FATAL = ("TOPIC_AUTHORIZATION_FAILED",)  # waiting does not mend it
_TIME = "%Y-%m-%d %H:%M:%S"


def register(app: typer.Typer) -> None:
    @app.command()
    def tail(
        names: Annotated[list[str], typer.Argument(help="Sources or topics.", metavar="SOURCE_OR_TOPIC…")],
        start: Annotated[
            str,
            typer.Option(
                "--from", help="end, beginning, an offset, -10 (the last ten), or a time: 15m, 1h, 2d ago, ISO 8601."
            ),
        ] = "end",
        count: Annotated[int | None, typer.Option(min=1, help="End after so many records.")] = None,
        json: Json = False,
    ) -> None:
        """Follow topics live, until Ctrl-C. With --json one record a line, with its headers and its body.

        A name is looked up among the configured sources first. An offset is meant in each partition. When Kafka goes
        away, it waits, and goes on with the next record. Records of several partitions come in no common order.
        """
        from kafka_webhook_bridge.kafka.admin import Admin
        from kafka_webhook_bridge.kafka.consumer import RecordReader
        from kafka_webhook_bridge.settings import load_settings

        settings, out = load_settings(), Output(json=json)
        admin = Admin(settings.kafka, timeout_s=5)
        positions = starting_positions(admin, _topics(admin, settings, names, out), start)
        reader = RecordReader(settings.kafka, client_id="kwb-tail")
        try:
            Tail(admin, reader, positions, out, count).run()
        finally:
            reader.close()


def _topics(admin: Admin, settings: Settings, names: Iterable[str], out: Output) -> list[str]:
    """The topics of these names. Raises KafkaError when one does not exist."""
    from kafka_webhook_bridge.sources.config import load_sources

    sources: SourceTable | None = None
    unread = ""
    try:
        sources = load_sources(settings)
    except ConfigError as error:  # topics can be read all the same
        unread = f" The sources are not known: {error.problems[0]}"
    wanted: dict[str, str] = {}
    for name in names:
        source = (sources.get(name) or sources.open_source(name)) if sources else None
        wanted |= dict.fromkeys(source.topics if source else (name,), name)
        if source and source.branches:
            out.note(f"The topics of the source {name} are {', '.join(source.topics)}.")
        elif source and source.topic != name:
            out.note(f"The topic of the source {name} is {source.topic}.")
    there = admin.topic_ids(wanted)
    for topic, name in wanted.items():
        if topic not in there:
            of = "" if topic == name else f" of the source {name}"
            raise KafkaError(
                f"There is no topic {topic}{of}.{unread}",
                hint="The first webhook of a source makes its topic; `kwb topics` lists what there is.",
            )
    return list(wanted)


def starting_positions(admin: Admin, topics: Iterable[str], start: str) -> dict[Place, int]:
    """The offset to begin with in every partition: always a number, so that nothing is missed from now on."""
    from kafka_webhook_bridge.kafka.consumer import Place

    try:
        number: int | None = int(start)
    except ValueError:
        number = None
    time_ms = None
    if number is None and start not in ("end", "beginning"):
        try:
            time_ms = int(moment("--from", start, datetime.now(UTC)).timestamp() * 1000)
        except UsageError as error:
            raise UsageError(f"{error.message}, nor end, beginning or an offset") from None
    positions = {}
    for topic, partitions in admin.offsets(topics).items():
        found = admin.offsets_at(topic, time_ms) if time_ms is not None else {}
        for partition, (first, end) in partitions.items():
            at = end
            if start == "beginning":
                at = first
            elif number is not None:
                at = min(max(first, number if number >= 0 else end + number), end)
            elif found.get(partition, -1) >= 0:
                at = found[partition]
            positions[Place(topic, partition)] = at
    return positions


class Tail:
    """Shows records as they come. `positions` is what to read next, by place, at every moment."""

    def __init__(
        self, admin: Admin, reader: RecordReader, positions: Mapping[Place, int], out: Output, count: int | None
    ) -> None:
        self.positions = dict(positions)
        self._admin = admin
        self._reader = reader
        self._out = out
        self._left = count
        self._topic_ids = admin.topic_ids({place.topic for place in positions})
        self._waiting = False  # for Kafka
        self._stopped: set[Place] = set()  # librdkafka gave them up
        self._look_at = time.monotonic() + _LOOK_S
        self._missing_since: float | None = None

    def run(self) -> None:
        """Until `count` records were shown. Raises KafkaError when a topic is gone or may not be read."""
        self._reader.assign(self.positions)
        while True:
            batch = self._reader.read(READ_RECORDS, READ_BYTES, _WAIT_S)
            self._show(batch.records)
            if self._left == 0:
                return
            self._heed(batch.failures)
            self._stopped |= batch.lost | batch.gone
            if time.monotonic() >= self._look_at:
                self._look()
                self._look_at = time.monotonic() + _LOOK_S

    def _show(self, records: Iterable[Record]) -> None:
        from kafka_webhook_bridge.kafka.consumer import Place

        for record in records:
            place = Place(record.topic, record.partition)
            if self._left == 0 or record.offset < self.positions.get(place, 0):
                continue
            self._answered()
            if self._out.json:
                self._out.line(described(record))
            else:
                self._out.say(safe(line(record)))
            self.positions[place] = record.offset + 1
            if self._left is not None:
                self._left -= 1

    def _answered(self) -> None:
        if self._waiting:
            self._waiting = False
            self._out.note("Kafka is back.")

    def _heed(self, failures: Sequence[str]) -> None:
        for failure in failures:
            if failure.startswith(_FATAL):
                raise KafkaError(f"Kafka failed while reading records: {failure}", hint="Grant the user Read on it.")
            if not self._waiting:
                self._waiting = True
                self._out.note(f"Kafka does not answer ({failure}); waiting for it.", "yellow")

    def _look(self) -> None:
        """What reading alone does not tell: topics that are gone or were made anew, partitions that were added, and
        places that were given up because their records are gone or because the broker did not know them yet."""
        try:
            ids, ranges = self._admin.topic_ids(self._topic_ids), self._admin.offsets(self._topic_ids)
        except KafkaError as failure:
            self._heed([failure.message])
            return
        self._answered()
        missing = sorted(self._topic_ids.keys() - (ids.keys() & ranges.keys()))
        if missing:
            self._missing_since = self._missing_since or time.monotonic()
            if time.monotonic() - self._missing_since > _MISSING_S:
                raise KafkaError(f"The topic {missing[0]} is gone.", hint="`kwb topics` lists what there is.")
            return
        self._missing_since = None
        positions = self._positions_in(ids, ranges)
        if positions != self.positions or self._stopped:
            self._stopped.clear()
            self.positions = positions
            self._reader.assign(positions)

    def _positions_in(
        self, ids: Mapping[str, str], ranges: Mapping[str, Mapping[int, tuple[int, int]]]
    ) -> dict[Place, int]:
        """The positions as they must be in these topics with these (first, next) offsets."""
        from kafka_webhook_bridge.kafka.consumer import Place

        positions = {}
        for topic, partitions in ranges.items():
            anew = ids[topic] != self._topic_ids[topic]
            if anew:
                self._out.note(f"The topic {topic} was made anew; reading it from its beginning.", "yellow")
                self._topic_ids[topic] = ids[topic]
            for partition, (first, end) in partitions.items():
                place = Place(topic, partition)
                at = first if anew else self.positions.get(place, first)
                if place in self._stopped and not first <= at <= end:
                    what = f"{topic}, partition {partition}: offset {at} is no longer there"
                    self._out.note(f"{what}; going on from {first}.", "yellow")
                    at = first
                positions[place] = at
        return positions


# ---- a record as people and machines see it --------------------------------------------------------------------------


def line(record: Record) -> str:
    """Time, source, type, key, size of the body and its beginning. Records of others have no source and no type."""
    known = dict(record.headers)
    at = "" if record.timestamp_ms is None else f"{datetime.fromtimestamp(record.timestamp_ms / 1000, UTC):{_TIME}}"
    source = _text(known.get("kwb_source")) or f"{record.topic}[{record.partition}]"
    key = "–" if record.key is None else preview(record.key, _KEY_BYTES)
    body = body_of(record)
    size = f"{len(body)} B"
    beginning = preview(body, PREVIEW_BYTES)
    return f"{at:<19}  {source:<16} {_text(known.get('ce_type')) or '–':<24} {key:<12} {size:>9}  {beginning}"


def described(record: Record) -> dict[str, Any]:
    """A record for machines. Headers are [name, value]; a third member holds base64 where the value is not UTF-8."""
    known = dict(record.headers)
    time_ms = record.timestamp_ms
    return {
        "topic": record.topic,
        "partition": record.partition,
        "offset": record.offset,
        "timestamp": None if time_ms is None else iso(datetime.fromtimestamp(time_ms / 1000, UTC)),
        "event_id": _text(known.get("ce_id")),
        "source": _text(known.get("kwb_source")),
        "type": _text(known.get("ce_type")),
        **for_json("key", record.key),
        "headers": [_header(name, value) for name, value in record.headers],
        **for_json("body", body_of(record)),
    }


def body_of(record: Record) -> bytes:
    """The body as it was sent; the value itself where the record is none of the bridge's."""
    from kafka_webhook_bridge.formats import decode, format_of

    headers = [(name, value) for name, value in record.headers if value is not None]
    try:
        return decode(format_of(headers), record.value)
    except ValueError:
        return record.value


def _header(name: str, value: bytes | None) -> list[str | None]:
    if value is None:
        return [name, None]
    try:
        return [name, value.decode()]
    except UnicodeDecodeError:
        return [name, value.decode(errors="replace"), base64.b64encode(value).decode()]


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode(errors="replace")
