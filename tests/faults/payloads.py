"""Bodies that follow from a seed and a delivery's id alone, so nobody has to keep what was sent.

Five classes of size and hostility. Everything else about a delivery (source, key) follows from its id as well: a
delivery that is sent again is the same in every byte.
"""

from __future__ import annotations

import hashlib
import json

TINY_BYTES_MAX = 16
LARGE_BYTES_MAX = 1024**2  # the default limit of a source
_WEIGHTS = {"tiny": 50, "json": 115, "binary": 50, "hostile": 40, "large": 1}  # of 256
_KEYS = 64

# What parsers and text columns choke on (durability.md names them): none may change a byte or stop anybody.
_HOSTILE = (
    b'{"a":"\\u0000","b":"\\ud800","n":1e400000}',
    b'\xef\xbb\xbf{"bom":true}',
    b"\x00\x01\x02 nul first",
    b'"\xff\xfe\xc0\xaf"',
    b"[" * 1200 + b"]" * 1200,
    b'{"n":' + b"9" * 5000 + b"}",
    b'{"same":1,"same":2}',
    b"\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
)


class Delivery:
    """What is sent under one id. `source` is None where there is nothing to choose from."""

    __slots__ = ("body", "id", "key", "kind", "sha256", "source")

    def __init__(self, seed: str, delivery_id: str, sources: dict[str, int]) -> None:
        dice = hashlib.blake2b(f"{seed}/{delivery_id}".encode(), digest_size=16).digest()
        self.id = delivery_id
        self.source = _pick(sources, int.from_bytes(dice[:4]))
        self.key = f"k{dice[4] % _KEYS}"
        self.kind = _pick(_WEIGHTS, dice[5])
        self.body = _body(self.kind, seed, delivery_id, int.from_bytes(dice[6:10]))
        self.sha256 = hashlib.sha256(self.body).hexdigest()


def _pick(weights: dict[str, int], number: int) -> str:
    left = number % sum(weights.values())
    for name, weight in weights.items():
        left -= weight
        if left < 0:
            return name
    raise AssertionError


def _body(kind: str, seed: str, delivery_id: str, number: int) -> bytes:
    noise = hashlib.shake_128(f"{seed}|{delivery_id}".encode()).digest
    match kind:
        case "tiny":
            return noise(1 + number % TINY_BYTES_MAX)
        case "json":
            return json.dumps(
                {
                    "id": delivery_id,
                    "order": {"id": number, "total": f"{number / 100:.2f}"},
                    "note": noise(50 + number % 800).hex(),
                }
            ).encode()
        case "binary":
            return noise(1024 + number % 7168)
        case "hostile":
            return _HOSTILE[number % len(_HOSTILE)] + noise(number % 64)
        case _:
            return noise(64 * 1024 + number % (LARGE_BYTES_MAX - 64 * 1024 + 1))
