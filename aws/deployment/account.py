"""Who we are on AWS, and where. One session for a whole command."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import boto3
import botocore.exceptions
from botocore.config import Config

from deployment.errors import Refused

# A new account lacks them, and the first service of their kind then fails once.
ROLES = (
    "ecs.amazonaws.com",
    "ecs.application-autoscaling.amazonaws.com",
    "elasticfilesystem.amazonaws.com",
    "elasticloadbalancing.amazonaws.com",
    "rds.amazonaws.com",
)


@dataclass(slots=True)
class Account:
    """`number` is the account's, of twelve digits; `who` the caller's ARN."""

    number: str
    region: str
    who: str
    session: Any = field(repr=False)
    _clients: dict[str, Any] = field(default_factory=dict, repr=False)

    def client(self, service: str) -> Any:
        """Of boto3, made once."""
        if service not in self._clients:
            self._clients[service] = self.session.client(
                service, config=Config(retries={"mode": "standard", "max_attempts": 8}, connect_timeout=10)
            )
        return self._clients[service]


def connect() -> Account:
    """Raises Refused without a region or working credentials."""
    session = boto3.Session()
    if not session.region_name:
        raise Refused("No region is chosen.", "AWS_REGION=eu-central-1, or `aws configure`.")
    try:
        found = session.client("sts", config=Config(connect_timeout=10)).get_caller_identity()
    except (botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError) as error:
        raise Refused(f"AWS does not know who asks: {error}", "AWS_PROFILE, or `aws sso login`.") from None
    return Account(found["Account"], session.region_name, found["Arn"], session)


def make_missing_roles(account: Account) -> list[str]:
    """Service-linked roles that had to be made."""
    iam = account.client("iam")
    made = []
    for service in ROLES:
        if iam.list_roles(PathPrefix=f"/aws-service-role/{service}/")["Roles"]:
            continue
        try:
            iam.create_service_linked_role(AWSServiceName=service)
        except botocore.exceptions.ClientError as error:
            # It is there under a name that this caller may not list.
            if error.response["Error"]["Code"] not in ("InvalidInput", "EntityAlreadyExists"):
                raise
            continue
        made.append(service)
    return made


def code(error: botocore.exceptions.ClientError) -> str:
    """`AccessDenied`, `ResourceNotFoundException` …"""
    return str(error.response.get("Error", {}).get("Code", ""))
