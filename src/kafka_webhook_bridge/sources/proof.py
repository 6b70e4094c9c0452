"""A source's profile, resolved: what its row says, what bridge.yaml says otherwise, and every mistake in both."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from secrets import token_hex
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

from pydantic import ValidationError

from kafka_webhook_bridge.sources.catalog import Catalog, UnknownProfile
from kafka_webhook_bridge.sources.decode import compile_decode
from kafka_webhook_bridge.sources.document import Document, Path
from kafka_webhook_bridge.sources.handshake import compile_handshakes
from kafka_webhook_bridge.sources.model import SourceModel
from kafka_webhook_bridge.sources.places import places_of, reads_authorization, rights_of, ways_of
from kafka_webhook_bridge.sources.profile import Profile
from kafka_webhook_bridge.sources.source import Proof, Public
from kafka_webhook_bridge.sources.verify import CompileError, KeyStore, Verify, parse_verify
from kafka_webhook_bridge.sources.verify import compile as compile_verifier
from kafka_webhook_bridge.sources.verify.keys import SECRETS_MAX
from kafka_webhook_bridge.sources.words import explain

# Keys of a source that mean nothing without a profile.
OF_PROFILES: Final = ("secrets", "params", "verify", "replay_window_s", "i_know")

_BASIC: Final = b'Basic realm="webhooks", charset="UTF-8"'
# RFC 9110 15.5.2 asks for a challenge with every 401; no scheme that is registered means a signed body.
_SIGNATURE: Final = b'Signature realm="webhooks"'


class NoKeys:
    """A KeyStore that holds nothing: enough to check a configuration."""

    offline = False

    def jwks(self, address: str) -> Sequence[Mapping[str, Any]] | None:
        return None

    def certificate(self, address: str) -> str | None:
        return None

    def ebay(self, key_id: str) -> Mapping[str, Any] | None:
        return None


class _Row(NamedTuple):
    """A row as one source wants it: what the engine reads of a profile."""

    verify: Verify
    covers_body: bool | None


class Resolver:
    """Makes proofs of one configuration. `forwarded` tells that proxies are trusted to say the address."""

    def __init__(
        self,
        document: Document,
        catalog: Catalog,
        keys: KeyStore,
        *,
        forwarded: bool,
        learned: Mapping[str, Sequence[str]],
        keeps_learned: bool,
    ) -> None:
        self._document = document
        self._catalog = catalog
        self._keys = keys
        self._forwarded = forwarded
        self._learned = learned
        self._keeps_learned = keeps_learned

    def profile(self, name: str, model: SourceModel) -> Profile | None:
        """The profile of a source, None if it has none or a wrong one."""
        path: Path = ("sources", name)
        if model.profile is None:
            for key in OF_PROFILES:
                if key in model.model_fields_set:
                    self._say(path, key, f"there is no profile that `{key}` could be for")
            return None
        try:
            return self._catalog.load(model.profile)
        except UnknownProfile as error:
            self._say(path, "profile", str(error))
            return None

    def proof(self, name: str, model: SourceModel, profile: Profile, public: Public | None) -> Proof | None:
        """The proof of a source; None, and problems in the document, when it cannot be made."""
        path: Path = ("sources", name)
        before = len(self._document.problems)
        row = self.row(path, model, profile)
        self._check(path, model, profile)
        if row is None or len(self._document.problems) > before:
            return None
        learns = self._keeps_learned and _may_learn(profile)
        secrets = [secret.get_secret_value() for secret in model.secrets]
        given = len(secrets)
        if learns:
            usable = [secret for secret in self._learned.get(name, ()) if self._is_key(row, profile, model, secret)]
            secrets = [*secrets, *usable][:SECRETS_MAX]
            given = len(secrets)
            secrets = secrets or [token_hex(32)]  # until one is learned nobody has the right one
        try:
            verifier = compile_verifier(
                _Row(row, profile.covers_body),
                secrets,
                params=model.params,
                public_url=None if public is None else public.base.decode(),
                keys=self._keys,
            )
            handshakes = compile_handshakes(profile.handshakes, params=model.params, secrets=secrets)
        except CompileError as error:
            key = {"params.missing": "params", "key.malformed": "secrets", "credentials.missing": "secrets"}
            why = str(error)
            if error.code == "credentials.missing" and not learns and _may_learn(profile):
                why += "; its hand-shake can bring one where DATABASE_URL and KWB_STORE_SECRET_KEY are set"
            self._say(path, key.get(error.code, "profile"), why)
            return None
        except ValueError as error:
            self._say(path, "profile", str(error))
            return None
        if profile.from_proxy and not self._forwarded:
            what = f"with {profile.name}, a proxy says who sends, so it must be one of `trusted_proxies`"
            self._say(path, "profile", what)
        if verifier.needs_url and public is None and not self._forwarded:
            what = f"{profile.name} signs the address, so it must be known: set it here as it was given to the sender"
            self._say(path, "public_url", what)
        return Proof(
            profile.name,
            verifier,
            given,
            model.params,
            tuple(name for name in profile.setup.params if name not in model.params),
            places_of(row, profile.headers),
            rights_of(row, secrets),
            None if profile.event.decode is None else compile_decode(profile.event.decode, secrets),
            None if public is None or public.path == f"/{name}".encode() else public.path,
            handshakes,
            frozenset(method for shake in handshakes for method in shake.methods),
            profile.refused_status,
            _BASIC if verifier.scheme == "basic" else _SIGNATURE,
            learns,
            profile.from_proxy,
        )

    def _is_key(self, row: Verify, profile: Profile, model: SourceModel, secret: str) -> bool:
        """Whether a learned secret is one as the profile wants them: what a sender gave must not stop the others."""
        try:
            compile_verifier(
                _Row(row, profile.covers_body), [secret], params=model.params, public_url=None, keys=self._keys
            )
        except ValueError:
            return False
        return True

    def _check(self, path: Path, model: SourceModel, profile: Profile) -> None:
        if profile.unsafe and not model.i_know:
            self._say(path, "profile", f"with {profile.name}, {profile.unsafe}; if that is meant, say `i_know: true`")
        if model.auth == "none" and "auth" in model.model_fields_set:
            self._say(
                path, "auth", "the profile decides who may send; leave `auth` out, or say `basic` to ask for both"
            )
        if asks_login(model) and reads_authorization(profile.verify):
            what = f"{profile.name} reads the header Authorization itself, so there is no room for Basic beside it"
            self._say(path, "auth", what)
        for param in model.params:
            if param not in profile.setup.params:
                self._say((*path, "params"), param, _unknown(param, profile))

    def row(self, path: Path, model: SourceModel, profile: Profile) -> Verify | None:
        """The verify table with what the source changes in it."""
        row = profile.verify
        if model.verify:
            if profile.evidence != "generic":
                what = (
                    f"{profile.name} is as its sender signs; a sender that differs is a profile of your own (`catalog`)"
                )
                self._say(path, "verify", what)
                return None
            if model.verify.get("scheme", row.scheme) != row.scheme:
                self._say((*path, "verify"), "scheme", f"the scheme of {profile.name} is {row.scheme}")
                return None
            table = _merged(row.model_dump(by_alias=True, exclude_unset=True), model.verify)
            try:
                row = parse_verify(table)
            except ValidationError as invalid:
                for error in invalid.errors(include_url=False):
                    if error["loc"][:1] == (row.scheme,):
                        error["loc"] = error["loc"][1:]
                    self._document.problem(*explain(type(row), (*path, "verify"), error))
                return None
        return self._windowed(path, model, profile, row)

    def _windowed(self, path: Path, model: SourceModel, profile: Profile, row: Verify) -> Verify | None:
        window_s = model.replay_window_s
        if window_s is None:
            return row
        if not any(_has_time(way) for way in ways_of(row)):
            self._say(path, "replay_window_s", f"{profile.name} signs no time, so there is no window")
            return None
        return parse_verify(_with_window(row.model_dump(by_alias=True, exclude_unset=True), window_s))

    def _say(self, path: Path, key: str, what: str) -> None:
        self._document.problem((*path, key), _sentence((*path, key), what))


def _may_learn(profile: Profile) -> bool:
    return any(shake.effect == "store_secret" for shake in profile.handshakes)


def asks_login(model: SourceModel) -> bool:
    """Whether a source with a profile asks for Basic credentials beside it."""
    return ("auth" in model.model_fields_set and model.auth == "basic") or model.username is not None


def public_of(name: str, own: str | None, bridge: str | None) -> Public | None:
    """The address of a source: its own word, or the bridge's with the name behind it."""
    whole = own if own is not None else None if bridge is None else f"{bridge}/{name}"
    if whole is None:
        return None
    parts = urlsplit(whole)
    return Public(f"{parts.scheme}://{parts.netloc}".encode(), parts.path.encode())


def _sentence(path: Path, what: str) -> str:
    return f"{'.'.join(map(str, path))}: {what}"


def _unknown(param: str, profile: Profile) -> str:
    known = list(profile.setup.params)
    if not known:
        return f"{profile.name} has no parameters"
    near = difflib.get_close_matches(param, known, 1)
    return "unknown parameter; " + (f"did you mean `{near[0]}`?" if near else f"there are {', '.join(known)}")


def _merged(table: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`table` with the words of `over`, tables in it word by word. What stands elsewhere has no prefix of before."""
    found = dict(table)
    if "from" in found and over.get("from", found["from"]) != found["from"]:
        found = {key: value for key, value in found.items() if key not in ("name", "path", "strip_prefix")}
    elif over.get("name", found.get("name")) != found.get("name"):
        found.pop("strip_prefix", None)
    for key, value in over.items():
        inner = found.get(key)
        found[key] = _merged(inner, value) if isinstance(inner, dict) and isinstance(value, dict) else value
    return found


def _has_time(row: Verify) -> bool:
    return getattr(row, "timestamp", None) is not None or getattr(row, "past_s", None) is not None


def _with_window(table: dict[str, Any], window_s: float) -> dict[str, Any]:
    """The table with another oldest age, in each way that has a time."""
    found = dict(table)
    if "of" in found:
        found["of"] = [_with_window(way, window_s) for way in found["of"]]
    if isinstance(found.get("timestamp"), dict):
        found["timestamp"] = {**found["timestamp"], "past_s": window_s}
    if "past_s" in found:
        found["past_s"] = window_s
    return found
