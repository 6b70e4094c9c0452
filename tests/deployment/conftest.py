"""The tests of the deployment use the tools that make it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from clone import Clone

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))


@pytest.fixture
def clone(tmp_path: Path) -> Clone:
    from clone import Clone

    return Clone(tmp_path)


@pytest.fixture
def running(clone: Clone) -> Clone:
    """A stack that was brought up, with all its data."""
    clone.bring_up()
    return clone
