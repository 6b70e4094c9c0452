"""Checks that change the stack while it is used: reload, restart, rotation, down and up, and its end.

As in checks.py, each says what it saw.
"""

import re
import socket
import ssl
import time

from compose.scene import PARTNER, TOPIC, Scene
from compose.stack import KAFKA_PORT, Compose, Load, until


def _certificate(stack: Compose, port: int, name: str) -> str:
    context = ssl.create_default_context(cafile=stack.ca)
    with (
        socket.create_connection(("127.0.0.1", port), timeout=30) as plain,
        context.wrap_socket(plain, server_hostname=name) as tls,
    ):
        found = tls.getpeercert()
        assert found is not None
        return str(found["serialNumber"])


def reload(scene: Scene) -> str:
    """A new certificate by a reload of nginx: no established connection is cut, no webhook is refused."""
    stack, reader = scene.stack, scene.reading()
    reader.await_value("from the host.")
    doors = ((stack.https_port, f"webhooks.{stack.domain}"), (KAFKA_PORT, f"kafka.{stack.domain}"))
    before = [_certificate(stack, *door) for door in doors]
    seen = len(reader.lines)
    with Load(stack, "reload") as load:
        renew = ("--domain", stack.domain, "--folder", "/tls", "--authority", "/authority", "--renew")
        stack.compose("run", "--rm", "--no-TTY", "tls", "tls", "make", *renew)
        stack.compose("kill", "--signal", "HUP", "nginx")
        after = until(
            lambda: [found for door in doors if (found := _certificate(stack, *door)) not in before],
            "a new certificate is shown",
        )
        until(lambda: all(_certificate(stack, *door) not in before for door in doors), "on both ports")
        load.more(10)
    assert {status for _, status, _ in load.answers} == {200}, load.statuses()
    for body in load.acked():
        reader.await_value(body)
    errors = [line for line in reader.lines[seen:] if "error" in line or "assigned" in line]
    assert not errors, errors
    return f"serial {before[0][-8:]} → {after[0][-8:]}; {len(load.answers)} webhooks 200; the consumer saw no break"


def _complete(scene: Scene, load: Load) -> str:
    """Everything acknowledged was read, and no offset was left out on the way."""
    reader = scene.reading()
    for body in load.acked():
        reader.await_value(body)
    offsets: dict[int, list[int]] = {}
    for record in reader.records:
        offsets.setdefault(record["partition"], []).append(record["offset"])
    for partition, read in offsets.items():
        assert set(read) == set(range(max(read) + 1)), f"partition {partition} lacks offsets: {read}"
    total = sum(map(len, offsets.values()))
    again = total - sum(len(set(read)) for read in offsets.values())
    return f"{total} records, no offset missing, {again} read twice"


def broker_moves(scene: Scene) -> str:
    """Kafka is made anew at another address while the partner reads and webhooks come."""
    stack, reader = scene.stack, scene.reading()
    reader.await_value("from the host.")
    before = stack.address("kafka", "front")
    squatter = f"{stack.project}-squatter"
    with Load(stack, "moves") as load:
        stack.keep_logs()
        gone = time.time()
        stack.compose("rm", "--stop", "--force", "kafka")
        sleeping = ["--detach", "--name", squatter, "--network", f"{stack.project}_front", "--entrypoint", "python"]
        stack.docker("run", "--rm", *sleeping, stack.image, "-c", "import time; time.sleep(3600)")
        try:
            stack.compose("up", "--detach", "--wait", "--no-deps", "kafka")
            back = time.time()
            after = stack.address("kafka", "front")
            load.more(10)
        finally:
            stack.docker("rm", "--force", squatter)
    assert after != before, f"the address stayed {before}"
    assert {status for _, status, _ in load.answers} == {200}, load.statuses()
    complete = _complete(scene, load)
    first_after = min(record["at"] for record in reader.records if record["at"] >= back)
    gap = max(b["at"] - a["at"] for a, b in zip(reader.records, reader.records[1:], strict=False) if b["at"] > gone)
    scene.numbers["Kafka removed → healthy at another address"] = f"{back - gone:.1f} s"
    scene.numbers["healthy → the partner's next record"] = f"{first_after - back:.1f} s"
    scene.numbers["longest silence of the partner around it"] = f"{gap:.1f} s"
    return f"{before} → {after}; {load.statuses()}; {complete}"


def postgres_away(scene: Scene) -> str:
    """Without PostgreSQL webhooks are taken; afterwards they are in the archive."""
    stack = scene.stack
    stack.compose("stop", "postgres")
    try:
        receipts = [stack.accepted(f'{{"postgres":"away {n}."}}') for n in range(5)]
    finally:
        stack.compose("up", "--detach", "--wait", "--no-deps", "postgres")
    assert {receipt["stored"] for receipt in receipts} == {"kafka"}, receipts
    for receipt in receipts:
        stack.archived(receipt["event_id"])
    return "5 of 5 answered 200 (kafka), then archived"


def kafka_away(scene: Scene) -> str:
    """Without Kafka webhooks are taken into the outbox; afterwards they are in Kafka and in the archive."""
    stack = scene.stack
    stack.compose("stop", "kafka")
    try:
        receipts = [stack.accepted(f'{{"kafka":"away {n}."}}') for n in range(5)]
    finally:
        stack.compose("up", "--detach", "--wait", "--no-deps", "kafka")
    assert {receipt["stored"] for receipt in receipts} == {"outbox"}, receipts
    for receipt in receipts:
        until(
            lambda event_id=receipt["event_id"]: stack.archived(event_id).get("offset") is not None,
            "the relayed event has an offset",
        )
    if scene.password:
        scene.reading().await_value("away 4.")
    return "5 of 5 answered 200 (outbox), then relayed and archived"


def rotated(scene: Scene) -> str:
    """`make env-rotate` under light load: new passwords are in force, and nothing acknowledged is lost."""
    stack = scene.stack
    before = stack.values()
    with Load(stack, "rotate") as load:
        started = time.monotonic()
        said = stack.run("make", "env-rotate")
        took = time.monotonic() - started
        load.more(10)
    after = stack.values()
    kept = [name for name, value in before.items() if name.endswith("_PASSWORD") and after[name] == value]
    assert not kept, f"unchanged: {kept}\n{said}"
    old = stack.post("{}", password=before["WEBHOOK_PASSWORD"])
    assert old[0] == 401, f"the old password: {old}; {load.statuses()}"
    stack.accepted('{"after":"the rotation."}')
    outside = [check for check in stack.kwb("doctor")["checks"] if check["name"].startswith("outside")]
    assert {check["status"] for check in outside} == {"ok"}, outside
    unexpected = {status for _, status, _ in load.answers} - {200, 401}
    assert not unexpected, load.statuses()
    scene.numbers["`make env-rotate`"] = f"{took:.1f} s"
    complete = _complete(scene, load) if scene.password else "no partner to read it"
    return f"{load.statuses()}; the old webhook password 401; {complete}"


def down_and_up(scene: Scene) -> str:
    """`make down`, `make compose-up`: everything is still there."""
    stack = scene.stack
    stack.keep_logs()
    if scene.reader:
        scene.reader.stop()
        scene.reader = None
    stack.run("make", "down")
    assert not stack.compose("ps", "--all", "--quiet").strip()
    said = stack.run("make", "compose-up")
    for secret in stack.secrets:
        assert secret not in said, "make compose-up prints a password"
    stack.archived(scene.marker)
    receipt = stack.accepted('{"after":"down and up."}')
    stack.archived(receipt["event_id"])
    if not scene.password:
        return "the first event is still in the archive; there is no partner"
    status, lines = scene.partner_ends(stack.partner(
        "read", "--user", PARTNER, "--topic", TOPIC, "--group", f"{PARTNER}.again", "--until", "down and up."
    ))  # fmt: skip
    values = [line["value"] for line in lines if "value" in line]
    assert status == 0, lines
    # Its group goes on where it was: nothing that it had committed comes again.
    scene.reading().await_value("down and up.")
    again = [r["value"] for r in scene.reading().records if "down and up." not in r["value"]]
    assert not [value for value in again if "from the host." in value], again
    return f"first event archived, the partner's login and its group's position kept, {len(values)} records read"


def cleaned(scene: Scene) -> str:
    """`make clean` asks; with YES=1 it removes containers, networks, volumes, passwords and certificates."""
    stack = scene.stack
    if scene.reader:
        scene.reader.stop()
        scene.reader = None
    done = stack.done("make", "clean")
    assert done.returncode != 0, "it asked nobody"
    assert (stack.folder / ".env").exists()
    assert stack.container("kafka")
    stack.run("make", "clean", "YES=1")
    label = f"label=com.docker.compose.project={stack.project}"
    for kind in (["ps", "--all"], ["network", "ls"], ["volume", "ls"]):
        left = stack.docker(*kind, "--quiet", "--filter", label).split()
        assert not left, f"docker {kind[0]}: {left}"
    unnamed = [name for name in stack.docker("volume", "ls", "--quiet").split() if re.fullmatch("[0-9a-f]{64}", name)]
    assert not (stack.folder / ".env").exists()
    assert not (stack.folder / ".kwb" / "compose").exists()
    return (
        f"refused without an answer; then nothing of the project is left ({len(unnamed)} unnamed volumes on the engine)"
    )
