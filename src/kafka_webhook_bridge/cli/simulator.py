"""`kwb send --profile`: requests signed as a sender signs them, and wrong ones at a stated rate.

The key is the source's of bridge.yaml, one that is given, or one made for the run. Which requests are wrong is not left
to chance: with 1 % each hundredth is.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from kafka_webhook_bridge.cli.messages import (
    BODILESS,
    Place,
    first_lines,
    guess_type,
    head_of,
    own_header,
    read_body,
    sha256_of,
)
from kafka_webhook_bridge.errors import UsageError
from kafka_webhook_bridge.event import Request

if TYPE_CHECKING:
    from kafka_webhook_bridge.cli.openloop import Message
    from kafka_webhook_bridge.sources.profile import Profile
    from kafka_webhook_bridge.sources.samples import Sample
    from kafka_webhook_bridge.sources.sender import Sender
    from kafka_webhook_bridge.sources.verify import Verify
    from kafka_webhook_bridge.sources.verify.identity import Identity

BAD, STALE, DUPLICATE = "bad_signature", "stale", "duplicate"
# These must be refused.
WRONG = (BAD, STALE)
STALE_MORE_S = 60.0  # older than the window by so much
_SECRET_BYTES_MAX = 64 * 1024


class Signing(NamedTuple):
    """A sender that can sign. `made`: its key is new, so the receiver cannot know it yet."""

    profile: Profile
    row: Verify
    identity: Identity
    base: str
    path: str
    made: bool


class Faults(NamedTuple):
    """Shares of all requests, 0 to 1."""

    bad_signature: Fraction = Fraction()
    stale: Fraction = Fraction()
    duplicates: Fraction = Fraction()


# ---- who signs -------------------------------------------------------------------------------------------------------


def own_key(row: Verify, variable: str, file: str, params: Mapping[str, str]) -> tuple[Identity, bool]:
    """The identity of a given secret or private key, or a new one; and whether it is new.

    A file that is not there is made, readable by its owner alone.
    """
    from kafka_webhook_bridge.settings import environment
    from kafka_webhook_bridge.sources.verify.identity import key_kind, make_identity, private_pem

    if variable and file:
        raise UsageError("--secret-env and --secret-file exclude each other")
    text = ""
    if variable:
        text = environment().get(variable, "")
        if not text:
            raise UsageError(f"the variable {variable} is not set, or empty")
    elif file:
        text = _read_secret(file)
    if text:
        return given_key(row, text, params), False
    try:
        identity = make_identity(row, params=params, now=time.time())
    except ValueError as error:
        raise UsageError(str(error)) from None
    if file:
        text = private_pem(identity.private) if identity.private is not None and key_kind(row) else identity.secret
        _write_secret(file, text)
    return identity, True


def given_key(row: Verify, text: str, params: Mapping[str, str]) -> Identity:
    """The identity of a secret, or of a private key in PEM where public keys verify."""
    from kafka_webhook_bridge.sources.verify.identity import key_kind, load_private, make_identity

    try:
        if key_kind(row):
            return make_identity(row, params=params, private=load_private(text.encode()), now=time.time())
        return make_identity(row, params=params, secret=text)
    except ValueError as error:
        hint = "The sender's side of this profile is a private key in PEM." if key_kind(row) else ""
        raise UsageError(str(error), hint=hint) from None


def of_source(sender: Sender, file: str, variable: str) -> tuple[Identity, bool]:
    """The identity of a source of bridge.yaml, whose first secret signs."""
    from kafka_webhook_bridge.sources.verify.identity import key_kind, make_identity

    if file or variable:
        return own_key(sender.row, variable, file, sender.params)
    if key_kind(sender.row):
        raise UsageError(
            f"{sender.name} knows the public key alone, so nobody can sign with it",
            hint="--secret-file names the private key, or a new file, and shows what to configure.",
        )
    secret = sender.secrets[0] if sender.secrets else ""
    return make_identity(sender.row, params=sender.params, secret=secret), False


def to_configure(signing: Signing) -> dict[str, Any]:
    """What the receiver has to be given, as JSON values."""
    identity = signing.identity
    found: dict[str, Any] = {"profile": signing.profile.name}
    if identity.secret:
        found["public_key" if identity.private is not None and not identity.certificates else "secret"] = (
            identity.secret
        )
    if identity.jwks:
        found["jwks"] = {"keys": list(identity.jwks)}
    if identity.certificates:
        found["certificates"] = dict(identity.certificates)
    if identity.ebay:
        found["keys"] = dict(identity.ebay)
    if identity.params:
        found["params"] = dict(identity.params)
    return found


def _read_secret(file: str) -> str:
    path = Path(file)
    try:
        if path.stat().st_size > _SECRET_BYTES_MAX:
            raise UsageError(f"{file} is too large for a secret")
        text = path.read_text(encoding="utf-8").removesuffix("\n")
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{file}: {getattr(error, 'strerror', None) or 'is not UTF-8 text'}") from None
    if not text:
        raise UsageError(f"{file} is empty")
    return text


def _write_secret(file: str, text: str) -> None:
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise UsageError(f"{file}: {error.strerror}") from None
    with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
        stream.write(text + "\n")


# ---- what is signed --------------------------------------------------------------------------------------------------


class SignedMessages:
    """Makes signed requests. `kinds` has the kind of those that are not plain, by number, until they are answered."""

    def __init__(
        self,
        place: Place,
        signing: Signing,
        faults: Faults,
        *,
        login: str,
        method: str,
        headers: list[str],
        content_type: str,
        body: str,
        events: list[str],
    ) -> None:
        import secrets

        from kafka_webhook_bridge.cli.openloop import Message
        from kafka_webhook_bridge.sources.verify.identity import forged
        from kafka_webhook_bridge.sources.verify.sign import compile_signer, window_s

        self._message = Message
        self.run = secrets.token_hex(4)
        self.method = method
        self.kinds: dict[int, str] = {}
        self._prefix = place.target.prefix + place.path.partition("?")[0]
        self._path = signing.path.encode()
        query = place.path.partition("?")[2]
        self._query = query.encode() if "?" in place.path else None
        self._own = [own_header(header) for header in headers]
        self._lines = first_lines(place, login, content_type, self._own)
        self._typed = bool(content_type) or any(name.lower() == "content-type" for name, _ in self._own)
        self._fixed = self._body(body)
        self._samples = [] if self._fixed else chosen(signing.profile, events)
        window = window_s(signing.row)
        if faults.stale and window is None:
            raise UsageError(f"{signing.profile.name} signs no time, so no request of it is ever stale")
        if faults.bad_signature and signing.row.scheme == "none":
            raise UsageError(f"{signing.profile.name} signs nothing, so no signature of it is ever bad")
        self._stale_s = (window or 0.0) + STALE_MORE_S
        self._shares = {BAD: faults.bad_signature, STALE: faults.stale, DUPLICATE: faults.duplicates}
        self._due = {BAD: Fraction(), STALE: Fraction(1, 3), DUPLICATE: Fraction(2, 3)}  # not all at once
        try:
            self._sign = compile_signer(signing.row, signing.identity, public_url=signing.base)
            wrong = forged(signing.row, signing.identity) if faults.bad_signature else signing.identity
            self._forge = compile_signer(signing.row, wrong, public_url=signing.base)
        except ValueError as error:
            raise UsageError(str(error)) from None
        self._last: tuple[bytes, str] | None = None

    def make(self, seq: int) -> Message:
        """Request number `seq`."""
        message_id = f"{self.run}-{seq:010d}"
        kind = self._kind()
        if kind == DUPLICATE and self._last is not None:
            self.kinds[seq] = kind
            return self._message(message_id, *self._last)
        wire, digest = self._signed(seq, kind)
        if kind in WRONG:
            self.kinds[seq] = kind
        else:
            self._last = wire, digest
        return self._message(message_id, wire, digest)

    def _kind(self) -> str:
        """What the next request is; over many of them each kind has its share, to the last request."""
        found = ""
        for kind, share in self._shares.items():
            self._due[kind] += share
            if not found and share and self._due[kind] >= 1:
                self._due[kind] -= 1
                found = kind
        return found

    def _signed(self, seq: int, kind: str) -> tuple[bytes, str]:
        from kafka_webhook_bridge.sources.samples import marks, render

        now = time.time() - (self._stale_s if kind == STALE else 0.0)
        unique = f"{self.run}{seq:024x}"
        headers, body, content_type = list(self._lines), b"", ""
        if self._fixed is not None:
            content_type, body = self._fixed
        elif self.method not in BODILESS:
            sample = render(self._samples[seq % len(self._samples)], marks(unique, now))
            mine = {name.lower() for name, _ in sample.headers} - {name.lower().encode() for name, _ in self._own}
            headers = [line for line in headers if line[0].lower() not in mine]
            headers += [line for line in sample.headers if line[0].lower() in mine]
            content_type, body = sample.content_type, sample.body
        if content_type and not self._typed:
            headers.append((b"Content-Type", content_type.encode()))
        sign = self._forge if kind == BAD else self._sign
        request = Request(self.method.encode(), self._path, self._query, headers, body, "")
        try:
            request = sign(request, now, unique)
        except ValueError as error:
            raise UsageError(str(error)) from None
        lines = request.headers
        if request.body or self.method not in BODILESS:
            lines = [*lines, (b"Content-Length", b"%d" % len(request.body))]
        query = "" if request.query is None else "?" + request.query.decode("latin-1")
        return head_of(self.method, self._prefix + query, lines) + request.body, sha256_of(request.body)

    def _body(self, name: str) -> tuple[str, bytes] | None:
        if not name:
            return None
        data = read_body(name)
        return guess_type(name, data), data


def chosen(profile: Profile, events: list[str]) -> list[Sample]:
    """The samples of these events, all but hand-shakes without any. Raises UsageError."""
    from kafka_webhook_bridge.sources.samples import has_samples, plain_sample, samples_of

    samples = samples_of(profile)
    if not events:
        return [sample for sample in samples if not sample.handshake]
    if not has_samples(profile):
        return [plain_sample(profile, event) for event in events]
    known = {sample.type: sample for sample in samples}
    for event in events:
        if event not in known:
            raise UsageError(
                f"there is no sample of {event}; there are {', '.join(known)}", hint="--body sends any body."
            )
    return [known[event] for event in events]


# ---- what came of it -------------------------------------------------------------------------------------------------


class Outcomes:
    """Counts what became of the requests that were not plain."""

    def __init__(self, kinds: dict[int, str]) -> None:
        self._kinds = kinds
        self.counts: dict[str, dict[str, int]] = {}

    def answered(self, seq: int, status: int) -> None:
        """A request came to its end; `status` 0 without an answer."""
        kind = self._kinds.pop(seq, "")
        if not kind:
            return
        counts = self.counts.setdefault(kind, {"sent": 0, "accepted": 0, "refused": 0, "other": 0})
        counts["sent"] += 1
        fate = "accepted" if 200 <= status < 300 else "refused" if 400 <= status < 500 else "other"
        counts[fate] += 1

    @property
    def refused_rightly(self) -> int:
        """Wrong requests that were refused."""
        return sum(counts["refused"] for kind, counts in self.counts.items() if kind in WRONG)

    @property
    def accepted_wrongly(self) -> int:
        """Wrong requests that were accepted."""
        return sum(counts["accepted"] for kind, counts in self.counts.items() if kind in WRONG)


def signed_address(url: str, place: Place) -> tuple[str, str]:
    """Base and path that a signature covers: those of `url`, where it has a path, and of where requests go."""
    from kafka_webhook_bridge.sources.verify.case import CaseError, split_url

    here = place.target.prefix + place.path.partition("?")[0]
    with contextlib.suppress(CaseError):
        base, path, query = split_url(url or place.target.url)
        if base is not None and query is None:
            return base, (path.decode("latin-1") if url else "") or here
    raise UsageError(f"--public-url {url} is no address such as https://hooks.example.com/shop")
