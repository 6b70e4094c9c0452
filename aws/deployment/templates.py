"""The templates: as files here, as objects in the artifacts bucket for CloudFormation.

They always go by address: bridge.yaml is larger than what a request may carry. The registry's own template is the one
exception, because it makes the bucket.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import botocore.exceptions
import yaml

from deployment.account import Account, code

AWS = Path(__file__).resolve().parents[1]
ROOT = AWS.parent
INLINE_BYTES_MAX = 51_200


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]  # C where it is built in
    """YAML whose tags (!Ref, !Sub …) are read as what they stand before: only the plain parts are looked at."""


def _untagged(loader: _Loader, _suffix: str, node: yaml.Node) -> Any:
    if isinstance(node, yaml.MappingNode):
        return loader.construct_mapping(node, deep=True)
    if isinstance(node, yaml.SequenceNode):
        return loader.construct_sequence(node, deep=True)
    assert isinstance(node, yaml.ScalarNode)
    return loader.construct_scalar(node)


_Loader.add_multi_constructor("!", _untagged)


@dataclass(frozen=True)
class Template:
    """One template's text and the parts of it that the scripts read."""

    name: str
    text: str

    @cached_property
    def document(self) -> dict[str, Any]:
        document = yaml.load(self.text, _Loader)  # noqa: S506  # a SafeLoader
        assert isinstance(document, dict)
        return document

    @property
    def parameters(self) -> dict[str, dict[str, Any]]:
        return self.document.get("Parameters") or {}

    @property
    def secret_parameters(self) -> frozenset[str]:
        """Those that CloudFormation shows to nobody."""
        return frozenset(name for name, row in self.parameters.items() if str(row.get("NoEcho", "")).lower() == "true")

    def mapping(self, name: str) -> dict[str, dict[str, Any]]:
        found: dict[str, dict[str, Any]] = (self.document.get("Mappings") or {}).get(name, {})
        return found


def load(name: str) -> Template:
    """Of aws/templates: `registry`, `vpc`, `bridge`."""
    return Template(name, (AWS / "templates" / f"{name}.yaml").read_text(encoding="utf-8"))


@dataclass(frozen=True, slots=True)
class Bucket:
    """The artifacts bucket: templates by content, releases by time."""

    account: Account
    name: str

    def upload(self, template: Template) -> str:
        """The address for CloudFormation. The name is the content's: an object is never overwritten by another."""
        digest = hashlib.sha256(template.text.encode()).hexdigest()[:16]
        return self.put(f"templates/{template.name}-{digest}.yaml", template.text)

    def put(self, key: str, text: str, etag: str = "") -> str:
        """Its address. With an `etag` only in the place of that content: what was written since stays."""
        self._put(key, text, {"IfMatch": etag} if etag else {})
        return f"{self.account.client('s3').meta.endpoint_url}/{self.name}/{key}"

    def make(self, key: str, text: str) -> bool:
        """Whether it was made: not when there is such an object."""
        return self._put(key, text, {"IfNoneMatch": "*"})

    def _put(self, key: str, text: str, condition: dict[str, str]) -> bool:
        try:
            self.account.client("s3").put_object(
                Bucket=self.name, Key=key, Body=text.encode(), ContentType="text/plain; charset=utf-8", **condition
            )
        except botocore.exceptions.ClientError as error:
            # The second: two at the very same time.
            if not condition or code(error) not in ("PreconditionFailed", "ConditionalRequestConflict"):
                raise
            return False
        return True

    def get(self, key: str) -> str:
        return self.tagged(key)[0]

    def tagged(self, key: str) -> tuple[str, str]:
        """An object's text, and the tag of that content."""
        found = self.account.client("s3").get_object(Bucket=self.name, Key=key)
        body: bytes = found["Body"].read()
        return body.decode(), str(found["ETag"])

    def list(self, prefix: str) -> list[str]:
        """Keys, oldest name first."""
        pages = self.account.client("s3").get_paginator("list_objects_v2").paginate(Bucket=self.name, Prefix=prefix)
        return sorted(row["Key"] for page in pages for row in page.get("Contents", []))
