"""`make env` and `make env-rotate`: the passwords of compose.yaml. Any Python from 3.9 on, nothing installed.

    make     write .env with random passwords where there is none; write the secret files of the containers from it
    rotate   new passwords for everything of ours, in force in the stack that runs

.env is the source. `.kwb/compose/secrets/*` is made from it and is what containers read; each file is written in place,
because a container that has it mounted keeps its inode. A rotation writes the new passwords to .env.new first and makes
it .env last, and each of its steps may be done twice: whenever it ends in between, it is finished by starting it again.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import hashlib
import hmac
import os
import re
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from urllib.parse import quote

ROOT = Path(__file__).resolve().parents[1]
CONTAINER_ID = 10001  # the image's user; takes root's place, which no container shall be
PASSWORDS = ("WEBHOOK_PASSWORD", "KAFKA_PASSWORD", "POSTGRES_PASSWORD", "DATABASE_PASSWORD", "CONSOLE_PASSWORD")
# A server holds these as well: writing them to a file alone would lock the bridge out.
HELD = ("KAFKA_PASSWORD", "POSTGRES_PASSWORD", "DATABASE_PASSWORD")
TEMPLATE = """\
# Made by `make env` for compose.yaml; never to be committed. After a change: `make compose-up`. To change passwords,
# write your own here or nothing, and run `make env-rotate`. Values with other characters than these go in '…'.
DOMAIN_NAME=localtest.me
# Address on which 443 and 29095 are open. 0.0.0.0: every network that this machine is in.
KWB_BIND=127.0.0.1
HTTPS_PORT=443
# true: any source name is accepted with the credentials below; false: those of deploy/compose/bridge/bridge.yaml alone.
BRIDGE_OPEN_RULE=true
WEBHOOK_USERNAME=webhook
WEBHOOK_PASSWORD=
CONSOLE_USERNAME=console
CONSOLE_PASSWORD=
KAFKA_PASSWORD=
POSTGRES_PASSWORD=
DATABASE_PASSWORD=
# Owner of .kwb/compose/tls: the user that keeps the certificates and runs nginx.
HOST_UID=
HOST_GID=
"""
NAMES = tuple(re.findall(r"^([A-Z_]+)=", TEMPLATE, re.MULTILINE))
_LINE = re.compile(r"\s*(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)\s*=\s*(.*?)\s*")
# Files that the containers' users read, so everybody must be allowed to.
MOUNTED = ("deploy/compose", "deploy/nginx")


class Refusal(Exception):
    """What is wrong, and what to do about it."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


# --- .env -------------------------------------------------------------------------------------------------------------


def parse(text: str) -> dict[str, str]:
    """Values as Docker Compose reads them. Raises Refusal for what it might read differently."""
    values: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        match = _LINE.fullmatch(line)
        if not match:
            raise Refusal(f".env, line {number}: not of the form NAME=value")
        name, value = match[1], match[2]
        if value[:1] == "'":
            quoted = re.fullmatch(r"'([^'\\]*)'(?:\s+#.*)?", value)
            if not quoted:
                raise Refusal(f".env, line {number}: the value of {name} may have neither ' nor \\ in it")
            value = quoted[1]
        else:
            value = re.sub(r"(^|\s+)#.*$", "", value)
            if re.search(r"[\"'$\\`\s]", value):
                raise Refusal(f".env, line {number}: put the value of {name} between single quotes")
        values[name] = value
    return values


def check(values: Mapping[str, str]) -> None:
    """Raises Refusal for values that no container could use."""
    for name in NAMES:
        if not values.get(name):
            raise Refusal(f".env: {name} is empty", "Give it a value, or remove the line and run `make env`.")
    for name in PASSWORDS:
        if not re.fullmatch(r"[!-&(-\[\]-~]{8,256}", values[name]):
            raise Refusal(f".env: {name} must be 8 to 256 printable ASCII characters, without space, ' and \\")
    if '"' in values["KAFKA_PASSWORD"]:
        raise Refusal('.env: KAFKA_PASSWORD may not contain "')
    if not re.fullmatch(r"[a-z0-9-]+(\.[a-z0-9-]+)*", values["DOMAIN_NAME"]):
        raise Refusal(".env: DOMAIN_NAME must be a domain in lower-case letters")
    for name in ("HOST_UID", "HOST_GID", "HTTPS_PORT"):
        if not values[name].isascii() or not values[name].isdigit():
            raise Refusal(f".env: {name} must be a number")


def defaults() -> dict[str, str]:
    """What a new .env says beside the template's own values."""
    root = os.geteuid() == 0
    return {
        **{name: secrets.token_urlsafe(24) for name in PASSWORDS},
        "HOST_UID": str(CONTAINER_ID if root else os.getuid()),
        "HOST_GID": str(CONTAINER_ID if root else os.getgid()),
    }


def with_values(text: str, values: Mapping[str, str]) -> str:
    """The same text with these values; a name that it lacks is put at its end."""
    for name, value in values.items():
        written = f"{name}={value}" if re.fullmatch(r"[\w.:/@%+,-]*", value) else f"{name}='{value}'"
        line = re.compile(rf"^\s*(?:export\s+)?{name}\s*=.*$", re.MULTILINE)
        if line.search(text):
            text = line.sub(lambda _, written=written: written, text)  # type: ignore[misc]
        else:
            text = f"{text.rstrip()}\n{written}\n".lstrip("\n")
    return text


# --- files ------------------------------------------------------------------------------------------------------------


def write_private(path: Path, text: str) -> None:
    """Whole or not at all, on the disk, and readable by the owner alone from its first byte on."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f"{path.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(name).unlink()
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def write_in_place(path: Path, text: str) -> None:
    """New content under the same inode; 0644 inside a closed folder, because containers have users of their own."""
    data = text.encode()
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
    try:
        os.fchmod(descriptor, 0o644)
        os.pwrite(descriptor, data, 0)  # before it is cut, so that no reader finds it empty
        os.ftruncate(descriptor, len(data))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def secret_files(values: Mapping[str, str]) -> dict[str, str]:
    """Name and content of every file in .kwb/compose/secrets."""
    login = f"kwb:{quote(values['DATABASE_PASSWORD'], safe='')}"
    files = {name.lower(): values[name] for name in PASSWORDS}
    return {**files, "database_url": f"postgresql://{login}@postgres:5432/kwb"}


def render(root: Path, values: Mapping[str, str], *, missing_alone: bool = False) -> None:
    """The folders and the secret files that compose.yaml mounts."""
    folder = root / ".kwb" / "compose"
    for part in (folder.parent, folder, folder / "tls", folder / "secrets"):
        if not part.is_dir():
            part.mkdir(mode=0o700)
    for part in (folder, folder / "tls", folder / "secrets"):
        part.chmod(0o700)
    if os.geteuid() == 0:
        for part in (folder, folder / "tls"):
            os.chown(part, int(values["HOST_UID"]), int(values["HOST_GID"]))
    for name, text in secret_files(values).items():
        if not (missing_alone and (folder / "secrets" / name).exists()):
            write_in_place(folder / "secrets" / name, text)


def edited(root: Path, values: Mapping[str, str]) -> list[str]:
    """Passwords that .env gives otherwise than the containers have them."""
    folder = root / ".kwb" / "compose" / "secrets"
    found = []
    for name in PASSWORDS:
        path = folder / name.lower()
        if path.is_file() and path.stat().st_size and path.read_text(encoding="utf-8") != values[name]:
            found.append(name)
    return found


def check_readable(root: Path) -> None:
    """Raises Refusal when a strict umask has closed what containers mount."""
    for top in MOUNTED:
        for path in (root / top, *(root / top).rglob("*")):
            if "secrets" in path.relative_to(root).parts:
                continue  # the user's own, for the bridge alone
            needed = 0o005 if path.is_dir() else 0o004
            if path.stat().st_mode & needed != needed:
                raise Refusal(f"{path.relative_to(root)} cannot be read by containers", f"chmod -R a+rX {top}")


# --- Docker -----------------------------------------------------------------------------------------------------------


class Docker:
    """The stack of this folder. Every method raises Refusal when Docker does not do as asked."""

    def __init__(self, root: Path, env_file: Path) -> None:
        self._root = root
        self._env_file = env_file

    @property
    def installed(self) -> bool:
        return shutil.which("docker") is not None

    def run(self, *arguments: str, stdin: str = "") -> str:
        try:
            done = subprocess.run(
                ["docker", *arguments], cwd=self._root, input=stdin, capture_output=True, text=True, check=False
            )
        except OSError as error:
            raise Refusal(
                f"docker cannot be started: {error.strerror}", "Install Docker Engine 20.10 or newer."
            ) from None
        if done.returncode:
            said = (done.stderr.strip() or done.stdout.strip()).splitlines()
            shown = next((a for a in arguments if not a.startswith("-") and a != str(self._env_file)), "")
            raise Refusal(f"docker {shown}: {said[-1] if said else f'exit {done.returncode}'}")
        return done.stdout

    def compose(self, *arguments: str, stdin: str = "") -> str:
        return self.run("compose", "--env-file", str(self._env_file), *arguments, stdin=stdin)

    def project(self, values: Mapping[str, str]) -> str:
        return os.environ.get("COMPOSE_PROJECT_NAME") or values.get("COMPOSE_PROJECT_NAME") or "kwb"

    def has_data(self, values: Mapping[str, str]) -> bool:
        """Whether PostgreSQL has data, which know their passwords. Without Docker on this machine there is none."""
        return f"{self.project(values)}_postgres" in self.volumes()

    def volumes(self) -> list[str]:
        """Names of all that there are; none where Docker is not installed."""
        return self.run("volume", "ls", "--format", "{{.Name}}").split() if self.installed else []

    def running(self) -> set[str]:
        """Services that run."""
        return set(self.compose("ps", "--services", "--status", "running").split())


def scram_verifier(password: str, salt: bytes | None = None, iterations: int = 4096) -> str:
    """What PostgreSQL keeps of a password (RFC 5803), so that the password itself is never sent, and in no log."""
    salt = salt or secrets.token_bytes(16)
    salted = hashlib.pbkdf2_hmac("sha256", password.encode("ascii"), salt, iterations)
    stored = hashlib.sha256(hmac.new(salted, b"Client Key", "sha256").digest()).digest()
    server = hmac.new(salted, b"Server Key", "sha256").digest()
    b64 = [base64.b64encode(part).decode() for part in (salt, stored, server)]
    return f"SCRAM-SHA-256${iterations}:{b64[0]}${b64[1]}:{b64[2]}"


# --- the two commands -------------------------------------------------------------------------------------------------


def make(root: Path) -> dict[str, str]:
    """.env where there is none, and the secret files from it. Returns its values."""
    env, new = root / ".env", root / ".env.new"
    docker = Docker(root, env)
    check_readable(root)
    if new.exists():
        raise Refusal("A change of passwords was interrupted; .env.new has the new ones", "`make env-rotate` ends it.")
    text = env.read_text(encoding="utf-8") if env.exists() else TEMPLATE
    given = parse(text)
    lacking = {name: value for name, value in {**parse(TEMPLATE), **defaults()}.items() if not given.get(name)}
    changed = [name for name in edited(root, {**given, **lacking}) if name in HELD and name in given.keys() - lacking]
    if (changed or any(name in lacking for name in HELD)) and docker.has_data(given):
        if changed:
            names = ", ".join(changed)
            raise Refusal(f".env: another {names} is in force", "`make env-rotate` puts what .env says in force.")
        raise Refusal(
            f".env {'has no password for' if env.exists() else 'is not here, but there are'} data of an earlier stack",
            "Put your .env back; or `make env-rotate` makes new passwords for the data; or `make clean` removes them.",
        )
    values = {**given, **lacking}
    check(values)
    if lacking:
        what = f"added {', '.join(lacking)}" if env.exists() else "made, with passwords of its own"
        write_private(env, with_values(text, lacking))
        print(f".env: {what}")
    env.chmod(0o600)
    render(root, values)
    return values


def rotate(root: Path, only: Iterable[str] = ()) -> list[str]:
    """New passwords in force everywhere. Returns their names; raises Refusal when a step failed."""
    env, new = root / ".env", root / ".env.new"
    docker = Docker(root, new)
    text = env.read_text(encoding="utf-8") if env.exists() else with_values(TEMPLATE, defaults())
    before = parse(text)
    if new.exists():
        print("Going on with the passwords of .env.new")
        has_data = docker.has_data(before)
    else:
        check_readable(root)
        has_data = docker.has_data(before)  # nothing is changed while Docker does not answer
        fresh = _fresh(root, env.exists(), before, list(only))
        wanted = {**{k: v for k, v in {**parse(TEMPLATE), **defaults()}.items() if not before.get(k)}, **fresh}
        check({**before, **wanted})
        write_private(new, with_values(text, wanted))
    values = parse(new.read_text(encoding="utf-8"))
    check(values)
    changed = [name for name in PASSWORDS if values[name] != before.get(name) or name in edited(root, values)]
    render(root, values, missing_alone=True)
    running = docker.running() if docker.installed else set()
    started = has_data and "postgres" not in running
    if started:
        docker.compose("up", "--detach", "--wait", "--no-deps", "postgres")
    if has_data or "postgres" in running:
        docker.compose(
            "exec", "--no-TTY", "postgres", "psql", "--no-psqlrc", "--quiet", "--set", "ON_ERROR_STOP=1",
            "--username", "postgres", "--dbname", "postgres", stdin=alter(values),
        )  # fmt: skip
    render(root, values)
    told = [name for name in ("ingest", "worker", "console") if name in running]
    if told:
        docker.compose("kill", "--signal", "HUP", *told)
    if "kafka" in running:
        docker.compose("restart", "kafka")  # its partners' users are in its log and stay; events wait in the outbox
        docker.compose("up", "--detach", "--wait", "--no-deps", "--no-recreate", "kafka")
    if started:
        docker.compose("stop", "postgres")
    base = env.read_text(encoding="utf-8") if env.exists() else new.read_text(encoding="utf-8")
    write_private(env, with_values(base, {name: values[name] for name in (*PASSWORDS, "HOST_UID", "HOST_GID")}))
    new.unlink()
    return changed


def _fresh(root: Path, had_env: bool, before: Mapping[str, str], only: list[str]) -> dict[str, str]:
    """What the operator wrote into .env, else random ones."""
    for name in only:
        if name not in PASSWORDS:
            raise Refusal(f"{name} is no password of .env", f"There are: {', '.join(PASSWORDS)}.")
    by_hand = [name for name in edited(root, {**dict.fromkeys(PASSWORDS, ""), **before}) if before.get(name)]
    if had_env and by_hand and not only:
        print(f"As .env has them: {', '.join(by_hand)}")
        return {name: before[name] for name in by_hand}
    return {name: value for name, value in defaults().items() if name in (only or PASSWORDS)}


def alter(values: Mapping[str, str]) -> str:
    """SQL for the local socket, both roles or neither."""
    roles = {"postgres": "POSTGRES_PASSWORD", "kwb": "DATABASE_PASSWORD"}
    lines = [f"ALTER ROLE {role} PASSWORD '{scram_verifier(values[name])}';" for role, name in roles.items()]
    return "\n".join(["BEGIN;", *lines, "COMMIT;", ""])


def main() -> int:
    """0, or 2 after a refusal and 1 when a rotation has to be started again."""
    parser = argparse.ArgumentParser(description="The passwords of compose.yaml.")
    parser.add_argument("command", choices=("make", "rotate"))
    parser.add_argument("--only", nargs="*", default=[], metavar="NAME", help="rotate these passwords alone")
    given = parser.parse_args()
    try:
        if given.command == "make":
            make(ROOT)
        else:
            changed = rotate(ROOT, given.only)
            print(f"In force and in .env: {', '.join(changed) or 'nothing new'}")
            if "WEBHOOK_PASSWORD" in changed:
                print("Tell your senders: WEBHOOK_PASSWORD is another one, and they read 401 until they have it.")
    except (Refusal, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        if hint := getattr(error, "hint", ""):
            print(f"hint: {hint}", file=sys.stderr)
        if given.command == "rotate" and (ROOT / ".env.new").exists():
            print("hint: nothing is lost: .env has the old passwords, .env.new the new ones;"
                  " `make env-rotate` goes on from here.", file=sys.stderr)  # fmt: skip
            return 1
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
