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

import yaml

from deployment.account import Account

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

    def put(self, key: str, text: str) -> str:
        client = self.account.client("s3")
        client.put_object(Bucket=self.name, Key=key, Body=text.encode(), ContentType="text/plain; charset=utf-8")
        return f"{client.meta.endpoint_url}/{self.name}/{key}"

    def get(self, key: str) -> str:
        body: bytes = self.account.client("s3").get_object(Bucket=self.name, Key=key)["Body"].read()
        return body.decode()

    def list(self, prefix: str) -> list[str]:
        """Keys, oldest name first."""
        pages = self.account.client("s3").get_paginator("list_objects_v2").paginate(Bucket=self.name, Prefix=prefix)
        return sorted(row["Key"] for page in pages for row in page.get("Contents", []))
