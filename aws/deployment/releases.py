"""What was deployed when: `releases/<stack>/<UTC>/` in the artifacts bucket has the template, the parameters without
secrets, the versions of the configuration and the images' tags, so that any of them can be deployed again.

A release is written before CloudFormation begins, and its name marks the events of that operation; it is done when it
was verified, too. So a command that does not live to see the end (Ctrl-C, a lost connection) loses nothing: the next
one asks CloudFormation what became of it. Names are times of the machine that deploys, but never before the newest one:
clocks that differ change no order.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime, timedelta

from deployment.errors import Refused
from deployment.stacks import Stack
from deployment.templates import Bucket, Template

STARTED, DONE, TAKEN_BACK = "started", "done", "taken back"
_NAME = "%Y%m%dT%H%M%SZ"


@dataclass(frozen=True, slots=True)
class Release:
    """`of` is the release whose content this one has: itself, or for a rollback the older one.

    `state`: started, done, or taken back (by AWS, or never carried out). `verified`: True, False, or None when nobody
    looked; the newest look counts.
    """

    name: str
    stack: str
    of: str
    by: str
    parameters: dict[str, str]
    verified: bool | None = None
    state: str = DONE

    @property
    def token(self) -> str:
        """Marks the events of CloudFormation's operation."""
        return f"kwb-{self.name}"


def begin(
    bucket: Bucket, stack: str, template: Template, parameters: dict[str, str], *, by: str, of: str = ""
) -> Release:  # fmt: skip
    """Write down what is about to be deployed. Secret parameters are left out. No release takes another's name."""
    at = datetime.now(UTC)
    if there := _names(bucket, stack):
        at = max(at, datetime.strptime(there[-1], _NAME).replace(tzinfo=UTC) + timedelta(seconds=1))
    while True:
        name = at.strftime(_NAME)
        made = Release(name, stack, of or name, by, without_secrets(template, parameters), state=STARTED)
        if bucket.make(_key(made, "release.json"), _text(made)):
            break
        at += timedelta(seconds=1)  # somebody else has begun in this very second
    bucket.put(_key(made, "template.yaml"), template.text)
    return made


def without_secrets(template: Template, parameters: dict[str, str]) -> dict[str, str]:
    return {key: value for key, value in parameters.items() if key not in template.secret_parameters}


def finish(bucket: Bucket, release: Release, verified: bool | None) -> Release:
    """It is deployed, and was looked at. Where nobody looked from outside, the verdict before stays."""
    found = replace(release, state=DONE, verified=release.verified if verified is None else verified)
    bucket.put(_key(found, "release.json"), _text(found))
    return found


def taken_back(bucket: Bucket, release: Release) -> None:
    bucket.put(_key(release, "release.json"), _text(replace(release, state=TAKEN_BACK)))


@dataclass(frozen=True, slots=True)
class History:
    """Releases that were deployed, oldest first; the last one is `unfinished` when its own command did not see it
    through to the end of its verification."""

    deployed: list[Release]
    unfinished: Release | None


def history(bucket: Bucket, stack: Stack) -> History:
    """With what CloudFormation says of releases whose command did not see the end. The stack is at rest.

    That is kept, but for the newest: it stays unfinished until somebody has verified it. What another command writes
    meanwhile stays.
    """
    found: list[Release] = []
    unfinished = None
    for name in reversed(_names(bucket, stack.name)):
        text, etag = bucket.tagged(f"releases/{stack.name}/{name}/release.json")
        release = _read(text)
        if release.state == STARTED:
            status = stack.outcome(release.token)
            carried_out = status.endswith("_COMPLETE") and "ROLLBACK" not in status
            release = replace(release, state=DONE if carried_out else TAKEN_BACK)
            if carried_out and not found:
                unfinished = release
            else:
                bucket.put(_key(release, "release.json"), _text(release), etag)
        if release.state == DONE:
            found.insert(0, release)
    return History(found, unfinished)


def choose(found: Sequence[Release], stack: str, name: str) -> Release:
    """Of all releases the one of that name, or the one to go back to. Raises Refused when there is none.

    Going back again goes back further: a rollback counts as the release that it restored. A release whose verification
    failed is only taken by its name.
    """
    if name:
        for release in found:
            if release.name == name:
                return release
        raise Refused(f"There is no release {name} of {stack}.", f"The newest: {newest(found)}.")
    if found:
        current = found[-1].of
        older = [r for r in found if r.name < current and r.of == r.name and r.verified is not False]
        if older:
            return older[-1]
    raise Refused(f"{stack} has no release before the one that runs.")


def newest(found: Sequence[Release]) -> str:
    """Names of the last few, for people."""
    return ", ".join(release.name for release in found[-5:]) or "none"


def template_of(bucket: Bucket, release: Release) -> Template:
    return Template("bridge", bucket.get(_key(release, "template.yaml")))


def _names(bucket: Bucket, stack: str) -> list[str]:
    """Oldest first."""
    keys = bucket.list(f"releases/{stack}/")
    return [key.split("/")[2] for key in keys if key.endswith("/release.json")]


def _key(release: Release, file: str) -> str:
    return f"releases/{release.stack}/{release.name}/{file}"


def _text(release: Release) -> str:
    return json.dumps(asdict(release), indent=2, sort_keys=True)


def _read(text: str) -> Release:
    """Of another version, too: what this one does not know is left out."""
    known = {field.name for field in fields(Release)}
    return Release(**{key: value for key, value in json.loads(text).items() if key in known})
