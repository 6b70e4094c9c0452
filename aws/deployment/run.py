"""`./aws/run.sh <subdomain> -- kwb …`: the command where the bridge runs; its exit status is this one's."""

from __future__ import annotations

from deployment.account import Account
from deployment.arguments import Options
from deployment.errors import Refused
from deployment.output import Output
from deployment.stage import find
from deployment.tasks import Admin


def run(options: Options, account: Account, out: Output) -> int:
    """Raises Stop when it could not be run at all."""
    stage = find(options, account, out)
    if not stage.stack.exists():
        raise Refused(f"{stage.stack.name} is {stage.stack.status()}.", "./aws/deploy.sh makes it.")
    outputs = stage.stack.outputs()
    if "AdminTaskDefinition" not in outputs:
        raise Refused(f"{stage.stack.name} has no output AdminTaskDefinition.", "./aws/update.sh brings it up to date.")
    return Admin(account, out, outputs).run(options.words, out.say)
