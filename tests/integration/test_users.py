"""What a partner may do on the real broker: read its topics, also with the snippets as they were printed; no more."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import confluent_kafka as ck
import confluent_kafka.admin
import kafka
import kafka.errors
import kafka.protocol.admin
import kafka.protocol.consumer
import pytest
from users_world import WAIT_S, Partner, make_partner, read, until

from kafka_webhook_bridge.kafka.admin import Admin
from kafka_webhook_bridge.kafka.config import client_config
from kafka_webhook_bridge.stack import Stack
from kafka_webhook_bridge.stack.kafka import tool
from npm_packages import node_path

a: Any = confluent_kafka.admin
_REFUSED = {
    ck.KafkaError.TOPIC_AUTHORIZATION_FAILED,
    ck.KafkaError.GROUP_AUTHORIZATION_FAILED,
    ck.KafkaError.CLUSTER_AUTHORIZATION_FAILED,
    ck.KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
}


@pytest.fixture(scope="module")
def partner(stack: Stack) -> Partner:
    return make_partner(stack, "--bytes-per-second", "5MB")


# ── what a partner may not ────────────────────────────────────────────────────────────────────────────────────────────


def _admin(partner: Partner) -> Any:
    """The same for all: a client that is collected cancels what it was asked."""
    if not partner.clients:
        partner.clients.append(a.AdminClient(partner.config()))
    return partner.clients[0]


def _result(futures: Any) -> Any:
    future = next(iter(futures.values())) if isinstance(futures, dict) else futures
    return future.result(WAIT_S)


def _produce(partner: Partner, topic: str) -> None:
    reports: list[Any] = []
    producer = ck.Producer(partner.config(**{"topic.metadata.propagation.max.ms": 0}))
    producer.produce(topic, b"x", on_delivery=lambda error, _: reports.append(error))
    assert producer.flush(WAIT_S) == 0
    if reports[0] is not None:
        raise ck.KafkaException(reports[0])


def _produce_own(p: Partner) -> None:
    _produce(p, p.own)


def _produce_foreign(p: Partner) -> None:
    _produce(p, p.foreign)


def _transaction(p: Partner) -> None:
    ck.Producer(p.config(**{"transactional.id": p.name})).init_transactions(30)


def _create_own(p: Partner) -> None:
    _result(_admin(p).create_topics([ck.admin.NewTopic(f"{p.name}.new", 1, 1)]))


def _delete_own(p: Partner) -> None:
    _result(_admin(p).delete_topics([p.own]))


def _delete_foreign(p: Partner) -> None:
    _result(_admin(p).delete_topics([p.foreign]))


def _more_partitions(p: Partner) -> None:
    _result(_admin(p).create_partitions([ck.admin.NewPartitions(p.own, 100)]))


def _alter_topic(p: Partner) -> None:
    entry = a.ConfigEntry("retention.ms", "1", incremental_operation=a.AlterConfigOpType.SET)
    _result(_admin(p).incremental_alter_configs([a.ConfigResource("topic", p.own, incremental_configs=[entry])]))


def _alter_topic_the_old_way(p: Partner) -> None:
    with pytest.warns(DeprecationWarning, match="alter_configs"):
        futures = _admin(p).alter_configs([a.ConfigResource("topic", p.own, set_config={"retention.ms": "1"})])
    _result(futures)


def _alter_broker(p: Partner) -> None:
    entry = a.ConfigEntry("message.max.bytes", "1", incremental_operation=a.AlterConfigOpType.SET)
    _result(_admin(p).incremental_alter_configs([a.ConfigResource("broker", "1", incremental_configs=[entry])]))


def _read_broker_settings(p: Partner) -> None:
    _result(_admin(p).describe_configs([a.ConfigResource("broker", "1")]))


def _read_foreign_settings(p: Partner) -> None:
    _result(_admin(p).describe_configs([a.ConfigResource("topic", p.foreign)]))


def _delete_records(p: Partner) -> None:
    kind = kafka.protocol.admin.DeleteRecordsRequest
    place = kind.DeleteRecordsTopic.DeleteRecordsPartition(partition_index=0, offset=1)
    request = kind(topics=[kind.DeleteRecordsTopic(name=p.own, partitions=[place])], timeout_ms=10_000)
    _send(p, request, lambda answer: answer.topics[0].partitions[0].error_code)


def _describe_foreign_topic(p: Partner) -> None:
    _result(_admin(p).describe_topics(ck.TopicCollection([p.foreign])))


def _fetch(p: Partner, topic: str) -> None:
    """Asked of the broker without a look at the metadata, which says no before."""
    kind = kafka.protocol.consumer.FetchRequest
    place = kind.FetchTopic.FetchPartition(partition=0, fetch_offset=0, partition_max_bytes=1000)
    request = kind(
        max_version=12, max_wait_ms=100, min_bytes=1, max_bytes=1000, isolation_level=0, session_id=0, session_epoch=-1,
        topics=[kind.FetchTopic(topic=topic, partitions=[place])], forgotten_topics_data=[], rack_id="",
    )  # fmt: skip
    _send(p, request, lambda answer: answer.responses[0].partitions[0].error_code)


def _fetch_foreign(p: Partner) -> None:
    _fetch(p, p.foreign)


def _fetch_kafkas_own(p: Partner) -> None:
    _fetch(p, "__consumer_offsets")


def _join_foreign_group(p: Partner) -> None:
    errors: list[ck.KafkaError] = []
    consumer = ck.Consumer(p.config(**{"group.id": "archive-of-others"}))
    try:
        consumer.subscribe([p.own])

        def refused() -> bool:
            message = consumer.poll(0.5)
            assert message is None or message.error() is not None, "a record was read"
            if message is not None:
                errors.append(message.error())
            return bool(errors)

        until(refused, "an answer to the join")
    finally:
        consumer.close()
    raise ck.KafkaException(errors[0])


def _commit_to_foreign_group(p: Partner) -> None:
    kind = kafka.protocol.consumer.OffsetCommitRequest
    place = kind.OffsetCommitRequestTopic.OffsetCommitRequestPartition(partition_index=0, committed_offset=1)
    request = kind(
        max_version=7, group_id="archive-of-others", generation_id_or_member_epoch=-1, member_id="",
        topics=[kind.OffsetCommitRequestTopic(name=p.own, partitions=[place])],
    )  # fmt: skip
    _send(p, request, lambda answer: answer.topics[0].partitions[0].error_code)


def _describe_foreign_group(p: Partner) -> None:
    _result(_admin(p).describe_consumer_groups(["archive-of-others"]))


def _offsets_of_foreign_group(p: Partner) -> None:
    _result(_admin(p).list_consumer_group_offsets([ck.ConsumerGroupTopicPartitions("archive-of-others")]))


def _move_foreign_group(p: Partner) -> None:
    wanted = ck.ConsumerGroupTopicPartitions("archive-of-others", [ck.TopicPartition(p.own, 0, 0)])
    _result(_admin(p).alter_consumer_group_offsets([wanted]))


def _delete_foreign_group(p: Partner) -> None:
    _result(_admin(p).delete_consumer_groups(["archive-of-others"]))


def _binding(name: str) -> Any:
    return a.AclBinding(
        a.ResourceType.TOPIC, "*", a.ResourcePatternType.LITERAL, f"User:{name}", "*", a.AclOperation.ALL,
        a.AclPermissionType.ALLOW,
    )  # fmt: skip


def _any_rule() -> Any:
    return a.AclBindingFilter(
        a.ResourceType.ANY, None, a.ResourcePatternType.ANY, None, None, a.AclOperation.ANY, a.AclPermissionType.ANY
    )


def _create_rule(p: Partner) -> None:
    _result(_admin(p).create_acls([_binding(p.name)]))


def _delete_rules(p: Partner) -> None:
    _result(_admin(p).delete_acls([_any_rule()]))


def _read_rules(p: Partner) -> None:  # confluent-kafka shows none when it is refused
    request = kafka.protocol.admin.DescribeAclsRequest(
        resource_type_filter=1, resource_name_filter=None, pattern_type_filter=1, principal_filter=None,
        host_filter=None, operation=1, permission_type=1,
    )  # fmt: skip
    _send(p, request, lambda answer: answer.error_code)


def _own_password(p: Partner) -> None:
    info = a.ScramCredentialInfo(a.ScramMechanism.SCRAM_SHA_512, 4096)
    _result(_admin(p).alter_user_scram_credentials([a.UserScramCredentialUpsertion(p.name, info, b"other")]))


def _bridge_password(p: Partner) -> None:
    info = a.ScramCredentialInfo(a.ScramMechanism.SCRAM_SHA_512, 4096)
    _result(_admin(p).alter_user_scram_credentials([a.UserScramCredentialUpsertion("bridge", info, b"other")]))


def _list_users(p: Partner) -> None:
    # For everybody, as `users=None`, Kafka 4.3 gives no answer at all when it refuses.
    request = kafka.protocol.admin.DescribeUserScramCredentialsRequest(users=[("bridge",)])
    _send(p, request, lambda answer: answer.error_code)


def _quota_client(p: Partner) -> Any:
    return kafka.KafkaAdminClient(
        bootstrap_servers=[p.stack.kafka.proxy_bootstrap], security_protocol="SASL_PLAINTEXT",
        sasl_mechanism="SCRAM-SHA-512", sasl_plain_username=p.name, sasl_plain_password=p.password,
    )  # fmt: skip


def _send(p: Partner, request: Any, code: Callable[[Any], int]) -> None:
    with _quota_client(p) as client:
        answer = client._manager.run(client._manager.send, request)
    if code(answer):
        raise ck.KafkaException(ck.KafkaError(code(answer)))


def _more_quota(p: Partner) -> None:
    entry = ([("user", p.name)], [("consumer_byte_rate", 1e9, False)])
    request = kafka.protocol.admin.AlterClientQuotasRequest(entries=[entry], validate_only=False)
    _send(p, request, lambda answer: answer.entries[0].error_code)


def _read_quotas(p: Partner) -> None:
    request = kafka.protocol.admin.DescribeClientQuotasRequest(components=[("user", 2, None)], strict=True)
    _send(p, request, lambda answer: answer.error_code)


FORBIDDEN = (
    _produce_own, _produce_foreign, _transaction, _create_own, _delete_own, _delete_foreign,
    _more_partitions, _alter_topic, _alter_topic_the_old_way, _alter_broker, _read_broker_settings,
    _read_foreign_settings, _delete_records, _describe_foreign_topic, _fetch_foreign, _fetch_kafkas_own,
    _join_foreign_group, _commit_to_foreign_group, _describe_foreign_group, _offsets_of_foreign_group,
    _move_foreign_group, _delete_foreign_group, _create_rule, _delete_rules, _read_rules, _own_password,
    _bridge_password, _list_users, _more_quota, _read_quotas,
)  # fmt: skip


@pytest.mark.parametrize("attempt", FORBIDDEN, ids=lambda attempt: attempt.__name__.strip("_"))
def test_a_partner_is_refused(partner: Partner, attempt: Callable[[Partner], None]) -> None:
    with pytest.raises(ck.KafkaException) as refusal:
        attempt(partner)
    assert refusal.value.args[0].code() in _REFUSED, refusal.value


def test_writing_to_a_topic_that_is_not_there_makes_none(partner: Partner, stack: Stack) -> None:
    missing = f"{partner.name}.made-by-writing"
    with pytest.raises(ck.KafkaException) as refusal:
        _produce(partner, missing)
    assert refusal.value.args[0].code() in {ck.KafkaError.UNKNOWN_TOPIC_OR_PART, ck.KafkaError._UNKNOWN_TOPIC}
    assert missing not in Admin(stack.kafka.settings).list_topics()


def test_a_partner_sees_its_own_topics_alone(partner: Partner) -> None:
    assert set(_admin(partner).list_topics(timeout=30).topics) == {partner.own}


def test_a_partner_sees_its_own_groups_alone(partner: Partner, stack: Stack) -> None:
    read(client_config(stack.kafka.settings, **{"group.id": "somebody-else"}), [partner.own], 1)
    read(partner.config(**{"group.id": partner.group}), [partner.own], 1)
    seen = {group.group_id for group in _result(_admin(partner).list_consumer_groups()).valid}
    assert partner.group in seen
    assert {name for name in seen if not name.startswith(partner.name)} == set()


def test_whoever_reads_every_topic_does_not_read_kafkas_own(stack: Stack) -> None:
    partner = make_partner(stack, "--topics", "*")
    values = [m.value() for m in read(partner.config(**{"group.id": partner.group}), [partner.foreign], 3)]
    assert sorted(values) == [b"first", b"second", b"third"]
    with pytest.raises(ck.KafkaException) as refusal:
        _fetch_kafkas_own(partner)
    assert refusal.value.args[0].code() == ck.KafkaError.TOPIC_AUTHORIZATION_FAILED
    assert not [name for name in _admin(partner).list_topics(timeout=30).topics if name.startswith("__")]


# ── what it may: with the snippets that were printed ──────────────────────────────────────────────────────────────────


def test_a_partner_reads_its_topics_in_its_groups(partner: Partner) -> None:
    _fetch(partner, partner.own)  # the refusals of others are not for the request's sake
    found = read(partner.config(**{"group.id": f"{partner.name}-all"}), [f"^{re.escape(partner.name)}\\."], 3)
    assert sorted(message.value() for message in found) == [b"first", b"second", b"third"]
    assert {message.topic() for message in found} == {partner.own}


def test_the_java_properties_work_as_printed(partner: Partner, folder: Path) -> None:
    (folder / f"{partner.name}.properties").write_text(partner.made["snippets"]["java"])
    _, *options = shlex.split(partner.made["use"]["java"])
    assert "--command-config" not in options  # which the tools before Kafka 4.2 do not know
    done = subprocess.run(
        tool(
            "org.apache.kafka.tools.consumer.ConsoleConsumer", *options, "--max-messages", "3", "--timeout-ms", "60000"
        ),
        cwd=folder, capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    # From 4.2 on they say on standard output which option is the new one.
    records = [line for line in done.stdout.splitlines() if "Use --command-config instead" not in line]
    assert sorted(records) == ["first", "second", "third"], done.stdout + done.stderr


def _lines_of(argv: list[str], cwd: Path, count: int, begin: str = "", **environ: str) -> list[str]:
    """Run a reader that goes on for ever until it wrote so many lines that begin so, then press Ctrl-C."""
    with (cwd / "out").open("w") as out, (cwd / "err").open("w") as err:
        process = subprocess.Popen(argv, cwd=cwd, stdout=out, stderr=err, env={**os.environ, **environ})

        def lines() -> list[str]:
            return [line for line in (cwd / "out").read_text().splitlines() if line.startswith(begin)]

        try:

            def enough() -> bool:
                assert process.poll() is None, (cwd / "err").read_text()
                return len(lines()) >= count

            until(enough, f"{count} lines of {argv[0]}")
            process.send_signal(signal.SIGINT)
            process.wait(60)
        finally:
            process.kill()
            process.wait()
    assert "Traceback" not in (cwd / "err").read_text()
    return lines()


def test_the_python_snippet_runs_as_printed(partner: Partner, folder: Path) -> None:
    (folder / "p.py").write_text(partner.made["snippets"]["python"])
    said = _lines_of([sys.executable, "p.py"], folder, 3)
    assert sorted(line.split()[-1] for line in said) == ["b'first'", "b'second'", "b'third'"]
    assert all(line.startswith(partner.own) for line in said)


def _new_librdkafka(folder: Path) -> str:
    """A folder for LD_LIBRARY_PATH: Kafka 4 refuses the SCRAM of librdkafka before 2.6.1, which kcat may have."""
    found = next(Path(ck.__file__).parents[1].glob("confluent_kafka.libs/librdkafka-*.so*"), None)
    if found is None:
        pytest.skip("NOT RUN: this confluent-kafka brings no librdkafka")
    (folder / "lib").mkdir()
    (folder / "lib/librdkafka.so.1").symlink_to(found)
    return f"{folder / 'lib'}:{found.parent}"


def test_the_kcat_snippet_works_as_printed(partner: Partner, folder: Path) -> None:
    if shutil.which("kcat") is None:
        pytest.skip("NOT RUN: kcat is not installed")
    (folder / f"{partner.name}.kcat.conf").write_text(partner.made["snippets"]["kcat"])
    command = ["sh", "-c", f"exec {partner.made['use']['kcat']} -u"]
    said = _lines_of(command, folder, 3, LD_LIBRARY_PATH=_new_librdkafka(folder))
    assert sorted(said) == ["first", "second", "third"]


def test_the_node_snippet_runs_as_printed(partner: Partner, folder: Path) -> None:
    packages = node_path()
    (folder / "p.cjs").write_text(partner.made["snippets"]["node"])
    said = _lines_of(["node", "p.cjs"], folder, 3, partner.own, NODE_PATH=packages)
    assert sorted(line.split()[-1] for line in said) == ["first", "second", "third"]
