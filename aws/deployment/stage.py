"""One stage of one account and region: its names, and the stack that it is."""

from __future__ import annotations

from dataclasses import dataclass

from deployment.account import Account
from deployment.arguments import STAGES, Options
from deployment.errors import Refused
from deployment.output import Output
from deployment.stacks import Stack


@dataclass(frozen=True, slots=True)
class Stage:
    """`name` is dev, staging or prod."""

    name: str
    domain: str
    account: Account
    out: Output

    @property
    def stack(self) -> Stack:
        return Stack(self.account, f"{self.name}-webhooks", self.out)

    @property
    def network(self) -> Stack:
        return Stack(self.account, f"{self.name}-webhooks-vpc", self.out)

    @property
    def users_prefix(self) -> str:
        """Of the names under which the admin task puts users' passwords into Secrets Manager."""
        return f"{self.name}-webhooks/users/"

    def refuse_another_domain(self, *, removed: bool = False) -> None:
        """There is one stack per stage; what is under its name may be somebody else's domain."""
        deployed = _domain(self.stack, removed=removed)
        if deployed and deployed != self.domain:
            raise Refused(
                f"{self.stack.name} in {self.account.region} is {deployed}, not {self.domain}.",
                "Another domain is another stage, account or region.",
            )


def find(options: Options, account: Account, out: Output, *, removed: bool = False) -> Stage:
    """The stage of ENVIRONMENT, else the one whose stack has this domain; said before anything is done.

    `removed`: a stack that was removed counts where there is none now: what belongs to it is still there. Raises
    Refused when there is none, or its domain is another.
    """
    name = options.environment
    if not name:
        stacks = {stage: Stack(account, f"{stage}-webhooks", out) for stage in STAGES}
        having = [stage for stage in STAGES if stacks[stage].parameters().get("DomainName") == options.domain]
        if removed and not having:
            having = [stage for stage in STAGES if _domain(stacks[stage], removed=True) == options.domain]
        if len(having) > 1:
            raise Refused(f"The domain {options.domain} is of {', '.join(having)}.", "ENVIRONMENT=… names the stage.")
        if not having:
            raise Refused(
                f"No stage in account {account.number}, {account.region} has the domain {options.domain}.",
                "ENVIRONMENT=dev, staging or prod names the stage; AWS_PROFILE and AWS_REGION the place.",
            )
        name = having[0]
    stage = Stage(name, options.domain, account, out)
    out.heading(f"account {account.number}  region {account.region}  stage {name}  domain {options.domain}")
    out.note(f"as {account.who}")
    stage.refuse_another_domain(removed=removed)
    return stage


def _domain(stack: Stack, *, removed: bool) -> str:
    """Of the stack, or where there is none of the one that was removed last; empty when neither is known."""
    found = stack.parameters()
    if removed and not found and stack.describe() is None and (before := stack.removed()):
        found = stack.parameters(before)
    return found.get("DomainName", "")
