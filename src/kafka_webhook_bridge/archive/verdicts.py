"""What became of every event: the verdicts of an audit, from plain inputs (rules.md 16).

    acked, refused, unknown   what senders were told, from receipts   ┐
    record                    what Kafka holds                        ├──▶ Ledger ──▶ verdicts()
    row                       what PostgreSQL holds                   ┘

The receipts come first, then records and rows in any order. Nothing here reads, waits or knows where things come from,
so tests bring worlds of their own. Without receipts the ledger compares records and rows alone.

An event takes about 62 bytes, whatever its size: its id, digests of its body and of its label (key and headers), and
the place of its first record lie in flat memory, found by a hash table of numbers. Python's own dict with one object
per event would take several times as much.
"""

from __future__ import annotations

import uuid
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from kafka_webhook_bridge import ids

EXAMPLES_MAX = 10  # ids kept of each verdict, and places of each of them

_ID_BYTES = 16
_DIGEST_BYTES = 16  # of a SHA-256: nobody who could look for half a collision profits from one here
_ZERO_DIGEST = bytes(_DIGEST_BYTES)
_ZERO_LABEL = bytes(8)
_LABEL_BYTES = len(_ZERO_LABEL)  # of a SHA-256: two labels of one event are compared, never millions with each other
_OFFSET_BITS = 48  # of a place; the rest numbers its partition
_COPIES_MAX = 255

# Where a row says that its event must be: in the log, in a part of the log that is gone, or not yet there.
Where = Literal["log", "before_log_start", "waiting", "quarantined"]

# Every event that was acknowledged has exactly one of these fates.
Fate = Literal[
    "stored",
    "not_archived_yet",
    "waiting",
    "quarantined",
    "before_log_start",
    "expired",
    "missing_in_kafka",
    "missing_in_archive",
    "lost",
]
FATES: tuple[Fate, ...] = (
    "stored", "not_archived_yet", "waiting", "quarantined", "before_log_start", "expired",
    "missing_in_kafka", "missing_in_archive", "lost",
)  # fmt: skip
MISSING: tuple[Fate, ...] = ("missing_in_kafka", "missing_in_archive", "lost")

_ACKED = 1
_REFUSED = 1 << 1
_UNKNOWN = 1 << 2
_HAS_DIGEST = 1 << 3
_IN_KAFKA = 1 << 4
_IN_ARCHIVE = 1 << 5
_ROW_DUE = 1 << 6  # the archive has passed its record
_RELEASED = 1 << 7
_CORRUPT_KAFKA = 1 << 8
_CORRUPT_ARCHIVE = 1 << 9
_BEFORE_LOG_START = 1 << 10
_WAITING = 1 << 11
_QUARANTINED = 1 << 12
_SPURIOUS_COUNTS = 1 << 13  # a file that claims to be complete covers it
_ORIGINAL = 1 << 14  # a record that is no replay, or a row
_HAS_LABEL = 1 << 15
_LABEL_KAFKA = 1 << 16  # its records have different labels
_LABEL_ARCHIVE = 1 << 17  # its row has another one than its records
_LABEL_LOST = 1 << 18  # its row was kept without some of what its label is made of
_FOREIGN = 1 << 19  # a record that somebody else made: its row has no more of it than the bridge knows
_PART = 1 << 20  # of a request that was split, and not the first, by which it is judged where no answer told an id
_WHERE: Mapping[Where, int] = {
    "log": 0, "before_log_start": _BEFORE_LOG_START, "waiting": _WAITING, "quarantined": _QUARANTINED,
}  # fmt: skip
_KNOWN = _ACKED | _REFUSED | _UNKNOWN


class At(NamedTuple):
    """Where a record is."""

    topic: str
    partition: int
    offset: int

    def __str__(self) -> str:
        return f"{self.topic}/{self.partition}@{self.offset}"


class Window(NamedTuple):
    """Events of a source (None: of every source) received from `low_ms` to `high_ms`, both included (Unix time).

    `complete` tells that the receipts of this window claim to be all there are, so that others are spurious.
    """

    source: str | None
    low_ms: int
    high_ms: int
    complete: bool = False

    def covers(self, source: str, time_ms: int) -> bool:
        return self.low_ms <= time_ms <= self.high_ms and self.source in (None, source)


@dataclass(slots=True)
class Verdicts:
    """The result. Requests and events are counted apart: a suppressed duplicate is a request without its own event.

    `acknowledged` are 2xx, `suppressed` those of them that named an earlier delivery's event. `fates` sums to
    `events`, the number of acknowledged ones and of all others that were found in the audited windows. `examples` are
    ids by verdict, EXAMPLES_MAX each; `places` where the records of duplicated and corrupt ones among them are.
    `corrupt_labels` are corrupt events whose key or headers differ, whatever their bodies.
    """

    receipts: bool
    archive: bool = True  # rows were read at all
    acknowledged: int = 0
    suppressed: int = 0
    refused: int = 0
    unknown_present: int = 0
    unknown_absent: int = 0
    events: int = 0
    fates: Counter[Fate] = field(default_factory=Counter)
    corrupt: int = 0
    corrupt_in_kafka: int = 0
    corrupt_in_archive: int = 0
    corrupt_labels: int = 0
    rejected_but_stored: int = 0
    spurious: int = 0
    duplicated: int = 0
    extra_records: int = 0
    replayed: int = 0
    records: int = 0
    rows: int = 0
    examples: dict[str, list[str]] = field(default_factory=dict)
    places: dict[str, list[At]] = field(default_factory=dict)

    @property
    def lost(self) -> int:
        """Acknowledged events that are in neither place."""
        return self.fates["lost"]

    @property
    def missing(self) -> int:
        """Events that are not where they must be, lost ones included."""
        return sum(self.fates[fate] for fate in MISSING)

    @property
    def sound(self) -> bool:
        """Nothing is missing, nothing is changed, and nothing is there that was refused."""
        return not (self.missing or self.corrupt or self.rejected_but_stored)


class Ledger:
    """Takes what was told and what was found. Ids are the 16 bytes of an event id, digests SHA-256 of the body, labels
    SHA-256 of key and headers; None where they are not known."""

    def __init__(self, *, receipts: bool, archive: bool = True, kept_from_ms: int = 0) -> None:
        """`receipts` tells that there are some, `archive` that rows are read at all; events received before
        `kept_from_ms` are past the archive's retention, where neither place has to have them."""
        self.windows: list[Window] = []
        self.has_receipts = receipts
        self.has_archive = archive
        self._kept_from_ms = kept_from_ms
        self._events = _Index()
        self._flags = array("I")
        self._copies = bytearray()
        self._digests = bytearray()
        self._labels = bytearray()
        self._first = array("Q")  # the place of the first record that is no copy
        self._partitions: list[tuple[str, int]] = []
        self._partition_numbers: dict[tuple[str, int], int] = {}
        self._other_digests: dict[int, set[bytes]] = {}
        # Of the first few events with several records, or with changed ones: where these are.
        self._repeated: dict[int, list[At]] = {}
        self._changed: dict[int, list[At]] = {}
        # Of answers without an event id, by digest: how many of each kind.
        self._acked_bodies: Counter[bytes] = Counter()
        self._refused_bodies: Counter[bytes] = Counter()
        self._unknown_bodies: Counter[bytes] = Counter()
        self._found = Verdicts(receipts)

    def __len__(self) -> int:
        return len(self._flags)

    def cover(self, window: Window) -> None:
        """Judge the events of a window, besides those that receipts name. To be said before they are found."""
        self.windows.append(window)

    # ── what senders were told ────────────────────────────────────────────────────────────────────────────────────

    def acked(self, event_id: bytes | None, digest: bytes, *, duplicate: bool = False, parts: int = 1) -> None:
        """A 2xx. A `duplicate` names the first delivery's event, whose body may be another one; of several `parts` the
        first is named."""
        self._found.acknowledged += 1
        self._found.suppressed += duplicate
        if event_id is None:
            if not duplicate:
                self._acked_bodies[digest[:_DIGEST_BYTES]] += 1
            return
        self._told(event_id, _ACKED, None if duplicate else digest)
        for number in range(2, parts + 1):
            self._told(ids.part(uuid.UUID(bytes=event_id), number).bytes, _ACKED, digest)

    def refused(self, event_id: bytes | None, digest: bytes) -> None:
        """An answer that says that the event was not taken."""
        self._found.refused += 1
        if event_id is None:
            self._refused_bodies[digest[:_DIGEST_BYTES]] += 1
        else:
            self._told(event_id, _REFUSED, digest)

    def unknown(self, event_id: bytes | None, digest: bytes) -> None:
        """No answer, or one that does not tell: the event may be there or not."""
        if event_id is None:
            self._unknown_bodies[digest[:_DIGEST_BYTES]] += 1
        else:
            self._told(event_id, _UNKNOWN, digest)

    def _told(self, event_id: bytes, flag: int, digest: bytes | None) -> None:
        number = self._number(event_id)
        flags = self._flags[number]
        if digest is not None:
            half = digest[:_DIGEST_BYTES]
            if not flags & _HAS_DIGEST:
                self._set_digest(number, half)
                flag |= _HAS_DIGEST
            elif self._digest(number) != half:
                # A delivery that was taken over with the id of one that failed: either body may be the event's.
                self._other_digests.setdefault(number, set()).add(half)
        self._flags[number] = flags | flag

    # ── what was found ────────────────────────────────────────────────────────────────────────────────────────────

    def record(
        self,
        event_id: bytes,
        source: str,
        digest: bytes,
        label: bytes | None = None,
        *,
        at: At | None = None,
        copy: bool = False,
        passed: bool = False,
        released: bool = False,
        made_here: bool = True,
        parent: bytes | None = None,
    ) -> None:
        """A record in Kafka. `copy`: made by a replay or a rebuild; `passed`: the archive has committed its position
        behind it; `released`: of an event that was refused at first and let in by an operator; `made_here`: by the
        bridge; `parent`: the event by whose id its request was answered, where it is another part of that."""
        number = self._find(event_id, source, parent)
        if number < 0:
            return
        found = self._found
        found.records += 1
        flag = _IN_KAFKA
        if copy:
            found.replayed += 1
        else:
            flag |= _ORIGINAL | (_ROW_DUE if passed else 0)
            if not released:
                self._count_copy(number, at)
        flag |= (_RELEASED if released else 0) | (0 if made_here else _FOREIGN)
        changed = self._see(number, digest, flag, _CORRUPT_KAFKA)
        changed |= label is not None and self._see_label(number, label, _LABEL_KAFKA)
        if changed and at is not None:
            _keep_few(self._changed, number, at)

    def _count_copy(self, number: int, at: At | None) -> None:
        copies = self._copies[number]
        if copies < _COPIES_MAX:
            self._copies[number] = copies + 1
        if at is None:
            return
        if not copies:
            self._first[number] = self._partition_number(at) << _OFFSET_BITS | at.offset
            return
        first = self._first[number]
        topic, partition = self._partitions[first >> _OFFSET_BITS]
        _keep_few(self._repeated, number, At(topic, partition, first & (1 << _OFFSET_BITS) - 1), at)

    def _partition_number(self, at: At) -> int:
        place = at.topic, at.partition
        number = self._partition_numbers.get(place)
        if number is None:
            number = self._partition_numbers[place] = len(self._partitions)
            self._partitions.append(place)
        return number

    def row(
        self,
        event_id: bytes,
        source: str,
        digest: bytes,
        where: Where,
        label: bytes | None = None,
        *,
        label_lost: bool = False,
        released: bool = False,
        parent: bytes | None = None,
    ) -> None:
        """A row of the archive. `label_lost`: PostgreSQL took it only in part, so that its records may have more."""
        number = self._find(event_id, source, parent)
        if number < 0:
            return
        self._found.rows += 1
        flag = _IN_ARCHIVE | _ORIGINAL | _WHERE[where] | (_RELEASED if released else 0)
        self._see(number, digest, flag | (_LABEL_LOST if label_lost else 0), _CORRUPT_ARCHIVE)
        if label is not None:
            self._see_label(number, label, _LABEL_ARCHIVE)

    def _see_label(self, number: int, label: bytes, corrupt: int) -> bool:
        """Whether it is another one than the first."""
        low, high = number * _LABEL_BYTES, (number + 1) * _LABEL_BYTES
        if not self._flags[number] & _HAS_LABEL:
            self._labels[low:high] = label[:_LABEL_BYTES]
            self._flags[number] |= _HAS_LABEL
        elif self._labels[low:high] != label[:_LABEL_BYTES]:
            self._flags[number] |= corrupt
            return True
        return False

    def _see(self, number: int, digest: bytes, flag: int, corrupt: int) -> bool:
        """Whether the body is another one than the event's."""
        flags = self._flags[number]
        half = digest[:_DIGEST_BYTES]
        if not flags & _HAS_DIGEST:
            self._set_digest(number, half)
            flag |= _HAS_DIGEST
        elif self._digest(number) != half and half not in self._other_digests.get(number, ()):
            flag |= corrupt
        self._flags[number] = flags | flag
        return bool(flag & corrupt)

    def _find(self, event_id: bytes, source: str, parent: bytes | None) -> int:
        """The event's number; -1 when nobody asked for it."""
        number = self._events.find(event_id)
        if number >= 0:
            return number
        if parent is not None and (told := self._events.find(parent)) >= 0 and self._flags[told] & _KNOWN:
            number = self._number(event_id)  # what its request was told is said of it
            self._flags[number] |= self._flags[told] & _KNOWN | _PART
            return number
        time_ms = int.from_bytes(event_id[:6], "big")
        covering = [window for window in self.windows if window.covers(source, time_ms)]
        if not covering:
            return -1
        number = self._number(event_id)
        if all(window.complete for window in covering):
            self._flags[number] |= _SPURIOUS_COUNTS
        if parent is not None:
            self._flags[number] |= _PART
        return number

    def _number(self, event_id: bytes) -> int:
        number = self._events.find_or_add(event_id)
        if number == len(self._flags):
            self._flags.append(0)
            self._copies.append(0)
            self._digests += _ZERO_DIGEST
            self._labels += _ZERO_LABEL
            self._first.append(0)
        return number

    def _digest(self, number: int) -> bytes:
        return bytes(self._digests[number * _DIGEST_BYTES : (number + 1) * _DIGEST_BYTES])

    def _set_digest(self, number: int, digest: bytes) -> None:
        self._digests[number * _DIGEST_BYTES : (number + 1) * _DIGEST_BYTES] = digest

    # ── what it means ─────────────────────────────────────────────────────────────────────────────────────────────

    def told_without_row(self) -> Iterator[bytes]:
        """Ids from receipts for which no row was seen: perhaps it lies outside the windows."""
        for number, flags in enumerate(self._flags):
            if flags & _KNOWN and not flags & _IN_ARCHIVE:
                yield self._events.key(number)

    def unsettled(self) -> bool:
        """Whether something is missing that the rest of Kafka's log might hold."""
        fates = self.verdicts().fates
        return bool(fates["lost"] or fates["missing_in_kafka"])

    def _fate(self, number: int, flags: int) -> Fate:
        """Of an event that was acknowledged, or found."""
        if flags & _IN_KAFKA:
            if flags & _IN_ARCHIVE or not self.has_archive:
                return "stored"
            if not flags & _ROW_DUE:
                return "not_archived_yet"
            return "expired" if self._is_expired(number) else "missing_in_archive"
        if not flags & _IN_ARCHIVE:
            return "expired" if self.has_archive and self._is_expired(number) else "lost"
        if flags & _WAITING:
            return "waiting"
        if flags & _QUARANTINED:
            return "quarantined"
        return "before_log_start" if flags & _BEFORE_LOG_START else "missing_in_kafka"

    def _is_expired(self, number: int) -> bool:
        return int.from_bytes(self._events.key(number)[:6], "big") < self._kept_from_ms

    def verdicts(self) -> Verdicts:
        """Judge everything so far. It may be asked again when more was found."""
        found = self._found
        told = Verdicts(
            self.has_receipts, self.has_archive,
            acknowledged=found.acknowledged, suppressed=found.suppressed, refused=found.refused,
            replayed=found.replayed, records=found.records, rows=found.rows,
        )  # fmt: skip
        acked, refused, unknown = (
            Counter(bodies) for bodies in (self._acked_bodies, self._refused_bodies, self._unknown_bodies)
        )
        # What was stored although it was refused may have another id than the refusal told.
        settled = _ACKED | _UNKNOWN | _IN_KAFKA | _IN_ARCHIVE
        refused.update(
            self._digest(n) for n, flags in enumerate(self._flags) if flags & _REFUSED and not flags & settled
        )
        for number, flags in enumerate(self._flags):
            present = bool(flags & (_IN_KAFKA | _IN_ARCHIVE))
            if flags & _ACKED or present:
                self._judge(told, number, flags)
            if flags & _ACKED:
                pass
            elif flags & _UNKNOWN:
                told.unknown_present += present
                told.unknown_absent += not present
            elif flags & _REFUSED:
                if present and not flags & _RELEASED:
                    told.rejected_but_stored += 1
                    self._example(told, "rejected_but_stored", number)
            elif self.has_receipts and not flags & _PART:
                self._explain(told, number, flags, (acked, unknown, refused))
        for digest, count in acked.items():  # answered 2xx without an id, and nothing has that body
            told.events += count
            told.fates["lost"] += count
            if count:
                _keep(told, "lost", f"sha256:{digest.hex()}…")
        told.unknown_absent += sum(unknown.values())
        return told

    def _judge(self, told: Verdicts, number: int, flags: int) -> None:
        """Counts that every event has, whoever told of it."""
        told.events += 1
        fate = self._fate(number, flags)
        told.fates[fate] += 1
        if fate != "stored":
            self._example(told, fate, number)
        if self._copies[number] > 1:
            told.duplicated += 1
            told.extra_records += self._copies[number] - 1
            self._example(told, "duplicated", number)
        label = 0 if flags & _LABEL_LOST else flags & (_LABEL_KAFKA | _LABEL_ARCHIVE)
        if label == _LABEL_ARCHIVE and flags & _FOREIGN:
            label = 0
        if label or flags & (_CORRUPT_KAFKA | _CORRUPT_ARCHIVE):
            told.corrupt += 1
            told.corrupt_labels += bool(label)
            # Where records differ among themselves, a row that differs from the first of them may well be right.
            told.corrupt_in_kafka += bool(flags & _CORRUPT_KAFKA or label & _LABEL_KAFKA)
            told.corrupt_in_archive += bool(flags & _CORRUPT_ARCHIVE or label == _LABEL_ARCHIVE)
            self._example(told, "corrupt", number)

    def _explain(
        self, told: Verdicts, number: int, flags: int, bodies: tuple[Counter[bytes], Counter[bytes], Counter[bytes]]
    ) -> None:
        """An event of which no answer told the id: of a request whose answer had none, or nobody's."""
        acked, unknown, refused = bodies
        digest = self._digest(number)
        if acked[digest] > 0:
            acked[digest] -= 1
        elif unknown[digest] > 0:
            unknown[digest] -= 1
            told.unknown_present += 1
        elif refused[digest] > 0 and not flags & _RELEASED:
            refused[digest] -= 1
            told.rejected_but_stored += 1
            self._example(told, "rejected_but_stored", number)
        elif flags & _SPURIOUS_COUNTS and flags & _ORIGINAL and not flags & _RELEASED:
            told.spurious += 1
            self._example(told, "spurious", number)

    def _example(self, told: Verdicts, verdict: str, number: int) -> None:
        if len(told.examples.get(verdict, ())) < EXAMPLES_MAX:
            event_id = str(uuid.UUID(bytes=self._events.key(number)))
            _keep(told, verdict, event_id)
            if places := self._repeated.get(number) or self._changed.get(number):
                told.places[event_id] = places


def _keep_few(kept: dict[int, list[At]], number: int, *places: At) -> None:
    """Add places of an event; of too many events those with the lowest numbers stay, which become the examples."""
    known = kept.setdefault(number, [])
    known += [at for at in places if at not in known][: EXAMPLES_MAX - len(known)]
    if len(kept) > EXAMPLES_MAX:
        del kept[max(kept)]


def _keep(told: Verdicts, verdict: str, text: str) -> None:
    kept = told.examples.setdefault(verdict, [])
    if len(kept) < EXAMPLES_MAX:
        kept.append(text)


class _Index:
    """Ids of 16 bytes → numbers from 0 in the order in which they were added.

    Open addressing over flat memory. The last eight bytes of a UUIDv7 are random but for two bits, which makes them
    the hash.
    """

    def __init__(self) -> None:
        self._keys = bytearray()
        self._slots = array("I", bytes(4 * 1024))
        self._mask = len(self._slots) - 1
        self._count = 0

    def key(self, number: int) -> bytes:
        return bytes(self._keys[number * _ID_BYTES : (number + 1) * _ID_BYTES])

    def find(self, key: bytes) -> int:
        """-1 when it was never added."""
        return self._slots[self._slot(key)] - 1

    def find_or_add(self, key: bytes) -> int:
        slot = self._slot(key)
        number = self._slots[slot]
        if number:
            return number - 1
        self._count += 1
        self._slots[slot] = self._count
        self._keys += key
        if 3 * self._count > 2 * len(self._slots):
            self._grow()
        return self._count - 1

    def _slot(self, key: bytes) -> int:
        """Where the key is, or the free slot where it would be."""
        slots, keys, mask = self._slots, self._keys, self._mask
        slot = int.from_bytes(key[8:], "big") & mask
        while number := slots[slot]:
            end = number * _ID_BYTES
            if keys[end - _ID_BYTES : end] == key:
                break
            slot = (slot + 1) & mask
        return slot

    def _grow(self) -> None:
        mask = self._mask = 2 * len(self._slots) - 1
        slots = self._slots = array("I", bytes(4 * (mask + 1)))
        keys = self._keys
        for number in range(self._count):
            slot = int.from_bytes(keys[number * _ID_BYTES + 8 : (number + 1) * _ID_BYTES], "big") & mask
            while slots[slot]:
                slot = (slot + 1) & mask
            slots[slot] = number + 1


# ── accounting (rules.md 17) ──────────────────────────────────────────────────────────────────────────────────────────

ENDS = ("acked", "suppressed", "filtered", "handshakes", "rejected", "refused", "aborted")


def unaccounted(requests: Mapping[str, float]) -> float:
    """Requests received that came to no end, from the totals by name (`received` and ENDS); 0 when none waits.

    Negative: more ends than requests. Only totals that were read while no request was on its way must give 0.
    """
    return requests["received"] - sum(requests[name] for name in ENDS)
