"""The table of faults: what breaks, and what must hold. The numbers are rows of the fault matrix (MATRIX)."""

from __future__ import annotations

from faults.checker import Expect
from faults.injectors import disks, edges, limits, mixed, network, nothing, processes, rights, senders, stores, topics
from faults.runner import EVENTS, Scenario

MATRIX = {
    1: "broker killed",
    2: "broker stands still",
    3: "power cut",
    4: "broker's disk full",
    5: "network cut with RST",
    6: "black hole",
    7: "latency, slices, little bandwidth",
    8: "the acknowledgement alone is lost",
    9: "broker at a new address",
    10: "PostgreSQL away",
    11: "both stores away",
    12: "PostgreSQL's disk full, read-only",
    13: "processes of the bridge killed",
    14: "SIGTERM under load",
    15: "clock jumps",
    16: "slow senders",
    17: "huge bodies, lying lengths",
    18: "the same delivery twice",
    19: "poison payloads",
    20: "TLS proxy in front of the broker restarted",
    21: "certificate of the outside port expires or changes",
    22: "topic deleted, made anew",
    23: "rights revoked, password changed",
    24: "record too large for the topic",
    25: "producer's queue full",
    26: "little memory",
    27: "no file descriptors left",
    28: "producer out of step with the broker",
    29: "relay killed between acknowledgement and delete",
    30: "long transaction, two relays",
    31: "mixed",
}

# While Kafka is away, an event that was handed to the producer may be written by it later and by the relay too; a relay
# that was cut off itself may add one more.
_OUTAGE = Expect(copies_max=3, fallbacks_min=1)
_SECONDS = 8.0
_OFTEN = 3  # `--times 20` for the long version

SCENARIOS = (
    Scenario("healthy", (19,), "nothing breaks", nothing, Expect(order=True)),
    # ── Kafka ─────────────────────────────────────────────────────────────────────────────────────────────────────
    Scenario(
        "kafka-killed", (1,), "broker killed again and again", stores.kafka_killed(0.5), _OUTAGE, times=_OFTEN
    ),
    Scenario(
        "kafka-away", (1,), "broker killed, away for 10 s", stores.kafka_killed(10),
        Expect(copies_max=3, fallbacks_min=1, p99_during_s_max=1.0, p50_settled_s_max=0.010, growth_max=1.2), EVENTS,
    ),
    Scenario(
        "kafka-stopped", (2,), "broker stands still for 30 s", stores.kafka_stopped(30),
        Expect(copies_max=3, fallbacks_min=1, copies_min=1),
    ),
    Scenario(
        "kafka-power-cut", (3,), "broker loses its power", disks.kafka_power_cut, _OUTAGE,
        needs=("disk",), ground=disks.ground_on_disks,
    ),
    Scenario(
        "postgres-power-cut", (3,), "PostgreSQL loses its power while Kafka is away", disks.postgres_power_cut,
        Expect(copies_max=3, fallbacks_min=1, refused_max=None), needs=("disk",), ground=disks.ground_on_disks,
    ),
    Scenario(
        "kafka-disk-full", (4,), "broker's disk is full", disks.disk_full("kafka"), _OUTAGE,
        needs=("disk",), ground=disks.ground_on_disks,
    ),
    Scenario("kafka-reset", (5,), "RST and refused", network.wire("RST and refused", _SECONDS, down=True), _OUTAGE),
    Scenario("kafka-cut-off", (5,), "connections end in the middle", network.cut_in_the_middle(8), _OUTAGE),
    Scenario("kafka-deaf", (6,), "black hole to the broker", network.wire("black hole", _SECONDS, cut=()), _OUTAGE),
    Scenario(
        "kafka-late-100", (7,), "100 to 150 ms to the broker",
        network.wire("100 ms", _SECONDS, latency_s=0.1, jitter_s=0.05), Expect(copies_max=2),
    ),
    Scenario(
        "kafka-late-500", (7,), "500 to 700 ms to the broker",
        network.wire("500 ms", _SECONDS, latency_s=0.5, jitter_s=0.2), Expect(copies_max=3),
    ),
    Scenario(
        "kafka-late-2000", (7,), "2 s to the broker", network.wire("2 s", _SECONDS, latency_s=2.0), _OUTAGE
    ),
    Scenario(
        "kafka-narrow", (7,), "64 kB/s in slices of 1000 bytes",
        network.wire("64 kB/s", _SECONDS, bytes_per_s=64_000, slice_bytes=1000), _OUTAGE,
    ),
    Scenario(
        "kafka-ack-lost", (8,), "the broker's answers are lost",
        network.wire("answers lost", _SECONDS, cut=("to_client",)), _OUTAGE,
    ),
    Scenario(
        "kafka-new-address", (9,), "broker comes back at a new address", network.new_address, _OUTAGE,
        ground=disks.ground_alone,
    ),
    # ── nginx in front of Kafka: senders do not meet it, so all is as when nothing breaks ─────────────────────────────
    # Slower than others: TLS and a consumer want their share of the machine.
    Scenario(
        "nginx-killed", (20,), "nginx reloaded and killed under an outside consumer", edges.nginx_restarted(3),
        Expect(order=True), times=_OFTEN, needs=("nginx",), rate=200,
    ),
    Scenario(
        "certificates", (21,), "outside certificate rotated, of a wrong name, expired", edges.certificate_changed,
        Expect(order=True), needs=("nginx",), rate=200,
    ),
    # ── PostgreSQL ────────────────────────────────────────────────────────────────────────────────────────────────
    Scenario(
        "postgres-killed", (10,), "PostgreSQL killed again and again", stores.postgres_killed(0.5),
        Expect(copies_max=2), EVENTS, times=_OFTEN,
    ),
    Scenario(
        "postgres-stopped", (10,), "PostgreSQL stands still", stores.postgres_stopped(_SECONDS),
        Expect(copies_max=2), EVENTS,
    ),
    Scenario(
        "postgres-deaf", (10,), "black hole to PostgreSQL", network.wire("black hole", _SECONDS, "postgres", cut=()),
        Expect(copies_max=2), EVENTS,
    ),
    Scenario(
        "postgres-late", (7, 10), "300 ms to PostgreSQL",
        network.wire("300 ms to PostgreSQL", _SECONDS, "postgres", latency_s=0.15), Expect(copies_max=2), EVENTS,
    ),
    Scenario(
        "postgres-disk-full", (12,), "PostgreSQL's disk is full", disks.disk_full("postgres"),
        Expect(copies_max=2), EVENTS,
        needs=("disk",), ground=disks.ground_on_disks,
    ),
    Scenario(
        "postgres-read-only", (12,), "PostgreSQL refuses writes", stores.postgres_read_only(5),
        Expect(copies_max=2), EVENTS,
    ),
    Scenario(
        "both-away", (11,), "Kafka and PostgreSQL killed", stores.both_away(5),
        Expect(copies_max=3, refused_max=None, refused_min=100, acked_during_min=0), EVENTS,
    ),
    Scenario(
        "both-away-stopped", (11,), "Kafka killed, PostgreSQL stands still", stores.both_away(5, postgres="stopped"),
        Expect(copies_max=3, refused_max=None, refused_min=100, acked_during_min=0), EVENTS,
    ),
    # ── the bridge ────────────────────────────────────────────────────────────────────────────────────────────────
    Scenario(
        "ingest-killed", (13,), "ingest process killed again and again", processes.child_killed("ingest"),
        Expect(copies_max=2, resets=True), times=_OFTEN,
    ),
    Scenario(
        "worker-killed", (13,), "worker process killed again and again", processes.child_killed("worker"),
        Expect(copies_max=3), times=_OFTEN,
    ),
    Scenario(
        "supervisor-killed", (13,), "supervisor killed again and again", processes.supervisor_killed,
        Expect(copies_max=3, resets=True), times=_OFTEN,
    ),
    Scenario(
        "drain", (14,), "SIGTERM with 100 keep-alive connections", processes.drained, Expect(copies_max=2),
        rate=1000, connections=100, environ={"KWB_INGEST_DRAIN_GRACE_MS": "2000"},
    ),
    Scenario(
        "rolling", (14,), "two bridges restarted one after the other", processes.rolled, Expect(copies_max=2),
        arguments=("--share-port",), environ={"KWB_INGEST_DRAIN_GRACE_MS": "2000"},
    ),
    Scenario(
        "relay-killed", (29,), "worker killed after an acknowledgement, before the delete", processes.relay_killed,
        # 250 rows are claimed at once, and two such batches are under way.
        Expect(copies_max=2, rows_at_death=500, fallbacks_min=1, copies_min=1), EVENTS,
        environ={
            "KWB_FAIL": "relay.acked:kill:12", "KWB_RELAY_STATEMENT_TIMEOUT_MS": "1000",
            "KWB_RELAY_BATCH_RECORDS_MAX": "250",
        },
    ),
    Scenario(
        "two-relays", (30,), "a long transaction, two bridges", processes.long_transaction, Expect(order=True),
        {"store": 8, "strict": 2, "shut": 1}, arguments=("--share-port",), rate=200,
    ),
    # ── topics, rights, sizes, queues ─────────────────────────────────────────────────────────────────────────────
    Scenario(
        "topic-deleted", (22,), "a topic is deleted and made anew later", topics.topic_deleted("store", 5),
        Expect(copies_max=2, kafka_forgets=True),
    ),
    Scenario(
        "topic-deleted-direct", (22,), "the same for a source that Kafka acknowledges",
        topics.topic_deleted("keyed", 5), Expect(copies_max=2, kafka_forgets=True, at_risk="keyed", fallbacks_min=1),
    ),
    Scenario(
        "topic-recreated", (22, 28), "a topic is made anew at once, three times", topics.topic_recreated("keyed"),
        Expect(copies_max=3, kafka_forgets=True, at_risk="keyed"),
    ),
    Scenario(
        "kafka-wiped", (28,), "the broker loses all its data", stores.kafka_wiped,
        Expect(copies_max=3, kafka_forgets=True, at_risk="plain", fallbacks_min=1), {"plain": 9, "store": 3, "shut": 1},
        ground=disks.ground_alone,
    ),
    Scenario(
        "right-revoked", (23,), "no right to write to one topic", rights.right_revoked("keyed", 5),
        Expect(copies_max=2, fallbacks_min=1), setup=rights.as_limited_user,
    ),
    Scenario(
        "password-rotated", (23,), "the broker has another password", rights.password_rotated(5), _OUTAGE,
        setup=rights.as_limited_user,
    ),
    Scenario(
        "too-large", (24,), "the topic takes only 2000 bytes", topics.too_large("keyed", 2000, 5),
        Expect(copies_max=2, quarantine=True, fallbacks_min=1),
    ),
    Scenario(
        "queue-full", (25,), "room for 50 records, broker stands still", stores.kafka_stopped(5), _OUTAGE,
        environ={"KWB_KAFKA_QUEUE_RECORDS_MAX": "50"},
    ),
    # ── the machine and its senders ───────────────────────────────────────────────────────────────────────────────
    Scenario(
        "clock", (15,), "the clock jumps 2 h and a day, to and fro", limits.clock_jumps, Expect(),
        needs=("clock",), setup=limits.with_clock,
    ),
    Scenario("slow-senders", (16,), "200 senders of a byte at a time", senders.slow_senders(200), Expect()),
    Scenario("lying-senders", (17,), "bodies over the limit, bombs", senders.lying_senders, Expect()),
    Scenario(
        "duplicates", (18,), "every second delivery is sent again at once", nothing, Expect(),
        {"once": 5, "marked": 5, "shut": 1}, resends=0.5, resend_window=20,
    ),
    Scenario(
        "memory", (26,), "256 MiB, 300 bodies of 1 MiB, broker stands still",
        limits.memory_pressure(300, 1024**2 - 1024), Expect(copies_max=3, refused_max=None),
        needs=("memory",), setup=limits.memory_limited(256 * 1024**2), rate=100,
    ),
    Scenario(
        "files", (27,), "eight file descriptors left", limits.files_exhausted, Expect(copies_max=2),
        connections=100, rate=200,
    ),
    Scenario(
        "mixed", (31,), "one to three of these at a time", mixed.mixed(60),
        # Who connects while a killed process is made anew waits for it first: at most 2 s with neither store at hand.
        Expect(copies_max=6, refused_max=None, resets=True, answer_s_max=4.2),
    ),
)  # fmt: skip
BY_NAME = {scenario.name: scenario for scenario in SCENARIOS}
assert len(BY_NAME) == len(SCENARIOS)
