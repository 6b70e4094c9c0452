"""A source from its sender's side: profile and secrets, for `kwb send` and `kwb verify`. The bridge keeps no secret so.

The table of sources has verifiers and digests; whoever signs as the sender needs the secrets themselves, read once more
from bridge.yaml.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

from kafka_webhook_bridge.settings import Settings, expand_variables, is_inline, read_configuration, variables
from kafka_webhook_bridge.sources.catalog import Catalog
from kafka_webhook_bridge.sources.config import load_configuration
from kafka_webhook_bridge.sources.document import parse_document
from kafka_webhook_bridge.sources.model import BridgeModel
from kafka_webhook_bridge.sources.profile import Profile
from kafka_webhook_bridge.sources.proof import NoKeys, Resolver, asks_login, public_of
from kafka_webhook_bridge.sources.source import Public
from kafka_webhook_bridge.sources.verify import Verify


class Sender(NamedTuple):
    """What one configured sender signs with.

    `row` is the profile's `verify` as the source changes it; `login` tells that it asks for Basic credentials, too.
    """

    name: str
    profile: Profile
    row: Verify
    secrets: list[str]
    params: Mapping[str, str]
    public: Public | None
    login: bool


def load_senders(environ: Mapping[str, str] | None = None) -> tuple[Settings, dict[str, Sender]]:
    """Settings, and the sources of bridge.yaml that have a profile, by name. Raises ConfigError as the bridge would."""
    settings, _ = load_configuration(environ)
    name, text = read_configuration(settings.bridge.config)
    expand = partial(expand_variables, environ=variables(settings.bridge, environ))
    document = parse_document(name, text, expand)
    bridge = BridgeModel.model_validate(document.data or {})
    resolver = Resolver(
        document, load_catalog(settings, bridge), NoKeys(), forwarded=True, learned={}, keeps_learned=False
    )
    found = {}
    for source, model in bridge.sources.items():
        if model is None or (profile := resolver.profile(source, model)) is None:
            continue
        row = resolver.row(("sources", source), model, profile)
        assert row is not None  # else the configuration had not been taken
        secrets = [secret.get_secret_value() for secret in model.secrets]
        public = public_of(source, model.public_url, bridge.public_url)
        found[source] = Sender(source, profile, row, secrets, model.params, public, asks_login(model))
    return settings, found


def has_profile(settings: Settings, source: str) -> bool:
    """Whether bridge.yaml gives this source a profile, as far as can be told without secrets."""
    try:
        name, text = read_configuration(settings.bridge.config)
    except (OSError, ValueError):
        return False
    data = parse_document(name, text, lambda value: value).data
    sources = data.get("sources") if isinstance(data, dict) else None
    facts = sources.get(source) if isinstance(sources, dict) else None
    return isinstance(facts, dict) and facts.get("profile") is not None


def load_catalog(settings: Settings, bridge: BridgeModel) -> Catalog:
    """The packaged profiles and those that bridge.yaml names, from its folder on."""
    folder = Path() if is_inline(settings.bridge.config) else Path(settings.bridge.config).parent
    return Catalog(folder / path for path in bridge.catalog)
