"""Dockerfile, what gets into its context, and the tools around the image; the image itself is built by compose-test."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")


def stages(text: str) -> list[list[str]]:
    """Instructions of each stage, joined lines, comments gone; what stands before the first FROM is stage 0."""
    text = re.sub(r"\\\n\s*", "", re.sub(r"(?m)^\s*#.*\n", "", text))
    found: list[list[str]] = [[]]
    for line in filter(None, map(str.strip, text.splitlines())):
        if line.startswith("FROM "):
            found.append([])
        found[-1].append(line)
    return found


def problems(text: str) -> Iterator[str]:
    """What is wrong with a Dockerfile of ours."""
    before, build, bridge, *authorities, last = stages(text)
    bases = ["ARG PYTHON_IMAGE=python:3.13-slim", "ARG NODE_IMAGE=node:22-slim", 'ARG RDS_CA_URL=""']
    if [re.sub(r"@sha256:[0-9a-f]{64}$", "", line) for line in before] != bases:
        yield "its bases are others"
    yield from _problems_of_authorities(authorities, last)
    if bridge[0] != "FROM ${PYTHON_IMAGE} AS bridge":
        yield "compose.yaml's target is another stage"
    last = bridge
    if re.search(r"^FROM --platform|^#\s*syntax", text, re.MULTILINE | re.IGNORECASE):
        yield "it is bound to a platform, or needs a frontend from a registry"
    installs = re.findall(r"pip --python \S+ install .*?(?= && |$)", " && ".join(build))
    if len(installs) != 3:
        yield f"{len(installs)} installations"
    for one in installs:
        locked = "--require-hashes --only-binary :all: -r requirements/" in one
        if not locked and "--no-deps --no-index" not in one:
            yield f"not from a lock: {one}"
    runs = [line for line in last if line.startswith("RUN ")]
    if any(re.search(r"\b(apt|apt-get|pip|venv|curl|wget)\b", line) for line in runs):
        yield "something is installed in the last stage"
    if [line for line in last if line.startswith("COPY ")] != ["COPY --from=build /app /app"]:
        yield "more than the environment is copied"
    for line in (
        "USER 10001:10001", 'ENTRYPOINT ["kwb"]', "EXPOSE 8080 8081",
        "ENV PATH=/app/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1",
    ):  # fmt: skip
        if line not in last:
            yield f"without {line}"
    health = next((line for line in last if line.startswith("HEALTHCHECK")), "")
    if not health.endswith('CMD ["python", "-m", "kafka_webhook_bridge.health"]') or "start-interval" in health:
        yield "its health check needs a shell, or a newer engine"
    labels = set(re.findall(r"org\.opencontainers\.image\.(\w+)=", text))
    if labels != {"title", "description", "licenses", "version", "revision", "created", "source"}:
        yield f"labels: {labels}"
    if "mkdir -m 1777 /authority" not in " ".join(runs):
        yield "no folder for the authority's key that any user may use"


def _problems_of_authorities(found: list[list[str]], last: list[str]) -> Iterator[str]:
    """Rule 12: two places, by hash or as asked, looked at before they get in."""
    named = {re.sub(r".* AS ", "", stage[0]): stage for stage in found}
    if list(named) != ["rds", "rdsurl", "bundle", "authorities"]:
        yield f"stages of the authorities: {list(named)}"
        return
    if not any("npm ci --ignore-scripts" in line for line in named["rds"]):
        yield "the package is not held to its hash, or may run what it likes"
    if named["rdsurl"][1:] != ["ARG RDS_CA_URL", "ADD ${RDS_CA_URL} /rds/bundle.pem"]:
        yield "RDS_CA_URL is not what is taken"
    if named["bundle"] != ["FROM rds${RDS_CA_URL:+url} AS bundle"]:
        yield "RDS_CA_URL does not choose"
    if named["authorities"][-1] != "RUN python3 /rds/authorities.py /rds/bundle.pem > /rds/rds.pem":
        yield "nobody looks at them"
    if last != ["FROM bridge", "COPY --from=authorities /rds/rds.pem /app/rds.pem"]:
        yield "the last stage is not the bridge with them"


def test_the_dockerfile_keeps_its_rules() -> None:
    assert list(problems(DOCKERFILE)) == []


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("FROM ${PYTHON_IMAGE} AS build", "FROM --platform=linux/amd64 ${PYTHON_IMAGE} AS build"),
        ("# One image", "# syntax=docker/dockerfile:1\n# One image"),
        ("ARG PYTHON_IMAGE=python:3.13-slim", "ARG PYTHON_IMAGE=python:latest"),
        ("install --no-compile --require-hashes --only-binary :all:", "install --no-compile"),
        ("--no-deps --no-index", "--no-deps"),
        ("USER 10001:10001", "USER root"),
        ('ENTRYPOINT ["kwb"]', "ENTRYPOINT kwb"),
        ('CMD ["python", "-m", "kafka_webhook_bridge.health"]', "CMD python -m kafka_webhook_bridge.health"),
        ("mkdir -m 1777 /authority", "mkdir /authority"),
        ("COPY --from=build /app /app", "COPY --from=build /app /app\nCOPY . /src"),
        ("COPY --from=build /app /app", "COPY --from=build /app /app\nRUN apt-get update"),
        ("org.opencontainers.image.revision", "org.opencontainers.image.ref"),
        ("PYTHONDONTWRITEBYTECODE=1 ", ""),
        ("ARG NODE_IMAGE=node:22-slim", "ARG NODE_IMAGE=node:latest"),
        ("npm ci --ignore-scripts", "npm install"),
        ("FROM rds${RDS_CA_URL:+url}", "FROM rdsurl"),
        ("ADD ${RDS_CA_URL}", "ADD https://example.com/bundle.pem"),
        ("python3 /rds/authorities.py /rds/bundle.pem >", "cp /rds/bundle.pem"),
        ("COPY --from=authorities /rds/rds.pem", "COPY --from=bundle /rds/bundle.pem"),
        ("FROM bridge\n", "FROM ${PYTHON_IMAGE}\n"),
    ],
)
def test_each_mistake_in_it_is_seen(old: str, new: str) -> None:
    assert old in DOCKERFILE
    assert list(problems(DOCKERFILE.replace(old, new))) != []


def context() -> list[str]:
    """Files that .dockerignore lets in. It must begin with `*`, so that nothing gets in by oversight."""
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert lines[0] == "*"
    allowed = [line[1:] for line in lines if line.startswith("!")]
    assert {line for line in lines[1:] if not line.startswith("!")} == {"**/__pycache__", "**/*.egg-info"}
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    return [n for n in listed.stdout.split("\0") if n and any(n == a or n.startswith(f"{a}/") for a in allowed)]


def test_the_context_is_what_the_build_copies_and_nothing_else() -> None:
    lines = [line for stage in stages(DOCKERFILE) for line in stage if line.startswith("COPY ")]
    copied = [word for line in lines if "--from=" not in line for word in line.split()[1:-1]]
    names = context()
    for name in names:
        assert any(name == word or name.startswith(word) for word in copied), f"{name} gets in for nothing"
    for word in copied:
        assert any(name == word or name.startswith(word) for name in names), f"{word} does not get in"
    assert "requirements/dev.txt" not in names


def test_a_wheel_made_from_the_context_has_every_file_of_the_package(tmp_path: Path) -> None:
    for name in context():
        (tmp_path / "src" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / "src" / name)
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path / "dist")],
        cwd=tmp_path / "src", check=True, capture_output=True,
    )  # fmt: skip
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    inside = {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("kafka_webhook_bridge/")}
    assert inside == {name.removeprefix("src/") for name in context() if name.startswith("src/kafka_webhook_bridge/")}


def test_the_makefile_looks_for_the_pythons_that_are_tested_newest_first() -> None:
    tested = re.findall(r"Programming Language :: Python :: (3\.\d+)", (ROOT / "pyproject.toml").read_text())
    looked_for = re.search(r"^PYTHONS := (.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert looked_for
    assert looked_for[1].split() == tested[::-1]
    assert f"ARG PYTHON_IMAGE=python:{tested[-1]}-slim" in DOCKERFILE, "the image has the newest"


def test_rule_29_every_run_without_people_checks_the_wheels_for_aarch64() -> None:
    assert "make check-arm\n" in (ROOT / ".ci/run").read_text()


DOCKER = """\
#!/bin/sh
case "$1 $3" in
  "pull postgres:18.4") {pull} ;;
  pull*) ;;
  image*) for name; do :; done; echo "${{name%:*}}@sha256:{digest}"; echo "mirror.example/x@sha256:{other}" ;;
esac
"""


PINNED = {
    "compose.yaml": ["nginx:1.30.7", "apache/kafka:4.4.0", "postgres:18.4"],
    "Dockerfile": ["python:3.13-slim", "node:22-slim"],
    "aws/kafka/Dockerfile": ["apache/kafka:4.4.0"],
}


@pytest.fixture
def pin(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """`make pin-images` in a copy, with a Docker that knows one digest for everything."""
    (tmp_path / "tools").mkdir()
    (tmp_path / "aws/kafka").mkdir(parents=True)
    for name in ("tools/pin_images.py", *PINNED):
        shutil.copy(ROOT / name, tmp_path / name)

    def run(digest: str, pull: str = ":") -> subprocess.CompletedProcess[str]:
        docker = tmp_path / "docker"
        docker.write_text(DOCKER.format(digest=digest * 64, other="f" * 64, pull=pull))
        docker.chmod(0o755)
        command = [sys.executable, str(tmp_path / "tools/pin_images.py")]
        return subprocess.run(command, env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, capture_output=True, text=True)

    return run


def test_pin_images_writes_digests_that_were_looked_up_and_renews_them(
    pin: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    for digest in "ab":
        done = pin(digest)
        assert done.returncode == 0, done.stderr
        for path, names in PINNED.items():
            text = (tmp_path / path).read_text()
            assert text.count("@sha256:") == len(names)
            for name in names:
                assert f"{name}@sha256:{digest * 64}\n" in text
            plain = re.sub(r"@sha256:\w+", "", text)
            assert plain == re.sub(r"@sha256:\w+", "", (ROOT / path).read_text()), "and nothing else"
    assert list(problems((tmp_path / "Dockerfile").read_text())) == []


def test_pin_images_changes_nothing_when_one_image_cannot_be_looked_up(
    pin: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    done = pin("a", pull="echo no route to host >&2; exit 1")
    assert done.returncode == 2
    assert "no route to host" in done.stderr
    assert "nothing was changed" in done.stderr
    assert (tmp_path / "compose.yaml").read_text() == (ROOT / "compose.yaml").read_text()
    assert (tmp_path / "Dockerfile").read_text() == DOCKERFILE


def test_the_locks_of_the_image_have_a_hash_for_everything() -> None:
    for name in ("aws.txt", "build.txt"):
        text = re.sub(r"\\\n\s*", "", re.sub(r"(?m)^\s*#.*\n", "", (ROOT / "requirements" / name).read_text()))
        lines = [line for line in text.splitlines() if line.strip()]
        assert len(lines) > 20
        assert [line for line in lines if "==" not in line or "--hash=sha256:" not in line] == []


def bundle(folder: Path, *certificates: tuple[str, float, float, bool]) -> Path:
    """Certificates by organizational unit, days from now they begin and end, and whether they are authorities."""
    key, texts = ec.generate_private_key(ec.SECP256R1()), []
    now = datetime.now(UTC)
    for number, (unit, begins, ends, authority) in enumerate(certificates):
        name = x509.Name(
            [x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, unit),
             x509.NameAttribute(NameOID.COMMON_NAME, f"Root {number}")]
        )  # fmt: skip
        made = (
            x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
            .serial_number(number + 1).not_valid_before(now + timedelta(days=begins))
            .not_valid_after(now + timedelta(days=ends))
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
            .sign(key, hashes.SHA256())
        )  # fmt: skip
        texts.append(made.public_bytes(serialization.Encoding.PEM).decode())
    path = folder / "bundle.pem"
    path.write_text("# a line beside\n" + "".join(texts))
    return path


def authorities(path: Path) -> subprocess.CompletedProcess[str]:
    program = ROOT / "deploy/rds/authorities.py"
    return subprocess.run([sys.executable, "-I", str(program), str(path)], capture_output=True, text=True, check=False)


def test_rule_12_the_image_trusts_valid_authorities_of_rds_and_nothing_else(tmp_path: Path) -> None:
    good = ("Amazon RDS", -1.0, 1.0, True)
    others = [
        ("Amazon RDS", -3.0, -1.0, True), ("Amazon RDS", 1.0, 3.0, True), ("Amazon RDS", -1.0, 1.0, False),
        ("Amazon", -1.0, 1.0, True),
    ]  # fmt: skip
    path = bundle(tmp_path, good, *others)
    path.write_text(path.read_text() * 2)
    done = authorities(path)
    assert (done.returncode, done.stderr) == (0, "1 authorities of RDS, of 10 certificates\n")
    (found,) = x509.load_pem_x509_certificates(done.stdout.encode())
    assert found.serial_number == 1


@pytest.mark.parametrize(
    "certificate",
    [None, ("Amazon RDS", -3.0, -1.0, True), ("Amazon RDS", -1.0, 1.0, False), ("Amazon", -1.0, 1.0, True)],
)
def test_rule_12_without_a_valid_authority_there_is_no_image(
    tmp_path: Path, certificate: tuple[str, float, float, bool] | None
) -> None:
    done = authorities(bundle(tmp_path, *filter(None, [certificate])))
    assert done.returncode == 1
    assert done.stdout == ""
    assert "RDS_CA_URL" in done.stderr


def test_rule_12_the_bundle_is_held_to_a_hash_and_none_is_committed() -> None:
    folder = ROOT / "deploy/rds"
    lock = json.loads((folder / "package-lock.json").read_text())
    (name,) = json.loads((folder / "package.json").read_text())["dependencies"]
    found = lock["packages"][f"node_modules/{name}"]
    assert set(lock["packages"]) == {"", f"node_modules/{name}"}
    assert re.fullmatch(r"sha512-[A-Za-z0-9+/]{86}==", found["integrity"])
    assert "resolved" not in found, "from the registry that npm is set up for"
    listed = subprocess.run(["git", "grep", "-l", "-e", "-----BEGIN CERTIFICATE-----$"], cwd=ROOT, capture_output=True)
    assert listed.stdout == b""


def test_the_parts_are_listed_by_a_tool_that_the_lock_names() -> None:
    assert "cyclonedx-py environment" in DOCKERFILE
    assert re.search(r"^cyclonedx-bom==", (ROOT / "requirements/build.txt").read_text(), re.MULTILINE)
    assert "/app/sbom.cdx.json" in DOCKERFILE
