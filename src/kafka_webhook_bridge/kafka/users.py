"""Users for outside consumers: SCRAM-SHA-512 credentials, what they may read, and how much.

    create   quota ──▶ rights ──▶ credential: nobody can log in before everything bounds it
    delete   rights ──▶ quota ──▶ credential ──▶ groups: who is still connected reads nothing more

Kafka alone knows the users; the database knows when some of them end (store/users.py).
"""

from __future__ import annotations

import contextlib
import re
import secrets
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import confluent_kafka as ck

from kafka_webhook_bridge.errors import KafkaError, UsageError
from kafka_webhook_bridge.kafka.admin import Admin
from kafka_webhook_bridge.kafka.calls import CALL_TIMEOUT_S, Calls, ck_admin
from kafka_webhook_bridge.kafka.groups import Groups
from kafka_webhook_bridge.kafka.quotas import Quotas
from kafka_webhook_bridge.kafka.second import Second
from kafka_webhook_bridge.observability.failpoints import failpoint
from kafka_webhook_bridge.settings import KafkaSettings

ALL = "*"
_ITERATIONS = 8192
_VISIBLE_TIMEOUT_S = 10.0  # until the broker that is asked knows of a change
_NAME = re.compile(r"[a-z][a-z0-9._-]{0,62}")
_RESOURCE = re.compile(r"[A-Za-z0-9._-]{1,249}")
_INTERNAL = "__"  # Kafka's own topics: everybody's positions, open transactions
_SUPER_USERS = frozenset({"bridge", "anonymous"})  # of every broker that the bridge brings
# When Kafka 4.4.0 starts, it moves the logins of its metadata log from one java.util.HashMap into another, and drops
# that with all that come later whenever a removed login leaves it empty (ScramDelta.apply): after a restart users are
# unknown because another one was deleted. A user that nobody can log in as holds the map: its name's hashCode() is 0,
# so it comes first.
_PLACEHOLDER = "f5a5a608"
_PRINCIPAL = "User:"

_RIGHTS = "Grant the bridge's user Alter and Describe on the cluster."
_NO_USERS = "Make the user with the provider's own tools; docs/howto/outside-consumers.md says which rights it needs."
_HINTS: Mapping[int, str] = {
    ck.KafkaError.CLUSTER_AUTHORIZATION_FAILED: _RIGHTS,
    ck.KafkaError.SECURITY_DISABLED: "The cluster has no authorizer, so everybody may do everything: set one up first.",
    ck.KafkaError.UNSUPPORTED_SASL_MECHANISM: _NO_USERS,
    ck.KafkaError.UNSUPPORTED_VERSION: _NO_USERS,
    ck.KafkaError._UNSUPPORTED_FEATURE: _NO_USERS,
    ck.KafkaError.POLICY_VIOLATION: _NO_USERS,
}

_HINTS_BY_NAME: Mapping[str, str] = {
    "CLUSTER_AUTHORIZATION_FAILED": _RIGHTS,
    "SECURITY_DISABLED": _HINTS[ck.KafkaError.SECURITY_DISABLED],
    "UNSUPPORTED_VERSION": _NO_USERS,
}
_ANY = 1  # in a filter of rights
_SHARING = frozenset({"READ", "DELETE", "ALL"})  # what lets another user change a group
_NOT_FOUND = 91  # RESOURCE_NOT_FOUND


class _Rule(NamedTuple):
    """One rule, in Kafka's words: TOPIC, its name, PREFIXED, READ, ALLOW."""

    kind: str
    name: str
    pattern: str
    operation: str
    permission: str

    def of_groups(self) -> bool:
        """Whether it lets somebody change consumer groups, but not all of them."""
        return (self.kind, self.permission) == ("GROUP", "ALLOW") and self.operation in _SHARING and self.name != ALL

    def means(self, name: str) -> bool:
        """Whether it is about this resource."""
        return name.startswith(self.name) if self.pattern == "PREFIXED" else name == self.name

    def meets(self, prefix: str) -> bool:
        """Whether it is about any resource whose name begins so."""
        return self.name.startswith(prefix) or (self.pattern == "PREFIXED" and prefix.startswith(self.name))


@dataclass(frozen=True, slots=True)
class Rights:
    """What a user may read. `shop.*` is every name that begins with `shop.`, `*` every one.

    `others` are rights that `create` does not give, in words.
    """

    topics: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    others: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class User:
    """A user as the cluster shows it. `limits` as in `Quotas.all`; without a `credential` it has no password here."""

    name: str
    rights: Rights
    limits: Mapping[str, float]
    credential: bool = True


def check_name(name: str, super_users: Collection[str] = ()) -> None:
    """Raises UsageError where no outside user may have this name."""
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"{name!r} is no name for a user.",
            hint="A small letter, then small letters, digits, `.`, `_` or `-`; at most 63 characters.",
        )
    if name == _PLACEHOLDER:
        raise UsageError(f"{name} is the name of a user without rights that keeps the others at restarts of Kafka.")
    if name in _SUPER_USERS or name in {other.casefold() for other in super_users}:
        raise UsageError(f"{name} may do everything in this cluster, so it is no outside user.")


def check_topic(pattern: str) -> None:
    """Raises UsageError for what is neither a topic's name, nor the beginning of names and `*`, nor `*`."""
    beginning = pattern.removesuffix(ALL)
    if pattern != ALL and not _RESOURCE.fullmatch(beginning):
        raise UsageError(
            f"--topics {pattern!r} is not a topic.",
            hint="A name, the beginning of names and a star as in 'shop.*', or '*' for all.",
        )
    if beginning.startswith(_INTERNAL) or (
        pattern.endswith(ALL) and pattern != ALL and _INTERNAL.startswith(beginning)
    ):
        raise UsageError(f"--topics {pattern}: topics that begin with __ are Kafka's own, and not for outsiders.")


def check_group_prefix(prefix: str) -> None:
    """Raises UsageError for an empty prefix, which would be every group, and for what is not one."""
    if not _RESOURCE.fullmatch(prefix):
        raise UsageError(
            f"--group-prefix {prefix!r} is not the beginning of names of consumer groups.",
            hint="Letters, digits, `.`, `_` and `-`, most often the user's name.",
        )


def matches(patterns: Iterable[str], name: str) -> bool:
    """Whether one of the patterns of `Rights` means `name`."""
    return any(name.startswith(p[:-1]) if p.endswith(ALL) else name == p for p in patterns)


class Users(Calls):
    """Blocking calls with a time limit, safe in any thread. Raises KafkaError, and ConfigError at once."""

    def __init__(self, settings: KafkaSettings, *, timeout_s: float = CALL_TIMEOUT_S) -> None:
        super().__init__(settings, "kwb-users", timeout_s=timeout_s, hints=_HINTS)
        self._second = Second(settings, timeout_s=timeout_s, hints=_HINTS_BY_NAME)

    # ── what there is ─────────────────────────────────────────────────────────────────────────────────────────────

    def names(self) -> set[str]:
        """Users with a credential of this cluster, super users among them."""
        return set(self._credentials()) - {_PLACEHOLDER}

    def all(self) -> list[User]:
        """The same without super users and the bridge's own, and what is left of users, in order of their names.

        Of names without a credential those that `create` could have begun: Kafka may know others by other means.
        """
        known, rights, limits = self.names(), self._rights(), self._limits()
        begun = {name for name in rights.keys() | limits.keys() if _NAME.fullmatch(name)}
        begun -= {name for name in begun if name in rights and rights[name].others}
        names = (known | begun) - self.super_users()
        return [User(n, rights.get(n, Rights()), limits.get(n, {}), n in known) for n in sorted(names)]

    def find(self, name: str) -> User | None:
        """None where there is no credential, no right and no limit of that name."""
        rights, limits, known = self._rights().get(name), self._limits().get(name), name in self._credentials(name)
        if rights is None and limits is None and not known:
            return None
        return User(name, rights or Rights(), limits or {}, known)

    def super_users(self) -> set[str]:
        """Names that no outside user may have: of `super.users`, where it may be read, and the bridge's own."""
        found = {self._settings.username} if self._settings.username else set()
        for broker in Admin(self._settings, timeout_s=self._timeout_s).brokers():
            for principal in (broker.settings or {}).get("super.users", "").split(";"):
                if principal.strip().startswith(_PRINCIPAL):
                    found.add(principal.strip().removeprefix(_PRINCIPAL))
        return found

    def _credentials(self, name: str | None = None) -> dict[str, list[int]]:
        """User → numbers of the mechanisms that it has a password for; `name` alone, or everybody.

        Kafka 4.3 never answers the question for everybody when it refuses it, so a name is asked for first.
        """
        doing = "listing the users"
        for users in [[(name or self._settings.username or "bridge",)], *([None] if name is None else [])]:
            answer = self._second.ask(doing, partial(_describe_users, users))
            self._second.check(doing, [answer])
        there = [user for user in answer.results if user.error_code != _NOT_FOUND]
        self._second.check(doing, there)
        return {user.user: [info.mechanism for info in user.credential_infos] for user in there}

    def _rights(self) -> dict[str, Rights]:
        return {name: _in_words(own) for name, own in self._rules().items()}

    def _rules(self) -> dict[str, list[_Rule]]:
        doing = "reading the rights"
        answer = self._second.ask(
            doing,
            lambda m: m.DescribeAclsRequest(
                resource_type_filter=_ANY, resource_name_filter=None, pattern_type_filter=_ANY, principal_filter=None,
                host_filter=None, operation=_ANY, permission_type=_ANY,
            ),
        )  # fmt: skip
        self._second.check(doing, [answer])
        by_name: dict[str, list[_Rule]] = {}
        for resource in answer.resources:
            for rule in resource.acls:
                if rule.principal.startswith(_PRINCIPAL):
                    found = _Rule(
                        _word(ck_admin.ResourceType, resource.resource_type), resource.resource_name,
                        _word(ck_admin.ResourcePatternType, resource.pattern_type),
                        _word(ck_admin.AclOperation, rule.operation),
                        _word(ck_admin.AclPermissionType, rule.permission_type),
                    )  # fmt: skip
                    by_name.setdefault(rule.principal.removeprefix(_PRINCIPAL), []).append(found)
        return by_name

    def _limits(self) -> dict[str, dict[str, float]]:
        try:
            return Quotas(self._settings, timeout_s=self._timeout_s).all()
        except KafkaError:  # a cluster without quotas has users all the same
            return {}

    # ── making and ending ─────────────────────────────────────────────────────────────────────────────────────────

    def create(
        self,
        name: str,
        password: str,
        topics: Iterable[str],
        group_prefix: str,
        limits: Mapping[str, float],
        *,
        limits_needed: bool,
        go_on: Callable[[], None] = lambda: None,
    ) -> list[str]:
        """Make a user that there is not; what was made is undone when a later step fails. Returns warnings.

        It may read and describe `topics` (`check_topic`), in groups that begin with `group_prefix`, nothing else; no
        other user may have any of them. A cluster that takes no quotas is an error where `limits_needed`, else a
        warning. `go_on` is called between the steps; what it raises undoes them.
        """
        self._check_groups(name, group_prefix)
        quotas, warnings = Quotas(self._settings, timeout_s=self._timeout_s), []
        rules = _rules(name, topics, (f"{group_prefix}{ALL}",))
        left: list[str] = []
        try:
            with contextlib.ExitStack() as undo:
                undo.callback(self._undo, "its quota", lambda: quotas.remove(name), left)
                try:
                    quotas.put(name, limits)
                except KafkaError as error:
                    if limits_needed:
                        raise
                    undo.pop_all()
                    warnings.append(f"{name} has no quota: {error.message}")
                go_on()
                undo.callback(self._undo, "its rights", lambda: self._forbid(name), left)
                self._allow(name, rules)
                failpoint("users.allowed")
                go_on()
                undo.callback(self._undo, "its credential", lambda: self._remove_credential(name), left)
                self.put(name, password)
                self._await_known(name, _in_words(map(_as_shown, rules)))
                self._check_groups(name, group_prefix)  # of two that are made at once, at least one sees the other
                go_on()
                undo.pop_all()
        except BaseException as error:
            if not left:
                raise
            behind = f"Left behind: {', '.join(left)}; `kwb users delete {name}` ends it."
            if isinstance(error, KafkaError):
                error.hint = f"{error.hint} {behind}".strip()
                raise
            raise KafkaError(
                f"Making {name} was cut short, and Kafka failed while it was undone.", hint=behind
            ) from error
        return warnings

    def put(self, name: str, password: str) -> None:
        """Make the user, or give it this password."""
        self._hold_place()
        self._put(name, password)

    def allow_reading(self, name: str, topics: Iterable[str] = (ALL,), groups: Iterable[str] = (ALL,)) -> None:
        """Let the user read and describe `topics`, in the consumer `groups`: patterns as in `Rights`. Nothing else."""
        self._allow(name, _rules(name, topics, groups))

    def delete(self, name: str) -> list[str] | None:
        """Remove the user's rights, quota and credential, and the groups that it alone could read in.

        Returns warnings, None when there was nothing.
        """
        warnings: list[str] = []
        removed = self._forbid(name)
        found = bool(removed)
        failpoint("users.forbidden")
        try:
            found = Quotas(self._settings, timeout_s=self._timeout_s).remove(name) or found
        except KafkaError as error:
            warnings.append(f"Whether {name} had a quota is not known: {error.message}")
        found = self._remove_credential(name) or found
        if found and not self._settled(lambda: name not in self._rights() and name not in self._credentials(name)):
            warnings.append(f"Kafka still shows {name} after {_VISIBLE_TIMEOUT_S:.0f} s.")
        warnings += self._remove_groups(removed)
        return warnings if found else None

    def _allow(self, name: str, rules: Collection[Any]) -> None:
        futures = self._client.create_acls(list(rules), request_timeout=self._timeout_s)
        self._wait(f"granting rights to the user {name}", futures.values())

    def _check_groups(self, name: str, prefix: str) -> None:
        """Raises KafkaError where another user may change a group that begins so: it could move its positions.

        Who may read in every group is left out: it was meant.
        """
        for other, rules in self._rules().items():
            for rule in rules:
                if other != name and rule.of_groups() and rule.meets(prefix):
                    pattern = rule.name + (ALL if rule.pattern == "PREFIXED" else "")
                    raise KafkaError(
                        f"--group-prefix {prefix}: {other} reads in the groups {pattern}, so one of the two could move "
                        "positions of the other.",
                        hint="Choose a prefix that neither begins with another user's nor is the beginning of one; "
                        "`kwb users list` shows them.",
                    )

    def _remove_groups(self, removed: Iterable[_Rule]) -> list[str]:
        """Groups of these rules that nobody has rights on any more, so that no positions wait for a later user."""
        gone = [rule for rule in removed if rule.of_groups()]
        if not gone:
            return []
        groups = Groups(self._settings, timeout_s=self._timeout_s)
        try:
            kept = [rule for rules in self._rules().values() for rule in rules if rule.of_groups()]
            stay = groups.delete(
                group
                for group in groups.states()
                if any(rule.means(group) for rule in gone) and not any(rule.means(group) for rule in kept)
            )
        except KafkaError as error:
            return [f"Its consumer groups stay: {error.message}"]
        return [f"Its consumer group {group} stays, with its positions: {why}" for group, why in stay.items()]

    def _forbid(self, name: str) -> list[_Rule]:
        """Remove every rule that names the user, also those that were not made here; those that there were."""
        own = ck_admin.AclBindingFilter(
            ck_admin.ResourceType.ANY, None, ck_admin.ResourcePatternType.ANY, f"{_PRINCIPAL}{name}", None,
            ck_admin.AclOperation.ANY, ck_admin.AclPermissionType.ANY,
        )  # fmt: skip
        futures = self._client.delete_acls([own], request_timeout=self._timeout_s)
        found = self._wait(f"removing the rights of the user {name}", futures.values())
        return [_as_shown(rule) for rules in found for rule in rules]

    def _put(self, name: str, password: str) -> None:
        credential = ck_admin.UserScramCredentialUpsertion(
            name,
            ck_admin.ScramCredentialInfo(ck_admin.ScramMechanism.SCRAM_SHA_512, _ITERATIONS),
            password.encode(),
        )
        self._alter(f"making the user {name}", [credential])

    def _hold_place(self) -> None:
        """Before any change, so that it stands before all others; anew each time, which asks for nothing first."""
        self._put(_PLACEHOLDER, secrets.token_urlsafe(32))

    def _remove_credential(self, name: str) -> bool:
        there = self._credentials(name).get(name, [])
        if there:
            self._hold_place()
        for mechanism in there:
            ended = ck_admin.UserScramCredentialDeletion(name, ck_admin.ScramMechanism(mechanism))
            self._alter(f"removing the user {name}", [ended])
        return bool(there)

    def _alter(self, doing: str, changes: list[Any]) -> None:
        futures = self._client.alter_user_scram_credentials(changes, request_timeout=self._timeout_s)
        self._wait(doing, futures.values())

    def _await_known(self, name: str, rights: Rights) -> None:
        """A client that logs in too early is refused, and some never try again.

        A user with other rights than it was given was made twice at the same time: of two such makers at least one
        sees it, because every broker learns of all rules in one order.
        """
        if not self._settled(lambda: name in self._credentials(name) and self._rights().get(name) == rights):
            raise KafkaError(
                f"Kafka does not show the user {name} as it was made after {_VISIBLE_TIMEOUT_S:.0f} s: it is removed.",
                hint="Was it made or deleted by another command at the same time? Then try again.",
            )

    def _settled(self, shown: Callable[[], bool]) -> bool:
        """Whether the broker that is asked shows a change in time: the controller tells it a moment later."""
        deadline = time.monotonic() + _VISIBLE_TIMEOUT_S
        while not shown():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        return True

    def _undo(self, what: str, call: Callable[[], object], left: list[str]) -> None:
        try:
            call()
        except KafkaError:
            left.append(what)


def _rules(name: str, topics: Iterable[str], groups: Iterable[str]) -> list[Any]:
    """Rules to make. Who may read every topic is kept from Kafka's own: a denial wins."""
    read, describe, allow = ck_admin.AclOperation.READ, ck_admin.AclOperation.DESCRIBE, ck_admin.AclPermissionType.ALLOW
    topics = list(topics)
    wanted = [(ck_admin.ResourceType.TOPIC, pattern, operation) for pattern in topics for operation in (read, describe)]
    wanted += [(ck_admin.ResourceType.GROUP, pattern, read) for pattern in groups]
    rules = [_rule(name, kind, pattern, operation, allow) for kind, pattern, operation in wanted]
    if ALL in topics:
        own = f"{_INTERNAL}{ALL}"
        rules.append(
            _rule(name, ck_admin.ResourceType.TOPIC, own, ck_admin.AclOperation.ALL, ck_admin.AclPermissionType.DENY)
        )
    return rules


def _rule(name: str, kind: Any, pattern: str, operation: Any, permission: Any) -> Any:
    prefixed = pattern.endswith(ALL) and pattern != ALL
    how = ck_admin.ResourcePatternType.PREFIXED if prefixed else ck_admin.ResourcePatternType.LITERAL
    resource = pattern.removesuffix(ALL) if prefixed else pattern
    return ck_admin.AclBinding(kind, resource, how, f"{_PRINCIPAL}{name}", "*", operation, permission)


def _as_shown(rule: Any) -> _Rule:
    """A rule to make as it is shown when it is there."""
    return _Rule(
        rule.restype.name, rule.name, rule.resource_pattern_type.name, rule.operation.name, rule.permission_type.name
    )


def _describe_users(users: list[tuple[str]] | None, messages: Any) -> Any:
    return messages.DescribeUserScramCredentialsRequest(users=users)


def _word(kind: Any, number: int) -> str:
    """Kafka's word for a number of its protocol; the number itself where the client knows none."""
    try:
        return str(kind(number).name)
    except ValueError:
        return str(number)


def _in_words(rules: Iterable[_Rule]) -> Rights:
    topics, groups, others = set(), set(), set()
    for rule in rules:
        if rule.permission != "ALLOW":
            continue
        pattern = rule.name + (ALL if rule.pattern == "PREFIXED" else "")
        if (rule.kind, rule.operation) == ("TOPIC", "READ"):
            topics.add(pattern)
        elif (rule.kind, rule.operation) == ("GROUP", "READ"):
            groups.add(pattern)
        elif (rule.kind, rule.operation) != ("TOPIC", "DESCRIBE"):
            others.add(f"{rule.operation.lower()} on {rule.kind.lower()} {pattern}")
    return Rights(tuple(sorted(topics)), tuple(sorted(groups)), tuple(sorted(others)))
