"""Senders of the catalog against a real bridge: the vectors as sources, and the hosts that publish their keys."""

from __future__ import annotations

import contextlib
import http.server
import json
import ssl
import threading
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from authority import Authority
from bridge import Answer, Client, Serve, eventually
from kafka_webhook_bridge.sources.catalog import Catalog

VECTORS: list[dict[str, Any]] = json.loads(
    (Path(__file__).parents[1] / "data/providers/vectors.json").read_text("utf-8")
)["vectors"]
CATALOG = Catalog()
NOW = 1_760_000_000

JWKS = "https://keys.test/jwks.json"  # of profiles whose operator names the address
_CLIENT = {"client_id": "our-id", "client_secret": "our-secret"}
_HOSTS = (
    "keys.test", "www.googleapis.com", "rest.fal.ai", "production.plaid.com", "api.paypal.com", "api.ebay.com",
    "sns.us-west-2.amazonaws.com",
)  # fmt: skip


@cache
def by_id() -> dict[str, dict[str, Any]]:
    return {vector["id"]: vector for vector in VECTORS}


class Publisher:
    """Every host that publishes keys, on loopback: the bridge of a test ends all its fetches here.

    `pages` are answers by `host/path`; whatever else is asked for is not found. `asked` is what came.
    """

    def __init__(self, folder: Path, hosts: tuple[str, ...] = _HOSTS) -> None:
        self.pages: dict[str, tuple[int, bytes]] = {}
        self.asked: list[str] = []
        self.held = threading.Event()  # cleared: answers wait
        self.held.set()
        authority = Authority.named("publisher", folder=folder)
        authority.issue(folder / "publisher", hosts)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(folder / "publisher/server.pem", folder / "publisher/server.key")
        publisher = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                size = int(self.headers.get("content-length", 0))
                self.rfile.read(size)
                place = self.headers["host"] + self.path.partition("?")[0]
                publisher.asked.append(place)
                publisher.held.wait(60)
                status, body = publisher.pages.get(place, (404, b"nothing here"))
                self.send_response(status)
                self.send_header("content-length", str(len(body)))
                if 300 <= status < 400:
                    self.send_header("location", JWKS)
                self.end_headers()
                with contextlib.suppress(OSError):
                    self.wfile.write(body)

            do_POST = do_GET  # noqa: N815

            def log_message(self, *_: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        self.environ = {"KWB_HARNESS_FETCH": f"127.0.0.1:{self._server.server_address[1]}:{authority.ca}"}

    def publish(self, vector: Mapping[str, Any]) -> None:
        """The keys that stand beside a vector, and no others."""
        self.pages.clear()
        if "jwks" in vector:
            body = json.dumps(vector["jwks"]).encode()
            for host, path in (
                ("keys.test", "/jwks.json"), ("www.googleapis.com", "/oauth2/v3/certs"),
                ("rest.fal.ai", "/.well-known/jwks.json"),
            ):  # fmt: skip
                self.pages[host + path] = 200, body
            key = {"key": vector["jwks"]["keys"][0]}
            self.pages["production.plaid.com/webhook_verification_key/get"] = 200, json.dumps(key).encode()
        for address, text in vector.get("certs", {}).items():
            parts = urlsplit(address)
            self.pages[f"{parts.netloc}{parts.path}"] = 200, text.encode()
        for key_id, answer in (vector.get("params") or {}).get("keys", {}).items():
            self.pages["api.ebay.com/identity/v1/oauth2/token"] = 200, b'{"access_token":"t"}'
            place = f"api.ebay.com/commerce/notification/v1/public_key/{key_id}"
            self.pages[place] = 200, json.dumps(answer).encode()

    def close(self) -> None:
        self.held.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@contextlib.contextmanager
def publishing(folder: Path) -> Iterator[Publisher]:
    found = Publisher(folder)
    try:
        yield found
    finally:
        found.close()


def source_of(vector: Mapping[str, Any], topic: str) -> dict[str, Any]:
    """The source of bridge.yaml that a vector is for."""
    profile = CATALOG.load(vector["profile"])
    given = {name: value for name, value in (vector.get("params") or {}).items() if isinstance(value, str)}
    known = {"jwks_url": JWKS, **_CLIENT, **given}
    return {
        "profile": vector["profile"],
        "secrets": vector["secrets"],
        "params": {name: value for name, value in known.items() if name in profile.setup.params},
        "public_url": vector["url"].partition("?")[0],
        "methods": [vector["method"]],
        "topic": topic,
        **({"i_know": True} if profile.unsafe else {}),
    }


def wire(vector: Mapping[str, Any], name: str) -> bytes:
    """The request of a vector to the source of that name. What follows `?` stays to the byte."""
    _, mark, query = vector["url"].partition("?")
    body = vector["body"].encode()
    lines = [f"{vector['method']} /{name}{mark}{query} HTTP/1.1", "Host: bridge.internal"]
    lines += [f"{key}: {value}" for key, value in vector["headers"].items()]
    return "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode() + body


def settled(server: Serve, data: bytes) -> Answer:
    """The answer once no key is fetched for it any more."""

    def known() -> Answer | None:
        answer = server.ask(data)
        return None if answer.status == 503 and answer.code == "auth.key_pending" else answer

    found: Answer = eventually(known, "the key is known, or known not to be there")
    return found


def write_config(folder: Path, sources: Mapping[str, Any], **bridge: Any) -> str:
    """JSON is YAML. Its path."""
    path = folder / "bridge.yaml"
    path.write_text(json.dumps({"sources": sources, **bridge}))
    return str(path)


def ask_all(client: Client, requests: list[bytes]) -> list[Answer]:
    return [client.send(data).answer() for data in requests]
