"""Public keys that senders publish: kept in memory, fetched off the hot path (rules.md 30).

    verifier ──looks──▶ memory ──it is there──▶ verdict
                          └──it is not──▶ 503, and one fetch ──▶ the sender's next try finds it, or 401

One fetch a minute for each host at most, whatever strangers ask for: who asks for a key that was looked for within the
last minute is answered 401. Keys that are used are renewed before they are too old; while their host is away they
serve for a day more. Which addresses may be asked for is the engine's business, how it is asked fetch.py's.
"""

from __future__ import annotations

import asyncio
import base64
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final
from urllib.parse import quote, urlencode, urlsplit

import orjson

from kafka_webhook_bridge.body import NOT_JSON, parse_json
from kafka_webhook_bridge.ingest.fetch import Answer, FetchError, fetch
from kafka_webhook_bridge.observability import logs
from kafka_webhook_bridge.sources.verify import KeyNeeded

_VISIT_PAUSES_S: Final = (1.0, 5.0)  # between the tries of one confirmation
PAUSE_S: Final = 60.0  # between two fetches from one host, and before a key that was not there is looked for again
_RENEW_S: Final = (300, 6 * 3600)  # after how long keys are fetched anew: by the host's word, within these
_RENEW_DEFAULT_S: Final = 3600
_OLD_S: Final = 24 * 3600  # how much longer they serve when that fails
_ENTRIES_MAX: Final = 1000
_HOSTS_MAX: Final = 1000
_KEYS_MAX: Final = 100
_RUNNING_MAX: Final = 8  # fetches at once, however many hosts a sender's domain has

_EBAY = "https://api.ebay.com"
_EBAY_SCOPE = "https://api.ebay.com/oauth/api_scope"
_ONE_BY_ONE = "/webhook_verification_key/get"  # Plaid gives one key at a time, to its customers

Params = Mapping[str, str]


class _Entry:
    """What a fetch brought, and the parameters that it took. Times are monotonic seconds."""

    __slots__ = ("old_at", "params", "renew_at", "value")

    def __init__(self, value: Any, params: Params, now: float, max_age_s: int | None) -> None:
        low, high = _RENEW_S
        self.value = value
        self.params = params
        self.renew_at = now + (_RENEW_DEFAULT_S if max_age_s is None else min(max(max_age_s, low), high))
        self.old_at = self.renew_at + _OLD_S


class Keys:
    """A KeyStore for all sources of one process. Belongs to one loop; verifiers read it from threads, too.

    `clock` gives monotonic seconds; tests move it (rules.md 33).
    """

    offline = False

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._log = logs.get_logger("keys")
        self._entries: OrderedDict[KeyNeeded, _Entry] = OrderedDict()
        self._asked_at: OrderedDict[KeyNeeded, float] = OrderedDict()
        self._host_at: OrderedDict[str, float] = OrderedDict()
        self._unreachable: set[KeyNeeded] = set()
        self._running: dict[KeyNeeded, asyncio.Task[None]] = {}
        self._visits: set[asyncio.Task[None]] = set()

    # ── what verifiers read, in any thread ────────────────────────────────────────────────────────────────────────

    def jwks(self, address: str) -> Sequence[Mapping[str, Any]] | None:
        """The JWKs of an address, or None if they are not here."""
        found: Sequence[Mapping[str, Any]] | None = self._look(KeyNeeded("jwks", address, ""))
        return found

    def certificate(self, address: str) -> str | None:
        """The PEM certificate of an address, or None."""
        found: str | None = self._look(KeyNeeded("certificate", address, ""))
        return found

    def ebay(self, key_id: str) -> Mapping[str, Any] | None:
        """eBay's answer about a key, or None."""
        found: Mapping[str, Any] | None = self._look(KeyNeeded("ebay", "", key_id))
        return found

    def _look(self, what: KeyNeeded) -> Any:
        entry = self._entries.get(what)
        if entry is None:
            return None
        now = self._clock()
        if now >= entry.renew_at:
            self._loop.call_soon_threadsafe(self._renew, what)
            if now >= entry.old_at:
                return None
        return entry.value

    # ── fetching, on the loop ─────────────────────────────────────────────────────────────────────────────────────

    def ask(self, needed: KeyNeeded, params: Params) -> bool:
        """Whether the key may be here soon. False: it was looked for within the last minute, and is not there.

        `params` are those of the source, for hosts that want to know who asks.
        """
        what = _resource(needed)
        if what in self._running:
            return True
        now = self._clock()
        if now - self._asked_at.get(what, -PAUSE_S) < PAUSE_S:
            return what in self._unreachable  # then it is not the sender who is wrong
        if now - self._host_at.get(_host(what), -PAUSE_S) >= PAUSE_S and len(self._running) < _RUNNING_MAX:
            self._begin(what, params)
        return (
            True  # else there is enough to do, or that host was asked for another key; the next try may have its turn
        )

    def visit(self, address: str, source: str) -> None:
        """GET an address that a hand-shake asks for; the row has said at which hosts it may be."""
        host = urlsplit(address).hostname or ""
        if len(self._visits) >= _RUNNING_MAX or self._clock() - self._host_at.get(f"visit {host}", -PAUSE_S) < 1.0:
            self._log.warning("hand-shake not confirmed", source=source, host=host, reason="too many at once")
            return
        self._note(self._host_at, f"visit {host}", self._clock(), _HOSTS_MAX)
        task = self._loop.create_task(self._visit(address, host, source), name="visit")
        self._visits.add(task)
        task.add_done_callback(self._visits.discard)

    async def fetched(self) -> None:
        """Wait until no key is being fetched."""
        while self._running:
            await asyncio.wait(list(self._running.values()))

    def close(self) -> None:
        """Nothing is fetched any more."""
        for task in (*self._running.values(), *self._visits):
            task.cancel()

    def _renew(self, what: KeyNeeded) -> None:
        entry = self._entries.get(what)
        if entry is None:
            return
        if _one_by_one(what):
            what = what._replace(key_id=str(entry.value[0].get("kid")))
        now = self._clock()
        if what not in self._running and now - self._host_at.get(_host(what), -PAUSE_S) >= PAUSE_S:
            self._begin(what, entry.params)

    def _begin(self, what: KeyNeeded, params: Params) -> None:
        now = self._clock()
        self._note(self._host_at, _host(what), now, _HOSTS_MAX)
        self._note(self._asked_at, what, now, _ENTRIES_MAX)
        task = self._running[what] = self._loop.create_task(self._fetch(what, params), name="keys")
        task.add_done_callback(lambda _: self._running.pop(what, None))

    async def _fetch(self, what: KeyNeeded, params: Params) -> None:
        where = what.address or _EBAY
        try:
            value, max_age_s = await _how(what)(what, params)
        except (FetchError, ValueError) as error:
            if isinstance(error, FetchError) and not error.answered and len(self._unreachable) < _ENTRIES_MAX:
                self._unreachable.add(what)
            self._log.error("keys not fetched", address=where, key_id=what.key_id, reason=str(error))
            return
        self._unreachable.discard(what)
        self._keep(what, value, params, max_age_s)
        self._log.info("keys fetched", address=where, key_id=what.key_id)

    def _keep(self, what: KeyNeeded, value: Any, params: Params, max_age_s: int | None) -> None:
        now = self._clock()
        if _one_by_one(what):  # the others stay beside it, as long as they are new enough
            what = what._replace(key_id="")
            entry = self._entries.get(what)
            if entry is not None and now < entry.renew_at:
                others = [key for key in entry.value if key.get("kid") != value[0].get("kid")]
                value = (*value, *others)[:_KEYS_MAX]
        self._entries.pop(what, None)
        self._entries[what] = _Entry(value, params, now, max_age_s)
        if len(self._entries) > _ENTRIES_MAX:
            self._entries.popitem(last=False)

    async def _visit(self, address: str, host: str, source: str) -> None:
        for again_s in (*_VISIT_PAUSES_S, None):
            try:
                await fetch(address)
            except FetchError as error:
                tell = self._log.error if again_s is None else self._log.warning
                tell("hand-shake not confirmed", source=source, host=host, reason=str(error), again_s=again_s)
            else:
                self._log.info("hand-shake confirmed", source=source, host=host)
                return
            if again_s is not None:
                await asyncio.sleep(again_s)

    @staticmethod
    def _note(table: OrderedDict[Any, float], key: Any, now: float, most: int) -> None:
        table.pop(key, None)
        table[key] = now
        if len(table) > most:
            table.popitem(last=False)


def _resource(needed: KeyNeeded) -> KeyNeeded:
    """What is fetched: a whole JWKS, but one key where a host gives no more."""
    return needed._replace(key_id="") if needed.kind == "jwks" and not _one_by_one(needed) else needed


def _one_by_one(what: KeyNeeded) -> bool:
    return what.kind == "jwks" and what.address.endswith(_ONE_BY_ONE)


def _host(what: KeyNeeded) -> str:
    return urlsplit(what.address or _EBAY).hostname or ""


_Got = tuple[Any, int | None]


def _how(what: KeyNeeded) -> Callable[[KeyNeeded, Params], Awaitable[_Got]]:
    if what.kind == "jwks":
        return _one_key if _one_by_one(what) else _jwks
    return _certificate if what.kind == "certificate" else _ebay


async def _jwks(what: KeyNeeded, params: Params) -> _Got:
    document, max_age_s = _json(await fetch(what.address))
    keys = document.get("keys") if isinstance(document, dict) else document
    if not isinstance(keys, list) or len(keys) > _KEYS_MAX or not all(isinstance(key, dict) for key in keys):
        raise FetchError("the answer is no JWKS", answered=True)
    return tuple(keys), max_age_s


async def _one_key(what: KeyNeeded, params: Params) -> _Got:
    """A host that gives a key for its id, and only to its customers."""
    client, secret = _need(params, "client_id"), _need(params, "client_secret")
    question = {"client_id": client, "secret": secret, "key_id": what.key_id}
    headers = [("Content-Type", "application/json")]
    answer = await fetch(what.address, method="POST", headers=headers, body=orjson.dumps(question))
    document, max_age_s = _json(answer)
    key = document.get("key") if isinstance(document, dict) else None
    if not isinstance(key, dict):
        raise FetchError("the answer is no key", answered=True)
    if key.get("expired_at") is not None:
        raise FetchError("the key is no longer used", answered=True)
    return (key,), max_age_s


async def _certificate(what: KeyNeeded, params: Params) -> _Got:
    answer = await fetch(what.address)
    if b"-----BEGIN CERTIFICATE-----" not in answer.body:
        raise FetchError("the answer is no certificate", answered=True)
    return answer.body.decode("ascii"), answer.max_age_s


async def _ebay(what: KeyNeeded, params: Params) -> _Got:
    """With a token of the application (OAuth 2.0 client credentials), as the Notification API asks."""
    login = base64.b64encode(f"{_need(params, 'client_id')}:{_need(params, 'client_secret')}".encode()).decode()
    form = urlencode({"grant_type": "client_credentials", "scope": _EBAY_SCOPE}).encode()
    headers = [("Authorization", f"Basic {login}"), ("Content-Type", "application/x-www-form-urlencoded")]
    token, _ = _json(await fetch(f"{_EBAY}/identity/v1/oauth2/token", method="POST", headers=headers, body=form))
    bearer = token.get("access_token") if isinstance(token, dict) else None
    if not isinstance(bearer, str):
        raise FetchError("no access token", answered=True)
    address = f"{_EBAY}/commerce/notification/v1/public_key/{quote(what.key_id, safe='')}"
    document, max_age_s = _json(await fetch(address, headers=[("Authorization", f"Bearer {bearer}")]))
    if not isinstance(document, dict):
        raise FetchError("the answer is no key", answered=True)
    return document, max_age_s


def _json(answer: Answer) -> tuple[Any, int | None]:
    document = parse_json(answer.body)
    if document is NOT_JSON:
        raise FetchError("the answer is no JSON", answered=True)
    return document, answer.max_age_s


def _need(params: Params, name: str) -> str:
    if not (value := params.get(name, "")):
        raise FetchError(f"the source has no parameter {name}, which is needed to ask for keys", answered=True)
    return value
