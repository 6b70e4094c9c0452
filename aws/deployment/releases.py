"""What was deployed when: `releases/<stack>/<UTC>/` in the artifacts bucket has the template, the parameters without
secrets, the versions of the configuration and the images' tags, so that any of them can be deployed again."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta

from deployment.errors import Refused
from deployment.templates import Bucket, Template


@dataclass(frozen=True, slots=True)
class Release:
    """`of` is the release whose content this one has: itself, or for a rollback the older one.

    `verified`: True, False, or None when nobody looked.
    """

    name: str
    stack: str
    of: str
    by: str
    parameters: dict[str, str]
    verified: bool | None = None


def record(
    bucket: Bucket, stack: str, template: Template, parameters: dict[str, str], *, by: str, of: str = ""
) -> Release:  # fmt: skip
    """Keep what is deployed now. Secret parameters are left out. No release takes the name of another."""
    taken = {release.name for release in all_of(bucket, stack)}
    at = datetime.now(UTC)
    while (name := at.strftime("%Y%m%dT%H%M%SZ")) in taken:
        at += timedelta(seconds=1)
    open_ones = {key: value for key, value in parameters.items() if key not in template.secret_parameters}
    made = Release(name, stack, of or name, by, open_ones)
    bucket.put(_key(made, "template.yaml"), template.text)
    save(bucket, made)
    return made


def save(bucket: Bucket, release: Release) -> None:
    bucket.put(_key(release, "release.json"), json.dumps(asdict(release), indent=2, sort_keys=True))


def with_verdict(release: Release, verified: bool | None) -> Release:
    return replace(release, verified=verified)


def all_of(bucket: Bucket, stack: str) -> list[Release]:
    """Oldest first."""
    keys = [key for key in bucket.list(f"releases/{stack}/") if key.endswith("/release.json")]
    return [Release(**json.loads(bucket.get(key))) for key in keys]


def choose(bucket: Bucket, stack: str, name: str) -> Release:
    """The release of that name, or the one to go back to. Raises Refused when there is none.

    Going back again goes back further: a rollback counts as the release that it restored. A release whose verification
    failed is only taken by its name.
    """
    found = all_of(bucket, stack)
    if name:
        for release in found:
            if release.name == name:
                return release
        there = ", ".join(release.name for release in found[-5:]) or "none"
        raise Refused(f"There is no release {name} of {stack}.", f"The newest: {there}.")
    if found:
        current = found[-1].of
        older = [r for r in found if r.name < current and r.of == r.name and r.verified is not False]
        if older:
            return older[-1]
    raise Refused(f"{stack} has no release before the one that runs.")


def template_of(bucket: Bucket, release: Release) -> Template:
    return Template("bridge", bucket.get(_key(release, "template.yaml")))


def _key(release: Release, file: str) -> str:
    return f"releases/{release.stack}/{release.name}/{file}"
