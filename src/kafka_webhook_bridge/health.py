"""The container's probe: `python -m kafka_webhook_bridge.health` asks the management port and ends with 0 or 1.

It runs every few seconds in an image without a shell or curl, so it needs the standard library alone and imports
nothing else of the bridge. Liveness is the default: it drives restarts, and readiness must never do so.
"""

from __future__ import annotations

import argparse
import http.client
import json
from collections.abc import Sequence

_TIMEOUT_S = 2.5
_ANSWER_BYTES_MAX = 65_536
_REASON_CHARACTERS_MAX = 500


def probe(host: str, port: int, path: str, timeout_s: float = _TIMEOUT_S) -> tuple[bool, str]:
    """Whether the answer is 200, and a line that says why or why not."""
    connection = http.client.HTTPConnection(host, port, timeout=timeout_s)
    try:
        connection.request("GET", path, headers={"Connection": "close"})
        answer = connection.getresponse()
        status, body = answer.status, answer.read(_ANSWER_BYTES_MAX)
    except (OSError, http.client.HTTPException, ValueError) as error:  # ValueError: a path that is none
        return False, f"http://{host}:{port}{path} does not answer: {_one_line(str(error) or type(error).__name__)}"
    finally:
        connection.close()
    return status == http.client.OK, f"{status} {_in_words(body)}".rstrip()


def _in_words(body: bytes) -> str:
    """The status and the reasons of /health/ready; of anything else nothing, because it may be anybody's answer."""
    try:
        found = json.loads(body)
        words = str(found.get("status", ""))
        reasons = [f"{name}: {part['reason']}" for name, part in found.get("parts", {}).items() if part["reason"]]
    except (ValueError, AttributeError, KeyError, TypeError):
        return ""
    return _one_line("; ".join([words, *reasons]))


def _one_line(text: str) -> str:
    return "".join(c if c.isprintable() else " " for c in text).strip()[:_REASON_CHARACTERS_MAX]


def main(argv: Sequence[str] | None = None) -> int:
    """One line on standard output; 0 when it is well, 1 otherwise, 2 after wrong use."""
    parser = argparse.ArgumentParser(prog="python -m kafka_webhook_bridge.health", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8081)
    parser.add_argument("--path", default="/health/live")
    args = parser.parse_args(argv)
    well, why = probe(args.host, args.port, args.path)
    print(why)
    return 0 if well else 1


if __name__ == "__main__":
    raise SystemExit(main())
