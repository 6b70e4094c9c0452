"""Secrets that senders give by a hand-shake (rules.md 30): sealed here, kept in PostgreSQL.

One is learned only while an operator has a registration open.
"""

from __future__ import annotations

import hmac
import os
import uuid
from datetime import datetime
from typing import Any, NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from kafka_webhook_bridge.settings import Settings
from kafka_webhook_bridge.store.pool import Store
from kafka_webhook_bridge.store.sql import QUERIES

SECRETS_MAX = 9  # of one source: the engine tries ten, and one may be configured
SECRET_CHARACTERS_MAX = 1_000
_NONCE_BYTES = 12


class Learned(NamedTuple):
    """One secret; `text` is None where it was sealed with another key."""

    secret_id: uuid.UUID
    source: str
    text: str | None
    learned_at: datetime


class Seal:
    """Encrypts and decrypts with a key made of KWB_STORE_SECRET_KEY."""

    def __init__(self, secret_key: str) -> None:
        key = secret_key.encode()
        self._cipher = AESGCM(hmac.digest(key, b"kwb learned secrets", "sha256"))
        self.key_id = hmac.digest(key, b"kwb learned secrets: which key", "sha256")[:8].hex()

    def seal(self, source: str, text: str) -> tuple[bytes, bytes]:
        """Nonce and ciphertext."""
        nonce = os.urandom(_NONCE_BYTES)
        return nonce, self._cipher.encrypt(nonce, text.encode(), source.encode())

    def open(self, source: str, nonce: bytes, ciphertext: bytes) -> str | None:
        """The text; None where it was sealed with another key or for another source."""
        try:
            return self._cipher.decrypt(nonce, ciphertext, source.encode()).decode()
        except InvalidTag:
            return None


async def open_registration(store: Store, source: str, seconds: float) -> datetime:
    """The next hand-shake of the source may bring its secret; until when. Raises StoreError, as all of these do."""
    async with _connection(store, "opening a registration") as connection:
        ends: datetime = await connection.fetchval(QUERIES["learned_open"], source, seconds)
    return ends


async def learn(store: Store, seal: Seal, source: str, text: str, *, timeout_ms: int) -> bool:
    """Keep a secret, and close the registration; false if none is open, or there are too many secrets."""
    async with store.connection("learning a secret", timeout_ms=timeout_ms) as connection:
        found = await connection.fetchval(
            QUERIES["learned_learn"], source, *seal.seal(source, text), seal.key_id, SECRETS_MAX
        )
    return found is not None


async def read(store: Store, seal: Seal, source: str | None = None) -> list[Learned]:
    """The newest first, of one source or of all."""
    async with _connection(store, "reading learned secrets") as connection:
        rows = await connection.fetch(QUERIES["learned_all"], source)
    return [
        Learned(secret_id, name, seal.open(name, nonce, ciphertext), learned_at)
        for secret_id, name, nonce, ciphertext, learned_at in rows
    ]


async def forget(store: Store, source: str, secret_id: uuid.UUID) -> bool:
    """Whether it was there."""
    async with _connection(store, "forgetting a learned secret") as connection:
        return bool(await connection.fetchval(QUERIES["learned_forget"], source, secret_id))


async def known(settings: Settings, store: Store) -> dict[str, tuple[str, ...]]:
    """Secrets by source, as the bridge has them; none without a key."""
    key = settings.store.secret_key
    return {} if key is None else texts_of(await read(store, Seal(key.get_secret_value())))


def texts_of(found: list[Learned]) -> dict[str, tuple[str, ...]]:
    """The secrets of each source that can be read, the newest first."""
    texts: dict[str, tuple[str, ...]] = {}
    for one in found:
        if one.text is not None:
            texts[one.source] = (*texts.get(one.source, ()), one.text)
    return texts


def _connection(store: Store, doing: str) -> Any:
    settings = store.settings
    return store.connection(doing, timeout_ms=settings.connect_timeout_ms + settings.statement_timeout_ms)
