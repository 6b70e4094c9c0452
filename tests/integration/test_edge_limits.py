"""What a sender may not do: too much, too slowly, too often, or without the right login. Time is moved here."""

from __future__ import annotations

import base64
import contextlib
import resource
import select
from pathlib import Path

import pytest

from bridge import LOGIN, PASSWORD, USER, Client, Serve, answers, eventually, request, serving
from kafka_webhook_bridge.stack import Stack


def basic(user: str, password: str) -> str:
    return "Authorization: Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


# ── sizes ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_rule_22_the_target_may_have_8_kib(bridge: Serve) -> None:
    for size, status in ((8192, 200), (8193, 414)):
        assert bridge.ask(request("/open?" + "q" * (size - 6))).status == status


def test_rule_22_100_header_lines_and_32_kib(bridge: Serve) -> None:
    for count, status in ((100, 200), (101, 431)):
        assert bridge.ask(request("/open", b"", *["X: y"] * (count - 2), login="")).status == status
    # Host, Content-Length and X, each with its colon, its space and its line end.
    room = 32_768 - len("Host: x\r\nContent-Length: 0\r\n" + "X: \r\n")
    for size, status in ((room, 200), (room + 1, 431)):
        assert bridge.ask(request("/open", b"", "X: " + "y" * size, login="")).status == status


def test_a_body_over_the_limit_is_refused_before_it_is_sent(bridge: Serve) -> None:
    assert bridge.ask(request("/small", b"b" * 1000)).status == 200
    with bridge.open() as client:
        answer = client.send(request("/small", b"", size=1001)).answer()
        assert (answer.status, answer.code, answer.closes) == (413, "http.body_too_large", True)
    head = f"POST /small HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n{LOGIN}\r\n\r\n".encode()
    with bridge.open() as client:
        answer = client.send(head + b"3e8\r\n" + b"b" * 1000 + b"\r\n1\r\nb").answer()
        assert (answer.status, answer.closes) == (413, True)
    eventually(lambda: bridge.total("kwb_in_flight_bytes") == 0, "nothing is held")  # shown now and then


def test_a_refused_request_with_a_large_body_hears_its_own_refusal(bridge: Serve) -> None:
    with bridge.open() as client:
        answer = client.send(request("/big", b"", login="", size=5_000_000)).answer()
        assert (answer.status, answer.closes) == (401, True)
    head = b"POST /big HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    with bridge.open() as client:
        answer = client.send(head + b"20000\r\n" + b"b" * 0x20000).answer()
        assert (answer.status, answer.closes) == (401, True)
    with bridge.open() as client:  # a small one leaves the connection alive
        assert client.send(request("/big", b"b" * 60_000, login="")).answer().status == 401
        assert client.send(request("/big", b"b")).answer().status == 200


def test_content_encoding_methods_and_unknown_sources(bridge: Serve) -> None:
    assert bridge.ask(request("/closed", b"z", "Content-Encoding: gzip")).code == "http.content_encoding"
    assert bridge.ask(request("/closed", b"z", "Content-Encoding: Identity")).status == 200
    assert bridge.ask(request("/zip", b"z", "Content-Encoding: gzip")).status == 200
    answer = bridge.ask(request("/closed", method="GET"))
    assert (answer.status, answer.headers["allow"]) == (405, "POST, PUT, PATCH, DELETE")
    for path in ("/nobody", "/", "/health/x/y", "/Closed", "/closed%2F"):
        assert bridge.ask(request(path)).code == "sources.unknown", path
    assert bridge.total("kwb_requests_received_total", source="nobody") == 0  # strangers make no labels


def test_a_rate_limit(bridge: Serve) -> None:
    with bridge.open() as client:
        found = [client.send(request("/slowly")).answer() for _ in range(30)]
        limited = [answer for answer in found if answer.status == 429]
        assert {answer.code for answer in limited} == {"sources.rate_limit"}
        assert int(limited[0].headers["retry-after"]) >= 1
        bridge.forward(5)
        assert client.send(request("/slowly")).answer().status == 200


# ── time ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("begun", [b"POST /open?", b"POST /open HTTP/1.1\r\nHost: x\r\nX: "])
def test_rule_34_headers_that_do_not_come_are_408_by_the_moved_clock(bridge: Serve, begun: bytes) -> None:
    before = bridge.total("kwb_slow_closed_total", phase="header")
    with bridge.open() as client:
        client.send(request("/health", method="GET", login="") + begun)
        assert client.answer().status == 200
        assert bridge.ask(request("/open")).status == 200  # by now the server has read the beginning
        bridge.forward(9)
        client.send(b"x")  # a drip is no extension
        bridge.forward(2)
        (answer,) = answers(client.rest())
        assert (answer.status, answer.code, answer.closes) == (408, "http.header_timeout", True)
    assert bridge.total("kwb_slow_closed_total", phase="header") == before + 1


def test_headers_that_begin_behind_other_requests_have_their_deadline_too(bridge: Serve) -> None:
    with bridge.open() as client:
        client.send(request("/open", b"1") + request("/open", b"2") + b"POST /open HT")
        assert [client.answer().status for _ in range(2)] == [200, 200]
        bridge.forward(11)
        assert [a.status for a in answers(client.rest())] == [408]


def test_rule_34_a_dripped_body_is_408_by_the_moved_clock_and_its_bytes_are_released(bridge: Serve) -> None:
    with bridge.open() as client:
        client.send(request("/open", b"a", size=100))
        eventually(lambda: bridge.total("kwb_in_flight_bytes") == 1, "the byte is held")
        bridge.forward(14)
        client.send(b"b")
        eventually(lambda: bridge.total("kwb_in_flight_bytes") == 2, "the byte is held")
        bridge.forward(2)
        (answer,) = answers(client.rest())
        assert (answer.status, answer.code) == (408, "http.body_timeout")
    eventually(lambda: bridge.total("kwb_in_flight_bytes") == 0, "released")


def test_idle_connections_are_closed_without_a_word(bridge: Serve) -> None:
    with bridge.open() as idle, bridge.open() as used:
        assert used.send(request("/open")).answer().status == 200
        bridge.forward(70)
        assert used.send(request("/open")).answer().status == 200
        bridge.forward(6)
        assert idle.rest() == b""
        assert used.send(request("/open")).answer().status == 200


def test_1000_idle_connections_disturb_nobody(bridge: Serve) -> None:
    clients = [bridge.open() for _ in range(1000)]
    eventually(lambda: bridge.total("kwb_connections") >= 1000, "connected")
    assert [bridge.ask(request("/open", b"x")).status for _ in range(20)] == [200] * 20
    bridge.forward(80)
    assert {client.rest() for client in clients} == {b""}
    for client in clients:
        client.socket.close()


# ── logins ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_wrong_logins(bridge: Serve) -> None:
    bridge.forward(61)
    wrong = [
        "", basic(USER, "wrong"), basic("nobody", PASSWORD), basic("partner", "partner-canary"), "Authorization: Basic",
        "Authorization: Basic !!!", "Authorization: Bearer " + PASSWORD, "Authorization: " + PASSWORD,
        f"{LOGIN}\r\n{LOGIN}", f"{LOGIN}\r\n{basic(USER, 'wrong')}", basic("", ""), LOGIN + "x",
    ]  # fmt: skip
    for login in wrong:
        answer = bridge.ask(request("/closed", b"x", login=login))
        assert (answer.status, answer.code) == (401, "auth.wrong"), login
        assert answer.headers["www-authenticate"].startswith("Basic ")
    assert bridge.ask(request("/own", b"x")).status == 401
    assert bridge.ask(request("/own", b"x", login=basic("partner", "partner-canary"))).status == 200
    assert bridge.ask(request("/closed", b"x", login=LOGIN.replace("Basic", "bAsIc"))).status == 200
    assert bridge.ask(request("/open", b"x", login=basic("whoever", "whatever"))).status == 200
    bridge.forward(61)


def test_rule_24_back_off_never_locks_the_right_login_out(bridge: Serve) -> None:
    bridge.forward(61)
    with bridge.open() as client:
        statuses = [client.send(request("/closed", login="")).answer().status for _ in range(25)]
        assert statuses == [401] * 20 + [429] * 5
        answer = client.send(request("/closed", login="")).answer()
        assert 1 <= int(answer.headers["retry-after"]) <= 60
        assert client.send(request("/closed")).answer().status == 200
        bridge.forward(61)
        assert client.send(request("/closed", login="")).answer().status == 401


def test_rule_24_only_trusted_proxies_are_believed(stack: Stack, folder: Path) -> None:
    with serving(stack, folder, config="sources: {s: {}}\ntrusted_proxies: [127.0.0.0/8]\n") as server:
        with server.open() as client:
            for _ in range(20):
                client.send(request("/s", b"", "X-Forwarded-For: 198.51.100.7, 127.0.0.9", login="")).answer()
            spoofed = "X-Forwarded-For: 203.0.113.5, 198.51.100.7"
            assert client.send(request("/s", b"", spoofed, login="")).answer().status == 429
            other = "X-Forwarded-For: 198.51.100.7, 203.0.113.5"
            assert client.send(request("/s", b"", other, login="")).answer().status == 401
        assert server.said("request rejected")[0]["peer"] == "198.51.100.7"


def test_caps_of_bytes_and_connections(stack: Stack, folder: Path) -> None:
    caps = {"KWB_INGEST_IN_FLIGHT_BYTES_MAX": "1000", "KWB_INGEST_CONNECTIONS_MAX": "5"}
    with serving(stack, folder, config="sources: {s: {}}", **caps) as server:
        eventually(lambda: server.ask(request("/s", b"x")).status == 200, "the topic is there")
        with server.open() as first, server.open() as second:
            first.send(request("/s", b"a" * 600, size=601))
            eventually(lambda: server.total("kwb_in_flight_bytes") == 600, "held")
            answer = second.send(request("/s", b"b" * 600, size=601)).answer()
            assert (answer.status, answer.code) == (503, "deliver.in_flight")
            assert "retry-after" in answer.headers
            assert first.send(b"a").answer().status == 200
        eventually(lambda: server.total("kwb_connections") == 0, "closed")
        clients = [server.open() for _ in range(5)]
        eventually(lambda: server.total("kwb_connections") == 5, "connected")
        with server.open() as extra:
            assert extra.send(request("/s")).rest() == b""
        assert clients[0].send(request("/s", b"x")).answer().status == 200
        for client in clients:
            client.socket.close()
        eventually(lambda: server.total("kwb_connections") == 0, "closed")
        assert server.ask(request("/s", b"x")).status == 200


def test_without_file_descriptors_connections_wait_and_none_is_dropped(stack: Stack, folder: Path) -> None:
    with serving(stack, folder, config="sources: {a: {auth: none}}") as bridge, contextlib.ExitStack() as closing:
        (pid,) = bridge.children()
        first = closing.enter_context(bridge.open())
        assert first.send(request("/a", login="")).answer().status == 200
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        files = len(list(Path(f"/proc/{pid}/fd").iterdir()))
        soft, _ = resource.prlimit(pid, resource.RLIMIT_NOFILE, (files + 8, hard))
        others = [closing.enter_context(bridge.open()).send(request("/a", login="")) for _ in range(150)]
        eventually(lambda: bridge.said("new connections wait: no file descriptors left"), "the door is closed")
        assert first.send(request("/a", login="")).answer().status == 200  # who is inside is served
        waiting = [client for client in others if client not in answered(others)]
        assert waiting
        eventually(lambda: "files" in str(bridge.health(bridge.management_port)[1]), "health tells of it")
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (soft, hard))
        assert {client.answer().status for client in others} == {200}
        assert bridge.children() == [pid]


def answered(clients: list[Client]) -> list[Client]:
    ready, _, _ = select.select([client.socket for client in clients], [], [], 0)
    return [client for client in clients if client.socket in ready]
