"""`python -m kafka_webhook_bridge.cli` is `kwb`."""

import sys

from kafka_webhook_bridge.cli import main

if __name__ == "__main__":
    sys.exit(main())
