"""Folders and files of the embedded servers: private, and with room to write."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from kafka_webhook_bridge.errors import StackError

FREE_BYTES_MIN = 512 * 1024**2


def make_folder(folder: Path, *, to_pass: bool = False) -> Path:
    """The folder, made where missing, closed to others.

    `to_pass`: as root, others may pass through it (0711), for PostgreSQL runs as another user then.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o711 if to_pass and os.geteuid() == 0 else 0o700)
    except OSError as error:
        raise StackError(
            f"The folder {folder} cannot be made: {error.strerror}.", hint="Choose another with --dir."
        ) from error
    return folder


def check_room(folder: Path, bytes_min: int = FREE_BYTES_MIN) -> None:
    """Raises StackError when the disk under `folder` has less than `bytes_min` left."""
    free = shutil.disk_usage(folder).free
    if free < bytes_min:
        raise StackError(
            f"Only {free // 1024**2} MiB are free on the disk of {folder}; {bytes_min // 1024**2} MiB are needed.",
            hint="Free some space, or choose a folder on another disk with --dir.",
        )


def write_private(path: Path, text: str, *, mode: int = 0o600) -> None:
    """Write whole or not at all, readable by the owner alone from the first byte on, unless `mode` lets others."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            os.fchmod(file.fileno(), mode)
        Path(name).replace(path)
    except OSError as error:
        Path(name).unlink(missing_ok=True)
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StackError(
                f"The disk of {path.parent} is full.", hint="Free some space, or choose another folder with --dir."
            ) from error
        raise


def secrets_of(path: Path, *names: str, given: Mapping[str, str] | None = None) -> dict[str, str]:
    """The passwords kept in the private JSON file `path`. Those `given` replace them, missing `names` are generated."""
    try:
        known = json.loads(path.read_text()) if path.exists() else {}
    except ValueError:
        known = None
    if not (isinstance(known, dict) and all(isinstance(value, str) and value for value in known.values())):
        raise StackError(f"{path} is damaged.", hint="Put it back from a copy, or begin anew with another --dir.")
    whole = {name: secrets.token_urlsafe(24) for name in names} | known | dict(given or {})
    if whole != known:
        write_private(path, json.dumps(whole, indent=1) + "\n")
    return whole


@contextlib.contextmanager
def lock(path: Path, message: str, hint: str, *, wait: bool = False) -> Iterator[None]:
    """Hold `path` alone; the kernel releases it whatever happens to us. Raises StackError when it is held."""
    try:
        file = path.open("a")
    except OSError as error:
        raise StackError(
            f"{path} cannot be written: {error.strerror}.", hint=f"Look at the disk and the rights of {path.parent}."
        ) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            raise StackError(message, hint=hint) from None
        yield
