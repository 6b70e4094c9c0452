"""Serve on GATEWAY_PORT of 127.0.0.1, extended."""

from __future__ import annotations

import sys

from ministack.app import main

from emulator import faults, processes, resources

resources.install()
processes.install()
faults.install()
sys.exit(main())
