"""PostgreSQL's errors in words for an operator, and which of them are the fault of one row."""

from __future__ import annotations

import ssl

import asyncpg

from kafka_webhook_bridge.errors import StoreError

_REACH = "Is PostgreSQL up, and is DATABASE_URL right from this machine?"
_LOGIN = "Check the user and the password in DATABASE_URL, or DATABASE_PASSWORD."
_CERTIFICATE = (
    "DATABASE_URL: its sslrootcert must hold the authority that signed the server's certificate, and its host must be "
    "a name in that certificate."
)
_FULL = "Free or add space on the database's disk; the archive goes on by itself, nothing is lost."
HINTS: dict[str, str] = {  # by SQLSTATE (PostgreSQL documentation, appendix A)
    "28P01": _LOGIN,
    "28000": _LOGIN,
    "3D000": "Make the database, or correct its name in DATABASE_URL.",
    "42501": "Grant the role in DATABASE_URL the right to make and use tables in its schema.",
    "42P01": "The tables are missing: `kwb migrate` makes them.",
    "25006": "This server is a read-only standby: DATABASE_URL must point at the primary.",
    "53100": _FULL,
    "53300": "Too many connections: raise max_connections or lower KWB_STORE_CONNECTIONS_MAX.",
    "57014": "It took longer than allowed: narrow it, for example with --since 1h or --source.",
}
# Data exceptions, violated constraints, limits of the program (an index entry too long): a batch fails with them
# because of a row. Internal errors (XX, such as a damaged index) are the server's: the batch is tried again as it is.
_REFUSED_CLASSES = ("22", "23", "54")
_PASSING = frozenset({"53300", "57P01", "57P02", "57P03"})
UNREACHED = (OSError, TimeoutError, asyncpg.InterfaceError, asyncpg.PostgresConnectionError)
FAILURES = (*UNREACHED, asyncpg.PostgresError, asyncpg.InternalClientError)


def sqlstate(failure: BaseException) -> str:
    """PostgreSQL's code of an error, `unreached` where the server did not answer."""
    return str(getattr(failure, "sqlstate", None) or "unreached")


def refuses_a_row(failure: BaseException) -> bool:
    """Whether fewer rows or simpler ones might be taken."""
    if isinstance(failure, asyncpg.PostgresError):
        return sqlstate(failure)[:2] in _REFUSED_CLASSES
    # What the driver cannot encode: text with a lone surrogate, a number out of range.
    return isinstance(failure, (asyncpg.DataError, ValueError, OverflowError))


def may_pass(error: StoreError) -> bool:
    """Whether PostgreSQL may only not be up yet: it does not answer, starts, stops or has no connection left."""
    cause = error.__cause__
    if isinstance(cause, ssl.SSLCertVerificationError):  # it is there, and somebody else
        return False
    return cause is not None and (isinstance(cause, UNREACHED) or sqlstate(cause) in _PASSING)


def translate(doing: str, failure: BaseException) -> StoreError:
    """A StoreError for an operator. `doing` completes "PostgreSQL failed while …"."""
    code = sqlstate(failure)
    if isinstance(failure, asyncpg.PostgresError):
        said = f"{failure.args[0] if failure.args else type(failure).__name__} (SQLSTATE {code})"
        return StoreError(f"PostgreSQL failed while {doing}: {said}", hint=HINTS.get(code, ""))
    if isinstance(failure, ssl.SSLCertVerificationError):
        what = f"the server's certificate is refused: {failure.verify_message}"
        return StoreError(f"PostgreSQL failed while {doing}: {what}", hint=_CERTIFICATE)
    said = str(failure) or "no answer in time"
    return StoreError(f"PostgreSQL failed while {doing}: {said}", hint=_REACH)
