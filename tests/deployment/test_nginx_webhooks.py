"""The contract of the ingest port through nginx: the bridge's limits and errors hold, and nginx's own look alike."""

from __future__ import annotations

import contextlib
import hashlib
import json
import secrets
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bridge import LOGIN, PASSWORD, WAIT_S, Serve, answers, consume, eventually, request, serving
from edge import CONSOLE, WEBHOOKS, Edge, edge
from framing import CORPUS
from kafka_webhook_bridge.stack import Stack

# nginx is the trusted proxy.
BEHIND = """\
sources:
  open: {auth: none, methods: [GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS]}
  closed: {}
  small: {body_bytes_max: 1000}
  big: {body_bytes_max: 10MiB}
  exact: {auth: none}
  liar: {auth: none}
trusted_proxies: [127.0.0.1/32]
"""
LAST = b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


@pytest.fixture(scope="module")
def server(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    with serving(stack, tmp_path_factory.mktemp("bridge"), config=BEHIND) as server:
        yield server


@pytest.fixture(scope="module")
def front(server: Serve, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Edge]:
    folder = tmp_path_factory.mktemp("edge")
    with edge(folder, ingest=server.port, console=server.management_port) as found:
        yield found
        text = found.log.read_text()
        assert PASSWORD not in text
        assert "query-canary" not in text


def asked(path: str, body: bytes = b"", *lines: str, **more: Any) -> bytes:
    """A request with a Host that is served."""
    return request(path, body, *lines, **more).replace(b"\r\nHost: x\r\n", b"\r\nHost: localhost\r\n", 1)


def chunked(path: str) -> bytes:
    """The head of a request without a length."""
    return f"POST {path} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n{LOGIN}\r\n\r\n".encode()


def headers_of(stack: Stack, topic: str, count: int = 1) -> list[tuple[dict[str, list[bytes]], bytes]]:
    """Headers by name, and value, of the first records."""
    found = []
    for message in consume(stack.kafka, topic, count):
        headers: dict[str, list[bytes]] = {}
        for name, value in message.headers:
            headers.setdefault(name, []).append(value)
        found.append((headers, message.value))
    return found


def test_target_headers_and_body_arrive_byte_for_byte(stack: Stack, front: Edge) -> None:
    path = "/exact/a//b/%2e%2e/%41?x=%2F&query-canary=1&&y"
    body = bytes(range(256)) * 4
    lines = ("X-Under_score: 1", "X.Dot: 2", "X-Odd!#$&'*^`|~: 3", "X-Two: a", "X-Two: b", "X-Empty:", "x-sp:  \tv ",
             "X-Latin: \xe4\xff", "Cookie: a=b", "TE: trailers", "Via: 1.1 other")  # fmt: skip
    answer = front.ask(asked(path, body, *lines))
    assert answer.status == 200
    assert answer.json["body_sha256"] == hashlib.sha256(body).hexdigest()
    assert answer.headers["kwb-event-id"] == answer.json["event_id"]
    ((headers, value),) = headers_of(stack, "exact")
    assert value == body
    assert headers["kwb_path"] == [b"/exact/a//b/%2e%2e/%41"]
    assert headers["kwb_query"] == [b"x=%2F&query-canary=1&&y"]
    assert headers["http_host"] == [b"localhost"]
    for name, wanted in {
        "x-under_score": [b"1"], "x.dot": [b"2"], "x-odd!#$&'*^`|~": [b"3"], "x-two": [b"a", b"b"], "x-sp": [b"v"],
        "x-latin": [b"\xe4\xff"], "via": [b"1.1 other"], "x-empty": [b""],
    }.items():  # fmt: skip
        assert headers[f"http_{name}"] == wanted, name


def test_rule_24_what_a_sender_says_about_itself_is_overwritten(stack: Stack, front: Edge) -> None:
    lies = ("X-Forwarded-For: 203.0.113.9, 127.0.0.1", "x-forwarded-for: 203.0.113.8", "X-Forwarded-Proto: http",
            "X-Forwarded-Host: evil")  # fmt: skip
    assert front.ask(asked("/liar", b"a", *lies)).status == 200
    ((headers, _),) = headers_of(stack, "liar")
    assert headers["http_x-forwarded-for"] == [b"127.0.0.1"]
    assert headers["http_x-forwarded-proto"] == [b"https"]
    assert headers["http_x-forwarded-host"] == [b"localhost"]


def test_rule_24_failed_logins_count_for_the_sender_behind_nginx(front: Edge, server: Serve) -> None:
    server.forward(61)
    wrong = asked("/closed", b"a", login=LOGIN[:-6] + "AAAA==")
    with front.open(source="127.0.0.9") as client:
        statuses = [client.send(wrong).answer().status for _ in range(60)]
    assert (statuses[0], statuses[-1]) == (401, 429)
    assert front.ask(wrong).status == 401  # another address has its own count
    with front.open(source="127.0.0.9") as client:
        assert client.send(asked("/closed", b"a")).answer().status == 200
    server.forward(61)


def test_large_and_chunked_bodies(front: Edge) -> None:
    body = secrets.token_bytes(10 * 1024 * 1024)
    answer = front.ask(asked("/big", body))
    assert (answer.status, answer.json["body_sha256"]) == (200, hashlib.sha256(body).hexdigest())
    parts = [body[i : i + 70_000] for i in range(0, 999_999, 70_000)]
    pieces = b"".join(b"%x;e=1\r\n%b\r\n" % (len(part), part) for part in parts)
    answer = front.ask(chunked("/big") + pieces + b"0\r\nX-Sum: 1\r\n\r\n")
    assert (answer.status, answer.json["body_sha256"]) == (200, hashlib.sha256(b"".join(parts)).hexdigest())


def test_rule_22_the_bridges_limits_answer_and_not_those_of_nginx(front: Edge) -> None:
    for size, status, code in ((8192, 200, ""), (8193, 414, "http.url_too_long"), (50_000, 414, "edge.url_too_long")):
        answer = front.ask(asked("/open?" + "q" * (size - 6)))
        assert (answer.status, "" if status == 200 else answer.code) == (status, code)
    # nginx adds four lines of its own: X-Forwarded-For, -Proto and -Host, and Connection.
    for count, status in ((96, 200), (97, 431)):
        answer = front.ask(asked("/open", b"", *["X: y"] * (count - 2), login=""))
        assert (answer.status, status == 200 or answer.code) == (status, status == 200 or "http.headers_too_large")
    own = len("Connection: close\r\nX-Forwarded-For: 127.0.0.1\r\nX-Forwarded-Proto: https\r\n"
              "X-Forwarded-Host: localhost\r\n")  # fmt: skip
    room = 32_768 - own - len("Host: localhost\r\nContent-Length: 0\r\nX: \r\n")
    for size, status, code in (
        (room, 200, ""), (room + 1, 431, "http.headers_too_large"), (50_000, 431, "edge.headers_too_large"),
    ):  # fmt: skip
        answer = front.ask(asked("/open", b"", "X: " + "y" * size, login=""))
        assert (answer.status, "" if status == 200 else answer.code) == (status, code)


def test_refusals_of_the_bridge_pass(front: Edge) -> None:
    for data, status, code in (
        (asked("/small", b"b" * 1001), 413, "http.body_too_large"),
        (asked("/small", b"", size=5_000_000), 413, "http.body_too_large"),  # before the body is sent
        (chunked("/small") + b"3e9\r\n" + b"b" * 1001 + b"\r\n", 413, "http.body_too_large"),
        (asked("/big", b"", login="", size=5_000_000), 401, "auth.wrong"),
        (asked("/closed", login=""), 401, "auth.wrong"),
        (asked("/closed", b"z", "Content-Encoding: gzip"), 415, "http.content_encoding"),
        (asked("/closed", method="GET"), 405, "sources.method"),
        (asked("/nobody"), 404, "sources.unknown"),
        (asked("/open/%00", login=""), 400, "edge.malformed"),
        (asked("/health/live", method="GET"), 404, "edge.not_found"),
        (asked("/health/ready?x", method="GET"), 404, "edge.not_found"),
        (asked("/.problem", method="GET"), 404, "edge.not_found"),
        (asked("/open", method="TRACE"), 405, "edge.method"),
    ):  # fmt: skip
        answer = front.ask(data)
        found = answer.json if answer.status != 200 else {"code": ""}
        assert (answer.status, found["code"]) == (status, code), data[:80]
        if status != 200:
            assert answer.headers["content-type"] == "application/problem+json"
            assert set(found) >= {"type", "title", "status", "code", "detail"}
            assert found["status"] == status
    answer = front.ask(asked("/health", method="GET", login=""))
    assert (answer.status, b"kafka" in answer.body) == (200, False)


def test_rule_34_a_body_that_does_not_come_is_408_by_the_moved_clock(front: Edge, server: Serve) -> None:
    with front.open() as client:
        client.send(asked("/open", b"a", size=100))
        eventually(lambda: server.total("kwb_in_flight_bytes") == 1, "the byte is held")
        server.forward(16)
        answer = client.answer()
    assert (answer.status, answer.code) == (408, "http.body_timeout")


def test_expect_100_continue_is_answered_by_nginx(front: Edge) -> None:
    with front.open() as client:
        client.send(asked("/open", b"", "Expect: 100-continue", size=3))
        assert client.answer().status == 100
        assert client.send(b"abc").answer().status == 200


# Where nginx may answer otherwise than the bridge; docs/howto/nginx.md names each.
OTHERWISE = {
    # mended on the way: one request with one body
    "bare LF lines": 200, "chunk lines with LF": 200, "version 1.10": 200, "long chunk extension": 200,
    # read and dropped by nginx
    "101 trailers": 200, "1M trailer": 200, "length in a trailer": 200,
    # refused by nginx
    "%00 in the path": 400, "absolute URI": 421, "HTTP/0.9": 421,
}  # fmt: skip


def test_rule_22_no_vector_yields_two_requests_through_nginx(front: Edge, server: Serve) -> None:
    before = server.balance()
    found: dict[str, int] = {}
    for name, (data, _) in CORPUS.items():
        with front.open() as client:
            client.send(data.replace(b"Host: x", b"Host: localhost"))
            if name == "HTTP/0.9":  # has no head, so neither has the answer
                found[name] = json.loads(client.rest())["status"]
                continue
            first = client.answer()
            if not first.closes:
                client.send(LAST)
            rest = [answer.status for answer in answers(client.rest())]
        assert rest in ([], [200]), name
        found[name] = first.status
        if first.status != 200:
            assert first.headers["content-type"] == "application/problem+json", name
    direct = {name: status for name, (_, status) in CORPUS.items()}
    assert {name: status for name, status in found.items() if status != direct[name]}.items() <= OTHERWISE.items()
    accepted = sum(status == 200 for status in found.values())
    # A health check counts as none; so every accepted vector was one request, and no other became an event.
    eventually(lambda: server.balance()["acked"] - before["acked"] == accepted, "acked")
    after = server.balance()
    assert after["received"] - before["received"] <= len(CORPUS)


def test_the_console_has_a_name_of_its_own_and_the_host_header_decides_like_the_handshake(front: Edge) -> None:
    page = b"GET / HTTP/1.1\r\nHost: %b\r\n\r\n"
    answer = front.ask(page % CONSOLE.encode(), CONSOLE)
    assert (answer.status, b"/metrics" in answer.body) == (404, True)  # the management port speaks
    for target in (b"/health/ready", b"/%68ealth/live", b"//health/live", b"/x/../health/live"):
        answer = front.ask((page % CONSOLE.encode()).replace(b" / ", b" " + target + b" "), CONSOLE)
        assert (answer.status, answer.code) == (404, "edge.not_found"), target
    assert front.ask(asked("/", size=2_000_000).replace(b"localhost", CONSOLE.encode()), CONSOLE).status == 413
    for host in (b"evil.test", b"kafka.edge.test", b"127.0.0.1", b"x.webhooks.edge.test"):
        answer = front.ask(page % host)
        assert (answer.status, answer.code) == (421, "edge.host"), host
    assert front.ask(page.replace(b"/ ", b"/open ", 1) % WEBHOOKS.encode()).status == 200


def test_an_upstream_that_is_away_is_503_and_back_at_once(server: Serve, folder: Path) -> None:
    data = asked("/open?query-canary=2", b"a")
    with edge(folder, ingest=server.port) as front:  # each worker keeps an address for 2 s
        for names in ({}, {"ingest.test": "127.0.0.7"}):  # no such container; a container that does not listen
            kept, front.resolver.names = front.resolver.names, names
            try:
                answer = eventually(lambda: (found := front.ask(data)).status != 200 and found, "not reached")
            finally:
                front.resolver.names = kept
            assert (answer.status, answer.code, answer.headers["retry-after"]) == (503, "edge.unavailable", "5")
            assert answer.headers["content-type"] == "application/problem+json"
            eventually(lambda: front.ask(data).status == 200, "reached again")
        assert "query-canary" not in front.log.read_text()


def test_too_many_requests_at_once_from_one_address_are_429_and_others_get_in(front: Edge, server: Serve) -> None:
    with contextlib.ExitStack() as clients:
        waiting = [clients.enter_context(front.open(source="127.0.0.4")) for _ in range(512)]
        for client in waiting:
            client.send(asked("/open", b"", size=2) + b"a")
        eventually(lambda: server.total("kwb_in_flight_bytes") == 512, "all are at the bridge")
        with front.open(source="127.0.0.4") as client:
            answer = client.send(asked("/open", b"a")).answer()
        assert (answer.status, answer.code, answer.headers["retry-after"]) == (429, "edge.too_many", "1")
        assert front.ask(asked("/open", b"a")).status == 200
        assert [client.send(b"a").answer().status for client in waiting] == [200] * 512


HEAD = b"POST /open?token=query-canary HTTP/1.1\r\nHost: %b\r\nAuthorization: Basic query-canary\r\n"
# Each way in which nginx or the bridge refuses a request, or loses it; `%b` is the Host.
REFUSED = {
    "body cut short": HEAD + b"Content-Length: 100\r\n\r\nquery-canary",
    "bad chunk": HEAD + b"Transfer-Encoding: chunked\r\n\r\nquery-canary\r\n",
    "long header": HEAD + b"X: query-canary" + b"a" * 50_000 + b"\r\n\r\n",
    "long target": b"POST /open?query-canary" + b"a" * 50_000 + b" HTTP/1.1\r\nHost: %b\r\n\r\n",
    "no header": HEAD + b"Bad Header query-canary\r\n\r\n",
    "a NUL in a header": HEAD + b"X: query-canary\0\r\n\r\n",
    "two lengths": HEAD + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n",
    "two hosts": HEAD + b"Host: query-canary\r\n\r\n",
    "a host with a space": HEAD.replace(b"%b", b"query-canary %b") + b"\r\n",
    "no host": b"POST /open?token=query-canary HTTP/1.1\r\n\r\n",
    "gzip framing": HEAD + b"Transfer-Encoding: query-canary\r\n\r\n",
    "CONNECT": b"CONNECT query-canary:443 HTTP/1.1\r\nHost: %b\r\n\r\n",
    "a NUL in the path": HEAD.replace(b"/open", b"/query-canary%00") + b"\r\n",
    "HTTP/9.1": HEAD.replace(b"HTTP/1.1", b"HTTP/9.1") + b"\r\n",
    "a bad method": b"F\1O /open?query-canary HTTP/1.1\r\nHost: %b\r\n\r\n",
    "TRACE": HEAD.replace(b"POST", b"TRACE") + b"\r\n",
    "half a head": HEAD,
    "hidden": HEAD.replace(b"/open", b"/health/query-canary") + b"\r\n",
    "the console's limit": HEAD + b"Content-Length: 2000000\r\n\r\nquery-canary",
}  # fmt: skip


def test_no_refusal_shows_what_a_sender_may_keep_secret(server: Serve, folder: Path) -> None:
    """Whatever Host it names, through either server, with the bridge there and gone."""
    with edge(folder, ingest=server.port, console=server.management_port) as front, edge_to_nobody(folder) as alone:
        for one in (front, alone):
            for name in (WEBHOOKS, CONSOLE):
                for host in (name.encode(), b"evil.test"):
                    for data in REFUSED.values():
                        with one.open(name) as client, contextlib.suppress(OSError):
                            client.socket.sendall(data.replace(b"%b", host))
                            client.socket.shutdown(socket.SHUT_WR)
                            client.rest()
            with socket.create_connection(("127.0.0.1", one.https_port), WAIT_S) as plain:
                plain.sendall(REFUSED["two lengths"])
                with contextlib.suppress(OSError):
                    plain.recv(100)
            # What comes later is in the log: so is all before.
            assert one.ask(asked("/health/last", method="GET")).status == 404
            eventually(lambda one=one: one.log.read_text().count('"status":404') > 1, "the last line")
            text = one.log.read_text()
            assert text.count("answered by nginx") > 40
            assert '"client":"127.0.0.1"' in text
            assert "query-canary" not in text
            assert [line for line in text.splitlines() if "request:" in line] == []


@contextlib.contextmanager
def edge_to_nobody(folder: Path) -> Iterator[Edge]:
    """Whose bridge does not answer."""
    (folder / "alone").mkdir()
    with edge(folder / "alone") as front:
        yield front


PAGE = b"GET / HTTP/1.1\r\nHost: %b\r\n\r\n" % CONSOLE.encode()


def test_who_asks_the_console_too_often_is_429(front: Edge) -> None:
    """More than 20 a second after 100 at once: people never, who guesses passwords soon."""
    statuses: list[int] = []
    with front.open(CONSOLE, source="127.0.0.5") as client:
        while 429 not in statuses:
            assert len(statuses) < 20_000
            statuses.append(client.send(PAGE).answer().status)
    assert statuses.count(404) >= 100
    assert front.ask(PAGE, CONSOLE).status == 404  # another address


def test_the_console_has_64_requests_of_one_address_at_once(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=128) as mute, contextlib.ExitStack() as opened:
        mute.settimeout(WAIT_S)
        front = opened.enter_context(edge(folder, console=mute.getsockname()[1]))
        for _ in range(64):
            opened.enter_context(front.open(CONSOLE, source="127.0.0.6")).send(PAGE)
            opened.enter_context(mute.accept()[0])  # it is under way
        with front.open(CONSOLE, source="127.0.0.6") as one_more:
            answer = one_more.send(PAGE).answer()
        assert (answer.status, answer.code) == (429, "edge.too_many")
        opened.enter_context(front.open(CONSOLE)).send(PAGE)
        opened.enter_context(mute.accept()[0])  # another address gets through


def test_a_request_under_way_survives_a_reload(server: Serve, folder: Path) -> None:
    with edge(folder, ingest=server.port) as front, front.open() as client:
        client.send(asked("/open", b"", size=6) + b"abc")
        eventually(lambda: server.total("kwb_in_flight_bytes") == 3, "it is under way")
        front.authority.issue(front.tls)
        front.reload()
        assert front.ask(asked("/open", b"x")).status == 200
        answer = client.send(b"def").answer()
    assert (answer.status, answer.json["body_sha256"]) == (200, hashlib.sha256(b"abcdef").hexdigest())


class Load:
    """Senders through nginx, one request after another, until `stop`; every status, and what was not answered."""

    def __init__(self, front: Edge, path: str, senders: int = 3) -> None:
        self.statuses: list[int] = []
        self.unanswered: list[str] = []
        self._front, self._path = front, path
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._send, daemon=True) for _ in range(senders)]
        for thread in self._threads:
            thread.start()

    def _send(self) -> None:
        while not self._stop.is_set():
            try:
                with self._front.open() as client:
                    for _ in range(5):
                        self.statuses.append(client.send(asked(self._path, b"a", login="")).answer().status)
            except Exception as error:
                self.unanswered.append(repr(error))

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive()


def test_rule_23_two_bridges_take_turns_behind_nginx_and_no_request_is_lost(stack: Stack, folder: Path) -> None:
    config = "sources: {turns: {auth: none}}\ntrusted_proxies: [127.0.0.1/32]\n"
    with contextlib.ExitStack() as turns:
        old = turns.enter_context(serving(stack, folder, "--share-port", config=config))
        front = turns.enter_context(edge(folder, ingest=old.port))
        load = Load(front, "/turns")
        eventually(lambda: len(load.statuses) > 50, "load")
        port = {"KWB_INGEST_PORT": str(old.port)}
        turns.enter_context(serving(stack, folder, "--share-port", config=config, **port))
        assert old.stop() == 0
        seen = len(load.statuses)
        eventually(lambda: len(load.statuses) > seen + 50, "the new one answers alone")
        load.stop()
        assert (load.unanswered, set(load.statuses)) == ([], {200})
