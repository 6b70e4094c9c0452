"""The clock of a child: moved by a harness that started the process, and by nobody else."""

from __future__ import annotations

import mmap
import os
import struct
import time

import pytest

from kafka_webhook_bridge.app.clock import make_clock, make_wall_clock


def test_rule_33_without_a_harness_the_clock_is_the_monotonic_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KWB_HARNESS_FD", raising=False)
    assert make_clock() is time.monotonic
    assert make_wall_clock() is time.time


def test_rule_33_a_harness_moves_it_by_a_page_that_it_shares(monkeypatch: pytest.MonkeyPatch) -> None:
    fd = os.memfd_create("clock")
    try:
        os.ftruncate(fd, mmap.PAGESIZE)
        monkeypatch.setenv("KWB_HARNESS_FD", str(fd))
        clock = make_clock()
        os.pwrite(fd, struct.pack("d", 1e6), 0)
        before = time.monotonic()
        assert before + 1e6 <= clock() <= time.monotonic() + 1e6
        wall_clock = make_wall_clock()
        earlier = time.time()
        assert earlier <= wall_clock() <= time.time()
        os.pwrite(fd, struct.pack("d", 1_760_000_000.0), 8)
        assert wall_clock() == 1_760_000_000.0
    finally:
        os.close(fd)
