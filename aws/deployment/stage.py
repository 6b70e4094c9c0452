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

    def refuse_another_domain(self) -> None:
        """There is one stack per stage; what is under its name may be somebody else's domain."""
        deployed = self.stack.parameters().get("DomainName", "")
        if deployed and deployed != self.domain:
            raise Refused(
                f"{self.stack.name} in {self.account.region} is {deployed}, not {self.domain}.",
                "Another domain is another stage, account or region.",
            )


def find(options: Options, account: Account, out: Output) -> Stage:
    """The stage of ENVIRONMENT, else the one whose stack has this domain; said before anything is done.

    Raises Refused when there is none, or its domain is another.
    """
    name = options.environment
    if not name:
        having = [
            stage for stage in STAGES
            if Stack(account, f"{stage}-webhooks", out).parameters().get("DomainName") == options.domain
        ]  # fmt: skip
        if not having:
            raise Refused(
                f"No stage in account {account.number}, {account.region} has the domain {options.domain}.",
                "ENVIRONMENT=dev, staging or prod names the stage; AWS_PROFILE and AWS_REGION the place.",
            )
        name = having[0]
    stage = Stage(name, options.domain, account, out)
    out.heading(f"account {account.number}  region {account.region}  stage {name}  domain {options.domain}")
    out.note(f"as {account.who}")
    stage.refuse_another_domain()
    return stage
