"""`./aws/destroy.sh <subdomain> [--yes] [--delete-data]`: remove a stage.

Data stay unless told otherwise: the database as a snapshot, and what the template retains. What stays is listed with
about what it costs. The registry is every stage's and stays in any case, as does a certificate that the stack did not
make. It may be interrupted and run again at any point, even when the stack has gone: what that has left is known by
CloudFormation.
"""

from __future__ import annotations

from typing import Any

import botocore.exceptions

from deployment import remains
from deployment.account import Account, code
from deployment.arguments import Options
from deployment.errors import Failed, Refused
from deployment.output import Output
from deployment.remains import Left
from deployment.rollout import limit_logs
from deployment.stacks import Stack
from deployment.stage import Stage, find

FIXED_SECRETS = ("kafka", "webhook", "database", "console")


def destroy(options: Options, account: Account, out: Output) -> None:
    """Raises Stop with its exit status."""
    stage = find(options, account, out, removed=True)
    there, network = stage.stack.describe(), stage.network.describe()
    stack_id = str(there["StackId"]) if there else stage.stack.removed()
    if not there and not network and not remains.find(stage.stack, stack_id):
        raise Refused(f"There is no stack {stage.stack.name} in {account.region}.")
    if not stack_id:
        out.warn(f"Which domain {stage.network.name} is for is not known: it never had a {stage.stack.name}.")
    _agree(stage, options)
    if there:
        _remove(stage.stack, stack_id, stage)
    _remove_fixed_secrets(stage)
    left = remains.find(stage.stack, stack_id)
    if options.delete_data:
        left = remains.remove(account, left, out)
    if network:
        _remove(stage.network, str(network["StackId"]))
    _tell(stage, left)


def _agree(stage: Stage, options: Options) -> None:
    what = f"{stage.stack.name} and {stage.network.name}" + (" WITH ALL DATA" if options.delete_data else "")
    if options.yes:
        return
    if not stage.out.interactive:
        raise Refused("Nobody is here to be asked.", f"--yes, if {what} shall go.")
    stage.out.note(f"This removes {what}.", "bold red")
    if stage.out.ask(f"Type {stage.name} to go on:") != stage.name:
        raise Refused("Nothing was removed.")


def _remove(stack: Stack, stack_id: str, stage: Stage | None = None) -> None:
    """The stack of that id, when whatever is under way there is over. `stage`: it is that one's, and protected."""
    found = stack.at_rest()
    if found is None:
        return  # it was being removed
    if found["StackId"] != stack_id:
        raise Failed(f"Somebody has made {stack.name} anew meanwhile; that one was not touched.")
    if stage:
        limit_logs(stage)
        stack.unprotect(stack_id)
    stack.delete(stack_id)


def _remove_fixed_secrets(stage: Stage) -> None:
    """Their names would stay taken for weeks, and the next deployment fail."""
    client = stage.account.client("secretsmanager")
    prefix = f"{stage.name}-webhooks/"
    wanted = [f"{prefix}{name}" for name in FIXED_SECRETS]
    pages = client.get_paginator("list_secrets").paginate(
        IncludePlannedDeletion=True, Filters=[{"Key": "name", "Values": [stage.users_prefix]}]
    )
    wanted += [
        row["Name"] for page in pages for row in page["SecretList"] if row["Name"].startswith(stage.users_prefix)
    ]
    for name in wanted:
        _forget_secret(client, name)


def _forget_secret(client: Any, name: str) -> None:
    try:
        client.delete_secret(SecretId=name, ForceDeleteWithoutRecovery=True)
    except botocore.exceptions.ClientError as error:
        if code(error) != "ResourceNotFoundException":
            raise


def _tell(stage: Stage, left: list[Left]) -> None:
    out = stage.out
    out.say(f"{stage.name} is removed.", "bold green")
    if left:
        out.say("What stays, and about what it costs a month:")
        for row in left:
            out.say(f"  {f'${row.month:7.2f}' if row.month is not None else '     low'}  {row.what}")
    out.say("The registry of images, templates and releases stays: the other stages use it.")
