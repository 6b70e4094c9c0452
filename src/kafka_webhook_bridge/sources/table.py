"""All sources of one configuration, configured and open ones."""

from __future__ import annotations

import hashlib
import ipaddress
import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from kafka_webhook_bridge.sources.source import NAME, RESERVED_NAMES, Source, named

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def metric_name(topic: str) -> str:
    """What Kafka calls a topic in its metrics; two topics with one metric name cannot both exist."""
    return topic.replace(".", "_")


class SourceTable:
    """All sources of one configuration. Immutable but for the cache of open ones; a reload builds a new table.

    `hash` tells configurations apart without showing secrets; `body_bytes_max` is the largest of any source.
    """

    def __init__(
        self,
        sources: Mapping[str, Source],
        *,
        open_pattern: Source | None,
        topic_prefix: str,
        topics_max: int,
        trusted_proxies: tuple[Network, ...],
        public_url: str | None,
    ) -> None:
        self._sources = dict(sources)
        self._open_pattern = open_pattern
        self._open_sources: dict[str, Source] = {}
        self._taken = {metric_name(source.topic) for source in sources.values()}
        self.topic_prefix = topic_prefix
        self.topics_max = topics_max
        self.trusted_proxies = trusted_proxies
        self.public_url = public_url
        everything = [*self._sources.values(), *([open_pattern] if open_pattern else [])]
        self.body_bytes_max = max((source.body_bytes_max for source in everything), default=0)
        shape = [topic_prefix, topics_max, list(map(str, trusted_proxies)), public_url, *map(describe, everything)]
        self.hash = hashlib.sha256(json.dumps(shape).encode()).hexdigest()[:12]

    @property
    def open_rule(self) -> bool:
        """Whether source names beyond the configured ones are accepted."""
        return self._open_pattern is not None

    def get(self, name: str) -> Source | None:
        """The configured source of that name."""
        return self._sources.get(name)

    def open_source(self, name: str) -> Source | None:
        """The source that the open rule makes of a name; None if the rule is off or the name is not for it.

        It never leads to the topic of a configured source, whose own credentials it would evade. At most `topics_max`
        sources are kept; whether a new topic may be made is decided by whoever makes topics.
        """
        pattern = self._open_pattern
        if pattern is None:
            return None
        source = self._open_sources.get(name)
        if source is None:
            topic = self.topic_prefix + name
            if not NAME.fullmatch(name) or name in RESERVED_NAMES or metric_name(topic) in self._taken:
                return None
            source = replace(pattern, **named(name), topic=topic, open=True, public=None)
            if len(self._open_sources) < self.topics_max:
                self._open_sources[name] = source
        return source

    def all(self) -> list[Source]:
        """The configured sources, in the order of the file."""
        return list(self._sources.values())


def describe(source: Source) -> dict[str, Any]:
    """What people may know of a source, as plain JSON values. No secrets."""
    return {
        "name": source.name,
        "topic": source.topic,
        "methods": sorted(method.decode() for method in source.methods),
        "body_bytes_max": source.body_bytes_max,
        "auth": source.auth,
        "profile": source.proof.profile if source.proof else None,
        "verified": source.verified,
        "covers_body": source.covers_body,
        "secrets": source.proof.secrets if source.proof else 0,
        "params": sorted(source.proof.params) if source.proof else [],
        "credentials": len(source.credentials),
        "format": source.format,
        "type": source.type.text if source.type else None,
        "key": source.key.text if source.key else None,
        "content_encoding": "opaque" if source.content_encoding_opaque else "identity",
        "rate_limit_per_second": source.rate_limit_per_second,
        "index_json": source.index_json,
        "ack": source.ack,
        "ordering": "strict" if source.strict else "none",
        "delivery_id": source.delivery_id.text if source.delivery_id else None,
        "dedupe": source.dedupe,
        "public_url": (source.public.base + source.public.path).decode() if source.public else None,
    }
