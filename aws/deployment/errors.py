"""The three ways a command ends early. Each says what happened and what to do about it."""

from __future__ import annotations

from typing import ClassVar


class Stop(Exception):
    """`message` says what happened, `hint` what to do; `exit_code` is the command's."""

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class Failed(Stop):
    """AWS did not do what it was asked to."""


class Refused(Stop):
    """Wrong use, or something is missing; nothing was changed by the step that says so."""

    exit_code = 2


class Unverified(Stop):
    """It is deployed, and does not do what it should."""

    exit_code = 3
