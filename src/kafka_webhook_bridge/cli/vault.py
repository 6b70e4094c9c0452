"""AWS Secrets Manager for new passwords: where a task's output is a log, no password may be shown in it.

    offer the new password ──▶ Kafka takes it ──▶ it is the secret's current version
          (a new secret, or the version AWSPENDING of one that is there)

So a password that is not in force never replaces one that is, and one that is in force is never lost. boto3 comes with
the extra `aws` and is used in this file alone.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from kafka_webhook_bridge.errors import ConfigError, KwbError, Problem

if TYPE_CHECKING:
    from kafka_webhook_bridge.cli.snippets import Access
    from kafka_webhook_bridge.settings import Settings

_CONNECT_S, _READ_S, _ATTEMPTS = 5, 10, 3
_PENDING, _CURRENT = "AWSPENDING", "AWSCURRENT"
_RIGHTS = "The task's role needs {action} on secrets of that name."


class Vault:
    """Secrets whose names begin with KWB_USERS_SECRET_PREFIX. Raises ConfigError without boto3 or region; KwbError."""

    def __init__(self, settings: Settings) -> None:
        if importlib.util.find_spec("boto3") is None:
            what = "needs the extra `aws`: pip install 'kafka-webhook-bridge[aws]'"
            raise ConfigError([Problem("KWB_USERS_SECRET_PREFIX", what)])
        import boto3
        from botocore.config import Config
        from botocore.exceptions import NoRegionError

        self._prefix = settings.users.secret_prefix
        config = Config(connect_timeout=_CONNECT_S, read_timeout=_READ_S, retries={"total_max_attempts": _ATTEMPTS})
        try:
            self._client: Any = boto3.client(
                "secretsmanager", region_name=settings.kafka.aws_region or None, config=config
            )
        except NoRegionError:
            raise ConfigError([Problem("AWS_REGION", "is not set, but KWB_USERS_SECRET_PREFIX is")]) from None

    @contextlib.contextmanager
    def kept(self, access: Access) -> Iterator[str]:
        """The name of the user's secret while its password comes into force; a new one is gone when it does not."""
        name = self._prefix + access.name
        text = _text(access)
        made = self._offer(name, access.name, text)
        try:
            yield name
        except BaseException:
            if made:
                with contextlib.suppress(KwbError):
                    self.forget(access.name)
            raise
        if not made:
            try:
                self._call("put_secret_value", name, SecretString=text, VersionStages=[_CURRENT])
            except KwbError as error:
                hint = f"The password in force is the secret's version {_PENDING}; `kwb users rotate` makes another."
                raise KwbError(error.message, hint=hint) from error

    def forget(self, user: str) -> bool:
        """Remove the secret of a user, at once; whether there was one."""
        try:
            self._call("delete_secret", self._prefix + user, ForceDeleteWithoutRecovery=True)
        except _Missing:
            return False
        return True

    def _offer(self, name: str, user: str, text: str) -> bool:
        """Whether a secret was made; otherwise one was there and has the text as its next version."""
        description = f"Login of the outside Kafka user {user}, made by kwb users"
        try:
            self._call("create_secret", name, SecretString=text, Description=description)
            return True
        except _Deleted:  # within the days in which it can be had back, which hold the name
            self._call("restore_secret", name)
        except _Exists:
            pass
        self._call("put_secret_value", name, SecretString=text, VersionStages=[_PENDING])
        return False

    def _call(self, action: str, name: str, **arguments: Any) -> None:
        from botocore.exceptions import BotoCoreError, ClientError

        which = {"Name" if action == "create_secret" else "SecretId": name}
        try:
            getattr(self._client, action)(**which, **arguments)
        except ClientError as error:
            code, said = error.response["Error"].get("Code", ""), error.response["Error"].get("Message", "")
            message = f"Secrets Manager failed with {name}: {code}: {said}"
            if code == "ResourceExistsException":
                raise _Exists(message) from error
            if code == "ResourceNotFoundException":
                raise _Missing(message) from error
            if code == "InvalidRequestException" and "deletion" in said:
                raise _Deleted(message) from error
            words = "".join(part.capitalize() for part in action.split("_"))
            hint = _RIGHTS.format(action=f"secretsmanager:{words}") if code == "AccessDeniedException" else ""
            raise KwbError(message, hint=hint) from error
        except BotoCoreError as error:
            hint = "Is its endpoint reached from here, and does this process have credentials of AWS?"
            raise KwbError(f"Secrets Manager failed with {name}: {error}", hint=hint) from error


class _Exists(KwbError):
    pass


class _Missing(KwbError):
    pass


class _Deleted(KwbError):
    pass


def _text(access: Access) -> str:
    """What a client needs, so that the secret is enough for whoever reads."""
    return json.dumps(
        {
            "username": access.name,
            "password": access.password,
            "bootstrap_servers": access.servers,
            "security_protocol": access.protocol,
            "sasl_mechanism": "SCRAM-SHA-512",
        }
    )
