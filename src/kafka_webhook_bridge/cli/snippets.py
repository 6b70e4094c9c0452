"""What an outside consumer pastes to read: Java properties, kcat, Python, Node. Each reads all that the user may.

All go on by themselves after the cluster was away; kcat and kafkajs need to be told so.
"""

from __future__ import annotations

import json
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Access:
    """Who reads what, and where. `topics` are patterns as in `kafka.users.Rights`; `ca` is empty for the system's."""

    name: str
    password: str
    topics: tuple[str, ...]
    group_prefix: str
    servers: str
    protocol: str
    ca: str

    def group(self, client: str) -> str:
        """A consumer group of its own, so that the snippets do not take records from each other."""
        return f"{self.group_prefix}{'' if self.group_prefix[-1:] in '.-_' else '-'}{client}"


@dataclass(frozen=True, slots=True)
class Snippet:
    """A file, and how it is used."""

    kind: str
    title: str
    file: str
    text: str
    use: str


def snippets(access: Access) -> list[Snippet]:
    """In the order in which they are shown."""
    name = access.name
    include = "|".join(map(_java, access.topics))
    kcat = " ".join(f"'{topic}'" for topic in map(_librdkafka, access.topics))
    return [
        Snippet(
            "java", "Java, with the tools of Kafka 3 and 4", f"{name}.properties", _properties(access),
            f"kafka-console-consumer.sh --bootstrap-server {access.servers} --consumer.config {name}.properties "
            f"--include '{include}' --from-beginning",
        ),
        Snippet(
            "kcat", "kcat, with librdkafka 2.6.1 or newer", f"{name}.kcat.conf", _kcat(access),
            f"kcat -E -F {name}.kcat.conf -G {access.group('kcat')} {kcat}",
        ),
        Snippet("python", "Python", f"{name}.py", _python(access), f"pip install confluent-kafka && python {name}.py"),
        Snippet("node", "Node", f"{name}.cjs", _node(access), f"npm install kafkajs && node {name}.cjs"),
    ]  # fmt: skip


def _properties(access: Access) -> str:
    lines = [
        f"bootstrap.servers={access.servers}",
        f"security.protocol={access.protocol}",
        "sasl.mechanism=SCRAM-SHA-512",
        "sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required "
        f'username="{access.name}" password="{access.password}";',
    ]
    if access.ca and access.protocol == "SASL_SSL":
        location = access.ca.replace("\\", "\\\\")
        lines += ["ssl.truststore.type=PEM", f"ssl.truststore.location={location}"]
    lines += [f"group.id={access.group('java')}", "auto.offset.reset=earliest", "allow.auto.create.topics=false"]
    return "\n".join(lines) + "\n"


def _kcat(access: Access) -> str:
    return "".join(f"{name}={value}\n" for name, value in _client(access).items())


def _client(access: Access) -> dict[str, str]:
    """librdkafka's configuration."""
    config = {
        "bootstrap.servers": access.servers,
        "security.protocol": access.protocol,
        "sasl.mechanisms": "SCRAM-SHA-512",
        "sasl.username": access.name,
        "sasl.password": access.password,
    }
    if access.ca and access.protocol == "SASL_SSL":
        config["ssl.ca.location"] = access.ca
    return config | {"auto.offset.reset": "earliest"}


def _python(access: Access) -> str:
    config = _client(access)
    config["group.id"] = access.group("python")
    lines = "".join(f"        {_quoted(name)}: {_quoted(value)},\n" for name, value in config.items())
    topics = ", ".join(_quoted(_librdkafka(topic)) for topic in access.topics)
    return f"""\
import sys

from confluent_kafka import Consumer

consumer = Consumer(
    {{
{lines}    }}
)
consumer.subscribe([{topics}])
try:
    while True:
        record = consumer.poll(1.0)
        if record is None:
            continue
        if record.error():
            print(record.error(), file=sys.stderr)
            continue
        print(record.topic(), record.partition(), record.offset(), record.value(), flush=True)
except KeyboardInterrupt:
    pass
finally:
    consumer.close()
"""


def _node(access: Access) -> str:
    brokers = ", ".join(_quoted(server.strip()) for server in access.servers.split(","))
    encrypted = access.protocol == "SASL_SSL"
    ssl = f"{{ ca: [readFileSync({_quoted(access.ca)})] }}" if encrypted and access.ca else str(encrypted).lower()
    read = 'const { readFileSync } = require("node:fs");\n' if encrypted and access.ca else ""
    topics = ", ".join(map(_javascript, access.topics))
    return f"""\
{read}const {{ Kafka }} = require("kafkajs");

const kafka = new Kafka({{
  clientId: {_quoted(access.name)},
  brokers: [{brokers}],
  ssl: {ssl},
  sasl: {{ mechanism: "scram-sha-512", username: {_quoted(access.name)}, password: {_quoted(access.password)} }},
  retry: {{ maxRetryTime: 2000 }}, // while the cluster is away; after five tries the consumer begins anew, for ever
}});

async function main() {{
  // A group waits so long for a member that was cut off, and a record may take no longer.
  const session = {{ sessionTimeout: 8000, heartbeatInterval: 2000 }};
  const consumer = kafka.consumer({{ groupId: {_quoted(access.group("node"))}, ...session }});
  await consumer.connect();
  await consumer.subscribe({{ topics: [{topics}], fromBeginning: true }});
  await consumer.run({{
    eachMessage: async ({{ topic, partition, message }}) => {{
      console.log(topic, partition, message.offset, message.value?.toString());
    }},
  }});
}}

main().catch((error) => {{
  console.error(error);
  process.exit(1);
}});
"""


def _quoted(text: str) -> str:
    """A string of Python, and of JavaScript."""
    return json.dumps(text)


def _escaped(topic: str) -> str:
    """As a regular expression. Of what a topic's name may hold, only the dot means anything there."""
    return topic.removesuffix("*").replace(".", "\\.")


def _java(topic: str) -> str:
    return _escaped(topic) + (".*" if topic.endswith("*") else "")


def _librdkafka(topic: str) -> str:
    """It takes what begins with `^` for a regular expression."""
    return f"^{_escaped(topic)}" + ("." if topic == "*" else "") if topic.endswith("*") else topic


def _javascript(topic: str) -> str:
    return f"/^{_escaped(topic)}/" if topic.endswith("*") else _quoted(topic)
