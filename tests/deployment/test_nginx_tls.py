"""TLS of both doors, as a scanner and as an attacker see it. Upstream of the Kafka port is a server that echoes."""

from __future__ import annotations

import contextlib
import json
import re
import resource
import signal
import socket
import socketserver
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from authority import NAMES, Authority
from bridge import WAIT_S, answers, eventually
from edge import CONSOLE, KAFKA, WEBHOOKS, Edge, edge
from kafka_webhook_bridge.kafka.guard import CONNECTIONS_MAX

HALF_HELLO = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"
PER_ADDRESS = 200  # limit_conn of the Kafka port
HTTPS_PER_ADDRESS, HTTPS_OF_ALL = 640, 1500  # those of the HTTPS port


class Echo(socketserver.ThreadingTCPServer):
    """Sends back what it gets after the PROXY header."""

    daemon_threads = True
    request_queue_size = 128

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with contextlib.suppress(OSError), self.request.makefile("rb", buffering=0) as stream:
                assert stream.readline(108).startswith(b"PROXY TCP4 127.0.0.")
                while data := stream.read(65_536):
                    self.request.sendall(data)


@pytest.fixture(scope="module")
def echo() -> Iterator[int]:
    with Echo(("127.0.0.1", 0), Echo.Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


@pytest.fixture
def front(echo: int, folder: Path) -> Iterator[Edge]:
    with edge(folder, kafka=echo) as found:
        yield found


def doors(front: Edge) -> list[tuple[str, int]]:
    return [(WEBHOOKS, front.https_port), (KAFKA, front.kafka_port)]


def echoes(front: Edge, word: bytes = b"hello", **how: str) -> bool:
    with front.open(KAFKA, port=front.kafka_port, **how) as client:
        client.socket.sendall(word)
        return client.socket.recv(100) == word


def weak(version: ssl.TLSVersion, ciphers: str = "ALL:COMPLEMENTOFALL:@SECLEVEL=0") -> ssl.SSLContext:
    """As a client that speaks one version and takes every cipher and certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_ciphers(ciphers)
    context.minimum_version = context.maximum_version = version
    return context


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
def test_tls_1_2_and_1_3_alone_with_aead_alone_on_both_doors(front: Edge) -> None:
    for name, port in doors(front):
        for version in (ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1):
            with pytest.raises(ssl.SSLError, match="ALERT_PROTOCOL_VERSION"):  # the server says so, not this client
                front.open(name, port=port, context=weak(version))
        with front.open(name, port=port, context=weak(ssl.TLSVersion.TLSv1_3)) as client:
            assert client.socket.cipher()[0].startswith("TLS_")
        accepted = set()
        known = [row["name"] for row in weak(ssl.TLSVersion.TLSv1_2).get_ciphers() if row["protocol"] != "TLSv1.3"]
        assert len(known) > 50
        for cipher in known:
            with contextlib.suppress(ssl.SSLError):
                context = weak(ssl.TLSVersion.TLSv1_2, f"{cipher}:@SECLEVEL=0")
                with front.open(name, port=port, context=context) as client:
                    accepted.add(client.socket.cipher()[0])
        # of the six, those for the key of this certificate
        assert accepted == {f"ECDHE-ECDSA-{x}" for x in
                            ("AES128-GCM-SHA256", "AES256-GCM-SHA384", "CHACHA20-POLY1305")}, name  # fmt: skip


def test_no_session_outlives_its_connection(front: Edge) -> None:
    for name, port in doors(front):
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            context = front.trust()
            context.minimum_version = context.maximum_version = version
            with front.open(name, port=port, context=context) as client:
                client.socket.sendall(b"GET /health/x HTTP/1.1\r\nHost: localhost\r\n\r\n")
                assert client.socket.recv(10)  # a ticket would have come before
                session = client.socket.session
            if session is None:
                continue
            raw = socket.create_connection(("127.0.0.1", port), WAIT_S)
            with context.wrap_socket(raw, server_hostname=name, session=session) as again:
                assert not again.session_reused, (name, version)


def test_names_that_are_ours_and_others(front: Edge) -> None:
    for name in (WEBHOOKS, CONSOLE, "localhost"):
        front.open(name).socket.close()
    for name in ("evil.test", KAFKA, "x." + WEBHOOKS, "127.0.0.1"):  # an address is sent as no name
        context = weak(ssl.TLSVersion.TLSv1_3)
        for wanted in (name, None):
            with pytest.raises(ssl.SSLError, match="UNRECOGNIZED_NAME"):  # no certificate was shown
                front.open(wanted, context=context)
    # The Kafka port has one certificate; the client decides.
    for name in NAMES:
        front.open(name, port=front.kafka_port).socket.close()
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        front.open("evil.test", port=front.kafka_port)
    eventually(lambda: "TLS refused: a name that is not ours" in front.log.read_text(), "the refusal is logged")
    eventually(lambda: "no TLS handshake" in front.log.read_text(), "the refusal is logged")


def test_certificates_that_nobody_should_believe(front: Edge, folder: Path) -> None:
    stranger = ssl.create_default_context(cafile=str(Authority.named("stranger").save(folder / "stranger.pem")))
    for name, port in doors(front):
        with pytest.raises(ssl.SSLCertVerificationError, match=r"unable to get local issuer|self.signed"):
            front.open(name, port=port, context=stranger)
    front.authority.issue(front.tls, days=-1)
    front.reload()
    for name, port in doors(front):
        with pytest.raises(ssl.SSLCertVerificationError, match="expired"):
            front.open(name, port=port)


def test_plain_http_on_the_https_port_and_plain_bytes_on_kafkas(front: Edge) -> None:
    with socket.create_connection(("127.0.0.1", front.https_port), WAIT_S) as plain:
        plain.sendall(b"POST /open?token=canary HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n")
        data = b""
        while more := plain.recv(65_536):
            data += more
    (answer,) = answers(data)
    assert (answer.status, answer.code, answer.closes) == (400, "edge.malformed", True)
    with socket.create_connection(("127.0.0.1", front.kafka_port), WAIT_S) as plain:
        plain.sendall(b"\0\0\0\x14\0\x12\0\x03\0\0\0\1\0\4test\0\0\0\0\0\0")  # ApiVersions, as a client without TLS
        with contextlib.suppress(ConnectionResetError):
            assert plain.recv(100)[:1] in (b"", b"\x15")  # the end, or an alert before it
    lines = [line for line in front.log.read_text().splitlines() if line.startswith("{") and "kafka connection" in line]
    assert json.loads(lines[-1])["reason"] == "no TLS handshake"
    assert json.loads(lines[-1])["client"] == "127.0.0.1"
    assert "canary" not in front.log.read_text()


def test_a_new_certificate_is_for_new_connections_and_the_old_ones_go_on(front: Edge) -> None:
    def serial(client: object) -> int:
        return int(client.socket.getpeercert()["serialNumber"], 16)

    with front.open(KAFKA, port=front.kafka_port) as old:
        old.socket.sendall(b"before")
        assert old.socket.recv(10) == b"before"
        second = front.authority.issue(front.tls)
        with front.open() as client:
            assert serial(client) == front.serial  # the files alone change nothing
        front.reload()
        for name, port in doors(front):
            with front.open(name, port=port) as client:
                assert serial(client) == second
        old.socket.sendall(b"after")
        assert old.socket.recv(10) == b"after"
        assert serial(old) == front.serial


def test_a_certificate_that_does_not_fit_its_key_leaves_the_old_one_in_force(front: Edge, folder: Path) -> None:
    kept = (front.tls / "server.key").read_bytes()
    front.authority.issue(front.tls)
    (front.tls / "server.key").write_bytes(kept)
    before = front.workers()
    front.process.send_signal(signal.SIGHUP)
    eventually(lambda: "key values mismatch" in front.log.read_text(), "the reason is logged")
    assert front.workers() == before
    assert echoes(front)
    text = front.log.read_text()
    front.log.write_text(re.sub(r".*\[emerg\].*\n", "", text))  # the one that was wanted


@pytest.fixture
def many_files() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_thousand_half_open_handshakes_from_one_address_keep_nobody_else_out(front: Edge, many_files: None) -> None:
    assert echoes(front)
    before = front.memory_bytes()
    with contextlib.ExitStack() as attackers:
        sockets = []
        for _ in range(1000):
            sock = attackers.enter_context(socket.create_connection(("127.0.0.1", front.kafka_port), WAIT_S))
            sock.setblocking(False)
            with contextlib.suppress(OSError):
                sock.sendall(HALF_HELLO)
            sockets.append(sock)

        def left() -> int:
            return sum(map(is_open, sockets))

        eventually(lambda: left() <= PER_ADDRESS, "the rest is cut")
        assert echoes(front, source="127.0.0.3")
        with pytest.raises((OSError, ssl.SSLError)):  # the attacker's address has its share
            echoes(front)
        assert front.memory_bytes() - before < 64 * 1024**2
        eventually(lambda: left() == 0, "handshakes end after ten seconds")
        eventually(lambda: echoes_again(front), "the address may come back")
    said = [json.loads(line) for line in front.log.read_text().splitlines() if line.startswith("{")]
    reasons = [line["reason"] for line in said if line["client"] == "127.0.0.1"]
    assert reasons.count("too many connections from this address, or of all") >= 800
    assert reasons.count("no TLS handshake") >= PER_ADDRESS - 1


def test_half_open_handshakes_on_443_shut_neither_door(front: Edge, many_files: None) -> None:
    """More than all connections that nginx once had for both doors."""
    with contextlib.ExitStack() as attackers:
        sockets = []
        for number in range(4300):
            sock = attackers.enter_context(socket.create_connection(("127.0.0.1", front.https_port), WAIT_S))
            sock.setblocking(False)
            if number % 2:
                with contextlib.suppress(OSError):
                    sock.sendall(HALF_HELLO)
            sockets.append(sock)
        eventually(lambda: sum(map(is_open, sockets)) <= HTTPS_PER_ADDRESS, "the rest is cut")
        assert sum(map(is_open, sockets)) > 0
        assert echoes(front, source="127.0.0.3")
        assert answered(front, "127.0.0.3")
        assert echoes(front)  # this door counts for itself
        eventually(lambda: not any(map(is_open, sockets)), "handshakes end after ten seconds")
    eventually(lambda: answered(front, "127.0.0.1"), "the address may come back")
    said = [json.loads(line) for line in front.log.read_text().splitlines() if "https connection failed" in line]
    reasons = [line["reason"] for line in said if line["client"] == "127.0.0.1"]
    assert reasons.count("too many connections from this address, or of all") >= 4300 - HTTPS_PER_ADDRESS
    assert reasons.count("no TLS handshake") >= HTTPS_PER_ADDRESS - 1


def test_half_open_handshakes_from_many_addresses_leave_the_other_door_open(front: Edge, many_files: None) -> None:
    with contextlib.ExitStack() as attackers:
        sockets = []
        for number in range(3200):
            source = (f"127.0.1.{number % 8}", 0)
            sock = attackers.enter_context(
                socket.create_connection(("127.0.0.1", front.https_port), WAIT_S, source_address=source)
            )
            sock.setblocking(False)
            sockets.append(sock)
        eventually(lambda: sum(map(is_open, sockets)) <= HTTPS_OF_ALL, "the rest is cut")
        assert echoes(front, source="127.0.0.3")
    text = front.log.read_text()
    assert text.count("too many connections from this address, or of all") >= 3200 - HTTPS_OF_ALL


def answered(front: Edge, source: str) -> bool:
    """Whether HTTPS is served; this nginx has no bridge behind it."""
    with contextlib.suppress(OSError), front.open(source=source) as client:
        return client.send(b"GET /health/x HTTP/1.1\r\nHost: localhost\r\n\r\n").answer().status == 404
    return False


def is_open(sock: socket.socket) -> bool:
    """Whether the other side has neither closed nor reset it."""
    try:
        return sock.recv(1, socket.MSG_PEEK) != b""
    except BlockingIOError:
        return True
    except OSError:
        return False


def echoes_again(front: Edge) -> bool:
    with contextlib.suppress(OSError):
        return echoes(front)
    return False


def test_the_configuration_names_what_it_promises(front: Edge) -> None:
    """nginx itself reads back what would otherwise only be seen after minutes."""
    words = " ".join(re.sub(r"#.*", "", front.read_back()).split())
    for directive in (
        "client_max_body_size 0;", "proxy_request_buffering off;", "proxy_buffering off;", "proxy_http_version 1.1;",
        "underscores_in_headers on;", "ignore_invalid_headers off;", "proxy_next_upstream off;", "server_tokens off;",
        "ssl_session_tickets off;", "ssl_handshake_timeout 10s;",
        "client_header_timeout 10s;", "client_body_timeout 20s;",
        f"listen {front.kafka_port} ssl so_keepalive=60s:10s:3;", "worker_rlimit_nofile 16384;",
        "zone=webhooks:8m rate=2000r/s;", "limit_req zone=webhooks burst=4000 nodelay;",
        "zone=console:8m rate=20r/s;",
    ):  # fmt: skip
        assert directive in words, directive
    assert "ssl_preread" not in words
    assert "http2" not in words
    # between the broker's connections.max.idle.ms and the 350 s of a load balancer
    (kafka,) = [block for block in words.split("server {") if f"listen {front.kafka_port} " in block]
    assert 300 < int(re.search(r"proxy_timeout (\d+)s;", kafka)[1]) < 350
    # Each worker has room for all that both doors let in: a sender's connection is four, a consumer's two.
    doors_max = [int(number) for number in re.findall(r"limit_conn doors (\d+);", words)]
    assert int(re.search(r"worker_connections (\d+);", words)[1]) > 4 * doors_max[0] + 2 * doors_max[1]
    assert doors_max == [HTTPS_OF_ALL, CONNECTIONS_MAX]
    # Lines of a lower level show whole request lines; which server speaks is the client's choice.
    assert set(re.findall(r"error_log stderr (\w+);", words)) == {"warn", "crit"}
    assert "error_log stderr crit;" in words.partition("http {")[2].partition("server {")[0]
