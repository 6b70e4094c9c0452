"""`make env` and `make env-rotate`: the passwords of compose.yaml. Any Python from 3.9 on, nothing installed.

    make     write .env with random passwords where there is none; write the secret files of the containers from it
    rotate   new passwords for everything of ours, in force in the stack that runs

.env is the source. `.kwb/compose/secrets/*` is made from it and is what containers read; each file is written in place,
because a container that has it mounted keeps its inode. A rotation writes the new passwords to .env.new first and makes
it .env last, and each of its steps may be done twice: whenever it ends in between, it is finished by starting it again.

Of `.kwb/compose` the containers' user owns `ca` and `tls`, which the service `tls` writes, and nothing else: no link
that it could make is on the way to a file that is written here, perhaps by root.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import errno
import fcntl
import hashlib
import hmac
import ipaddress
import os
import re
import secrets
import shutil
import stat
import subprocess
import sys
import tempfile
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from urllib.parse import quote

ROOT = Path(__file__).resolve().parents[1]
CONTAINER_ID = 10001  # the image's user; takes root's place, which no container shall be
PASSWORDS = ("WEBHOOK_PASSWORD", "KAFKA_PASSWORD", "POSTGRES_PASSWORD", "DATABASE_PASSWORD", "CONSOLE_PASSWORD")
# A server holds these as well: writing them to a file alone would lock the bridge out.
HELD = ("KAFKA_PASSWORD", "POSTGRES_PASSWORD", "DATABASE_PASSWORD")
BRIDGE = ("ingest", "worker", "console")
# Who reads its secret files again when one of them has changed. PostgreSQL's own password is the super user's alone.
TOLD = {
    "WEBHOOK_PASSWORD": BRIDGE, "KAFKA_PASSWORD": BRIDGE, "DATABASE_PASSWORD": BRIDGE, "CONSOLE_PASSWORD": ("console",),
}  # fmt: skip
ROLES = {"POSTGRES_PASSWORD": "postgres", "DATABASE_PASSWORD": "kwb"}
KAFKA_PORT = 29095
TEMPLATE = """\
# Made by `make env` for compose.yaml; never to be committed. After a change: `make compose-up`, and after one of a
# password `make env-rotate`, which makes new ones where none was changed. Values with other characters go in '…'.
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
# Owner of .kwb/compose/tls and ca: the user that keeps the certificates and runs nginx.
HOST_UID=
HOST_GID=
"""
NAMES = tuple(re.findall(r"^([A-Z_]+)=", TEMPLATE, re.MULTILINE))
_LINE = re.compile(r" *(?:export +)?([A-Za-z_][A-Za-z0-9_]*) *= *(.*?) *")
_LABEL = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
_GOING_ON = "# Being put in force: "
# Files that the containers' users read, so everybody must be allowed to.
MOUNTED = ("deploy/compose", "deploy/nginx")


class Refusal(Exception):
    """What is wrong, and what to do about it."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class Interrupted(Refusal):
    """A change of passwords that ended on its way and is to be started again."""


# --- .env -------------------------------------------------------------------------------------------------------------


def read(path: Path) -> str:
    """The text of .env as it stands; "" without one. Raises Refusal."""
    try:
        return path.read_bytes().decode("utf-8")
    except FileNotFoundError:
        return ""
    except UnicodeDecodeError:
        raise Refusal(f"{path.name} is not UTF-8 text", "Save it as UTF-8.") from None


def parse(text: str) -> dict[str, str]:
    """Values as Docker Compose reads them. Raises Refusal for what it might read differently."""
    values: dict[str, str] = {}
    for number, line in enumerate(text.split("\n"), 1):
        where = f".env, line {number}"
        if not line.strip(" \t") or line.lstrip(" \t").startswith("#"):
            continue
        for sign in line:
            if unicodedata.category(sign) in ("Cc", "Cf", "Zl", "Zp"):
                how = "Save the file with Unix line ends." if sign == "\r" else "Write that line again."
                raise Refusal(f"{where}: U+{ord(sign):04X} ({_named(sign)}) may not be in .env", how)
        match = _LINE.fullmatch(line)
        if not match:
            raise Refusal(f"{where}: not of the form NAME=value")
        name, value = match[1], match[2]
        if value[:1] == "'":
            quoted = re.fullmatch(r"'([^'\\]*)'(?: +#.*)?", value)
            if not quoted:
                raise Refusal(f"{where}: the value of {name} may have neither ' nor \\ in it")
            value = quoted[1]
        elif value[:1] == "#":
            raise Refusal(
                f"{where}: is that the value of {name}, or a remark?",
                "A value goes between single quotes, a remark on a line of its own.",
            )
        else:
            value = re.sub(r" +#.*$", "", value)
            if re.search(r"[\"'$\\`\s]", value):
                raise Refusal(f"{where}: put the value of {name} between single quotes")
        values[name] = value
    return values


def _named(sign: str) -> str:
    common = {"\r": "carriage return", "\t": "tab", "\f": "form feed", "\0": "null", "\x85": "next line"}
    return common.get(sign) or unicodedata.name(sign, "a control character").lower()


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
    for name in ("WEBHOOK_USERNAME", "CONSOLE_USERNAME"):
        if not re.fullmatch(r"[A-Za-z0-9._@+-]{1,64}", values[name]):
            raise Refusal(f".env: {name} must be up to 64 ASCII letters, digits, and . _ @ + -")
    domain = values["DOMAIN_NAME"]
    if domain != domain.lower():
        raise Refusal(".env: DOMAIN_NAME must be in lower-case letters")
    if len(domain) > 240 or not re.fullmatch(rf"({_LABEL}\.)+{_LABEL}", domain) or domain.split(".")[-1].isdigit():
        raise Refusal(".env: DOMAIN_NAME must be a domain such as hooks.example.com", "Other letters as xn--… .")
    try:
        bind = values["KWB_BIND"]
        if ipaddress.ip_address(re.sub(r"^\[(.*)\]$", r"\1", bind)).version == 6 and bind[0] != "[":
            raise ValueError
    except ValueError:
        raise Refusal(".env: KWB_BIND must be an address such as 127.0.0.1 or [::1]") from None
    if values["BRIDGE_OPEN_RULE"].lower() not in ("true", "false", "yes", "no", "on", "off", "1", "0"):
        raise Refusal(".env: BRIDGE_OPEN_RULE must be true or false")
    for name, most in (("HOST_UID", 2**31 - 1), ("HOST_GID", 2**31 - 1), ("HTTPS_PORT", 65535)):
        value = values[name]
        if not value.isascii() or not value.isdigit() or len(value) > 10 or int(value) > most:
            raise Refusal(f".env: {name} must be a number up to {most}")
    if int(values["HTTPS_PORT"]) in (0, KAFKA_PORT):
        raise Refusal(f".env: HTTPS_PORT may not be {values['HTTPS_PORT']}", f"{KAFKA_PORT} is Kafka's.")


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
        line = re.compile(rf"^ *(?:export +)?{name} *=.*$", re.MULTILINE)
        if line.search(text):
            text = line.sub(lambda _, written=written: written, text)  # type: ignore[misc]
        else:
            text = f"{text}{'' if text.endswith(chr(10)) or not text else chr(10)}{written}\n"
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


def write_in_place(folder: int, name: str, text: str, *, missing_alone: bool = False) -> None:
    """New content under the same inode; 0644 inside a closed folder, because containers have users of their own."""
    data = text.encode()
    how = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        descriptor = os.open(name, how | os.O_EXCL if missing_alone else how, 0o644, dir_fd=folder)
    except FileExistsError:
        return
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
            raise OSError(errno.ELOOP, "is not a file of its own")
        os.fchmod(descriptor, 0o644)
        os.pwrite(descriptor, data, 0)  # before it is cut, so that no reader finds it empty
        os.ftruncate(descriptor, len(data))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def opened(path: Path, mode: int, above: int | None = None, owner: tuple[int, int] | None = None) -> Iterator[int]:
    """The folder, made where it is missing, with this mode, and as root with this owner; never through a link.

    Raises Refusal for one that is somebody else's: neither whose the clone is, nor `owner`, nor we.
    """
    name = path if above is None else path.name
    with contextlib.suppress(FileExistsError):
        os.mkdir(name, mode, dir_fd=above)
    try:
        descriptor = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=above)
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.ENOTDIR):
            raise
        raise Refusal(f"{path} is a link, or no folder", "Remove it, then `make env` again.") from None
    try:
        found, we = os.fstat(descriptor), os.geteuid()
        if found.st_uid not in (we, ROOT.stat().st_uid, *(owner or ())[:1]):
            raise Refusal(f"{path} belongs to user id {found.st_uid}", f"chown {we} {path}")
        if we == 0 and owner:
            os.fchown(descriptor, *owner)
        if we in (0, found.st_uid):
            os.fchmod(descriptor, mode)
        yield descriptor
    finally:
        os.close(descriptor)


def secret_files(values: Mapping[str, str]) -> dict[str, str]:
    """Name and content of every file in .kwb/compose/secrets."""
    login = f"kwb:{quote(values['DATABASE_PASSWORD'], safe='')}"
    files = {name.lower(): values[name] for name in PASSWORDS}
    return {**files, "database_url": f"postgresql://{login}@postgres:5432/kwb"}


def render(root: Path, values: Mapping[str, str], *, missing_alone: bool = False) -> None:
    """The folders and the secret files that compose.yaml mounts."""
    top = root / ".kwb"
    us, theirs = (os.geteuid(), os.getegid()), (int(values["HOST_UID"]), int(values["HOST_GID"]))
    with contextlib.ExitStack() as closing:
        # As `make up` makes it: with root's clone others may pass, to ca.pem.
        passed = closing.enter_context(opened(top, 0o711 if os.geteuid() == 0 else 0o700))
        folder = closing.enter_context(opened(top / "compose", 0o755, passed, us))
        for name, mode in (("ca", 0o755), ("tls", 0o700)):
            with opened(top / "compose" / name, mode, folder, theirs) as descriptor:
                if name == "ca":
                    _link_ca(folder, descriptor)
        kept = closing.enter_context(opened(top / "compose" / "secrets", 0o700, folder))
        for name, text in secret_files(values).items():
            try:
                write_in_place(kept, name, text, missing_alone=missing_alone)
            except OSError as error:
                if error.errno not in (errno.ELOOP, errno.ENXIO):
                    raise
                path = top / "compose" / "secrets" / name
                raise Refusal(f"{path} is a link, or no file of its own", "Remove it.") from None


def _link_ca(folder: int, ca: int) -> None:
    """`ca.pem` leads into `ca`, where the service `tls` may write; one that was put beside it moves there."""
    with contextlib.suppress(FileNotFoundError):
        if stat.S_ISREG(os.lstat("ca.pem", dir_fd=folder).st_mode):
            os.rename("ca.pem", "ca.pem", src_dir_fd=folder, dst_dir_fd=ca)
    with contextlib.suppress(FileExistsError):
        os.symlink("ca/ca.pem", "ca.pem", dir_fd=folder)


def edited(root: Path, values: Mapping[str, str]) -> list[str]:
    """Passwords that .env gives otherwise than the containers have them."""
    folder = root / ".kwb" / "compose" / "secrets"
    found = []
    for name in PASSWORDS:
        path = folder / name.lower()
        if path.is_file() and path.stat().st_size and path.read_bytes() != values[name].encode():
            found.append(name)
    return found


@contextlib.contextmanager
def alone(root: Path) -> Iterator[None]:
    """One change of this folder's stack at a time. Raises Refusal when another is at work."""
    descriptor = os.open(root, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Refusal("another `make env`, `env-rotate` or `clean` is at work here", "Wait for its end.") from None
        except OSError:
            pass  # a file system whose folders cannot be locked, such as NFS
        yield
    finally:
        os.close(descriptor)


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
    """.env where there is none, and the secret files from it. Returns its values.

    A password that was changed in .env comes into force where it stands in files alone; Raises Refusal for one that a
    server holds.
    """
    with alone(root):
        return _make(root)


def _make(root: Path) -> dict[str, str]:
    env, new = root / ".env", root / ".env.new"
    docker = Docker(root, env)
    check_readable(root)
    if new.exists():
        raise Refusal("A change of passwords was interrupted; .env.new has the new ones", "`make env-rotate` ends it.")
    text = read(env) or TEMPLATE
    given = parse(text)
    lacking = _lacking(given)
    changed = [name for name in edited(root, {**given, **lacking}) if name in given.keys() - lacking]
    held = [name for name in changed if name in HELD]
    if (held or any(name in lacking for name in HELD)) and docker.has_data(given):
        if held:
            raise Refusal(
                f".env: another {', '.join(held)} is in force", "`make env-rotate` puts what .env says in force."
            )
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
    if changed:
        _put(root, changed, text=with_values(text, lacking))
        print(f".env: {', '.join(changed)} taken over from it")
    else:
        render(root, values)
        if not lacking:
            print(".env: nothing to do")
    return values


def rotate(root: Path, only: Iterable[str] = ()) -> list[str]:
    """New passwords in force everywhere. Returns their names; raises Refusal when a step failed."""
    only = list(only)
    for name in only:
        if name not in PASSWORDS:
            raise Refusal(f"{name} is no password of .env", f"There are: {', '.join(PASSWORDS)}.")
    with alone(root):
        return _rotate(root, only)


def _rotate(root: Path, only: list[str]) -> list[str]:
    env, new = root / ".env", root / ".env.new"
    if new.exists():
        print("Going on with the passwords of .env.new")
        return _put(root, _going_on(read(new)))
    check_readable(root)
    had_env = env.exists()
    text = read(env) if had_env else with_values(TEMPLATE, defaults())
    before = parse(text)
    by_hand = [name for name in edited(root, {**dict.fromkeys(PASSWORDS, ""), **before}) if before.get(name)]
    if not had_env:
        kept = {name: value for name, value in before.items() if name not in PASSWORDS}
        print(f".env was not here. These are the defaults again, so look at them before `make compose-up`: "
              f"{', '.join(f'{name}={value}' for name, value in kept.items())}")  # fmt: skip
        names, by_hand = list(PASSWORDS), []
    elif by_hand or only:
        names = [name for name in PASSWORDS if name in by_hand or name in only or not before.get(name)]
    else:
        names = list(PASSWORDS)
    if by_hand:
        print(f"As .env has them: {', '.join(by_hand)}")
    lacking = _lacking(before)
    check({**before, **lacking})
    fresh = {name: value for name, value in defaults().items() if name in names and name not in by_hand}
    return _put(root, names, text=with_values(text, {**lacking, **fresh}))


def _lacking(given: Mapping[str, str]) -> dict[str, str]:
    """What .env does not say yet."""
    return {name: value for name, value in {**parse(TEMPLATE), **defaults()}.items() if not given.get(name)}


def _going_on(text: str) -> list[str]:
    """Names of the passwords that an interrupted change is about."""
    first = text.partition("\n")[0]
    names = first[len(_GOING_ON) :].split() if first.startswith(_GOING_ON) else PASSWORDS
    return [name for name in PASSWORDS if name in names]


def _put(root: Path, names: list[str], text: str = "") -> list[str]:
    """Puts the passwords of .env.new in force, which becomes `text` first; and then .env. Returns their names."""
    new = root / ".env.new"
    docker = Docker(root, new)
    values = parse(text or read(new))
    check(values)
    has_data = docker.has_data(values)  # nothing is changed while Docker does not answer
    if text:
        write_private(new, f"{_GOING_ON}{' '.join(names)}\n{text}")
    try:
        _put_in_force(docker, root, values, names, has_data)
        base = read(root / ".env") or read(new).partition("\n")[2]
        kept = {name: values[name] for name in (*PASSWORDS, "HOST_UID", "HOST_GID")}
        write_private(root / ".env", with_values(base, kept))
    except (Refusal, OSError) as error:
        hint = getattr(error, "hint", "")
        hint += f"{hint and ' '}Nothing is lost: .env.new has the new passwords; `make env-rotate` goes on from here."
        raise Interrupted(str(error), hint) from error
    new.unlink()
    return names


def _put_in_force(docker: Docker, root: Path, values: Mapping[str, str], names: list[str], has_data: bool) -> None:
    """What runs is disturbed no more than these names need."""
    render(root, values, missing_alone=True)
    running = docker.running() if docker.installed else set()
    roles = [name for name in ROLES if name in names]
    started = bool(roles) and has_data and "postgres" not in running
    if started:
        docker.compose("up", "--detach", "--wait", "--no-deps", "postgres")
    if roles and (has_data or "postgres" in running):
        docker.compose(
            "exec", "--no-TTY", "postgres", "psql", "--no-psqlrc", "--quiet", "--set", "ON_ERROR_STOP=1",
            "--username", "postgres", "--dbname", "postgres", stdin=alter(values, roles),
        )  # fmt: skip
    render(root, values)
    told = [service for service in BRIDGE if service in running and any(service in TOLD.get(n, ()) for n in names)]
    if told:
        docker.compose("kill", "--signal", "HUP", *told)
    if "KAFKA_PASSWORD" in names and "kafka" in running:
        docker.compose("restart", "kafka")  # its partners' users are in its log and stay; events wait in the outbox
        docker.compose("up", "--detach", "--wait", "--no-deps", "--no-recreate", "kafka")
    if started:
        docker.compose("stop", "postgres")


def alter(values: Mapping[str, str], names: Iterable[str]) -> str:
    """SQL for the local socket, all of these passwords or none."""
    lines = [f"ALTER ROLE {ROLES[name]} PASSWORD '{scram_verifier(values[name])}';" for name in names]
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
        return 1 if isinstance(error, Interrupted) else 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
