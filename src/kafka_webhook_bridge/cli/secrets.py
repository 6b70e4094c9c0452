"""`kwb sources register` and `kwb sources secrets`: secrets that a sender gives by a hand-shake."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

import typer

from kafka_webhook_bridge.cli.output import FOUND_PROBLEM, Output
from kafka_webhook_bridge.errors import ConfigError, Problem, UsageError
from kafka_webhook_bridge.times import iso, short

if TYPE_CHECKING:
    from kafka_webhook_bridge.settings import Settings
    from kafka_webhook_bridge.store.learned import Learned, Seal


def register_source(name: str, minutes: int, out: Output) -> None:
    import asyncio

    from kafka_webhook_bridge.store import Store, learned

    settings, _ = _learning(name)

    async def open_one() -> str:
        async with Store(settings.store) as store:
            return iso(await learned.open_registration(store, name, 60.0 * minutes))

    ends = asyncio.run(open_one())
    out.data({"source": name, "expires_at": ends})
    out.say(f"Until {ends} the next hand-shake of {name} may bring its secret. Set the webhook up at the sender now.")
    out.say(f"Then `kwb sources secrets {name}` tells whether it came.")


def list_secrets(name: str, out: Output, *, show: bool, forget: str) -> None:
    import asyncio

    from kafka_webhook_bridge.store import Store, learned

    settings, seal = _learning(name)
    if show and forget:
        raise UsageError("--show and --forget exclude each other.")
    wanted = _id(forget) if forget else None

    async def work() -> tuple[list[Learned], bool]:
        async with Store(settings.store) as store:
            gone = wanted is not None and await learned.forget(store, name, wanted)
            return await learned.read(store, seal, name), gone

    found, gone = asyncio.run(work())
    out.data(
        {
            "forgotten": gone,
            "secrets": [
                {
                    "secret_id": one.secret_id,
                    "learned_at": iso(one.learned_at),
                    "readable": one.text is not None,
                    **({"secret": one.text} if show else {}),
                }
                for one in found
            ],
        }
    )
    if wanted is not None:
        out.say("Forgotten; it proves nothing in a few seconds." if gone else f"There is no secret {wanted}.")
        if not gone:
            raise typer.Exit(FOUND_PROBLEM)
        return
    if not found:
        out.note(f"No secret of {name} came by a hand-shake; `kwb sources register {name}` lets one come.")
    for one in found:
        out.say(f"{one.secret_id}  {short(one.learned_at)}  {_words(one, show=show)}")


def _words(one: Learned, *, show: bool) -> str:
    if one.text is None:
        return "sealed with another KWB_STORE_SECRET_KEY"
    return one.text if show else "kept"


def _learning(name: str) -> tuple[Settings, Seal]:
    """Settings and the seal, if the source may learn. Raises UsageError and ConfigError."""
    from kafka_webhook_bridge.sources.config import load_configuration
    from kafka_webhook_bridge.store.learned import Seal

    settings, table = load_configuration()
    source = table.get(name)
    if source is None:
        raise UsageError(f"There is no source {name}.", hint="`kwb sources list` shows them.")
    if settings.store.url is None or settings.store.secret_key is None:
        what = "is not set, but secrets that come by a hand-shake are kept in PostgreSQL, encrypted"
        missing = "DATABASE_URL" if settings.store.url is None else "KWB_STORE_SECRET_KEY"
        raise ConfigError([Problem(missing, what)])
    if source.proof is None or not source.proof.learns:
        raise UsageError(
            f"The sender of {name} gives no secret by a hand-shake.", hint="Give `secrets` in bridge.yaml instead."
        )
    return settings, Seal(settings.store.secret_key.get_secret_value())


def _id(text: str) -> uuid.UUID:
    try:
        return uuid.UUID(text)
    except ValueError:
        raise UsageError(f"{text} is not the id of a secret.") from None
