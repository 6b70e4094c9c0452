"""A disk that can run full or lose its power: ext4 in a file, mounted by a loop device. Needs root.

Without device-mapper: what a program has written but not synced is in the page cache of the mounted file system and not
in the file behind it. So a copy of that file, made while every writer stands still, is what the disk would hold after a
power cut, and mounting the copy in its place is switching the machine on again.
"""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path

_ROOM_BYTES = 1024**3  # sparse: only what is written takes room
_LEFT_BYTES = 64 * 1024  # so much a full disk still has


class Disk:
    """One file system at `mount`, which is made. Ends with `close`."""

    def __init__(self, image: Path, mount: Path, size_bytes: int = _ROOM_BYTES) -> None:
        self.mount, self._image = mount, image
        with image.open("wb") as file:
            file.truncate(size_bytes)
        _run("mkfs.ext4", "-q", "-m", "0", str(image))
        mount.mkdir(parents=True, exist_ok=True)
        self._on()

    def _on(self) -> None:
        _run("mount", "-o", "loop", str(self._image), str(self.mount))
        self.mount.chmod(0o711)

    def sync(self) -> None:
        """Everything so far is on the disk."""
        _run("sync", "-f", str(self.mount))

    def cut(self, pids: Iterable[int]) -> None:
        """The power fails while `pids` write: they are killed, and what was not synced is gone."""
        pids = list(pids)
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        after = self._image.with_suffix(".after")
        _run("cp", "--sparse=always", str(self._image), str(after))
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        _run("umount", "--lazy", str(self.mount))
        after.replace(self._image)
        self._on()

    def fill(self) -> None:
        """Take what is left."""
        with (self.mount / "filler").open("wb") as file:
            free = shutil.disk_usage(self.mount).free - _LEFT_BYTES
            os.posix_fallocate(file.fileno(), 0, max(1, free))
        self.sync()  # what was written and had no place on the disk yet

    def free(self) -> None:
        (self.mount / "filler").unlink(missing_ok=True)

    def close(self) -> None:
        with contextlib.suppress(subprocess.CalledProcessError):
            _run("umount", "--lazy", str(self.mount))
        self._image.unlink(missing_ok=True)


@functools.cache
def why_not() -> str:
    """What this machine lacks for it; empty when nothing."""
    if os.geteuid() != 0:
        return "needs root"
    if shutil.which("mkfs.ext4") is None:
        return "needs mkfs.ext4"
    with tempfile.TemporaryDirectory(prefix="kwb-faults-disk-") as name:
        try:
            Disk(Path(name) / "image", Path(name) / "disk", 16 * 1024**2).close()
        except subprocess.CalledProcessError:
            return "needs loop devices"
    return ""


def _run(*argv: str) -> None:
    subprocess.run(argv, check=True, capture_output=True)
