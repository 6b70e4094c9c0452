"""Some tests of aws/ look at a part of its package `deployment` alone."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "aws"))
