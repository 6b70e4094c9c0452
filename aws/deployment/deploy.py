"""`./aws/deploy.sh <subdomain> [image_tag]`: bring a stage up, or up to date. It may be run again at any point."""

from __future__ import annotations

from collections.abc import Mapping

from deployment import contents, names, network, registry
from deployment.account import Account, make_missing_roles
from deployment.arguments import Options
from deployment.output import Output
from deployment.parameters import from_environment, shown
from deployment.rollout import Rollout
from deployment.stage import Stage, find
from deployment.templates import Bucket, load


def deploy(options: Options, account: Account, out: Output) -> None:
    """Raises Stop with its exit status."""
    stage = find(options, account, out)
    new = stage.stack.settle(may_make=True, dry_run=options.dry_run)
    rollout = Rollout(stage, options, load("bridge"), None if new else stage.stack.parameters())
    wanted = from_environment(rollout.template, options.environ)
    if wanted:
        out.note(f"from the environment: {shown(rollout.template, wanted)}")
    rollout.check_wanted(wanted)
    configuration = contents.load(stage.name)
    rollout.check_configuration(configuration)
    own_network = _own_network(stage, rollout, wanted)
    if not options.dry_run and (made := make_missing_roles(account)):
        out.note(f"made the account's roles for {', '.join(made)}")
    bucket = registry.ensure(account, out, dry_run=options.dry_run)
    if bucket is None:
        _no_further(out, "the registry's stack")
        return
    wanted |= rollout.images(wanted)
    if own_network:
        told = network.ensure(
            account, out, stage.name, bucket, options.environ, dry_run=options.dry_run,
            allow_replace=options.allow_replace,
        )  # fmt: skip
        if told is None:
            _no_further(out, "the network's stack")
            return
        wanted |= told
    wanted |= _names(stage, rollout, wanted, out)
    alarms = () if new else rollout.alarms()
    if not new:
        wanted |= _configuration(rollout, configuration)
    changed = rollout.apply(rollout.plan(bucket, wanted, alarms), may_make=True)
    if options.dry_run:
        out.say("dry run: nothing was changed")
        return
    if new:
        changed = _first_configuration(rollout, bucket, wanted, configuration) or changed
    rollout.finish(bucket, changed=changed, smoke_source=configuration.smoke_source)


def _own_network(stage: Stage, rollout: Rollout, wanted: Mapping[str, str]) -> bool:
    """Whether the stage's VPC is our stack's. One that was given when the stage was made stays given."""
    if network.given(wanted):
        network.check_existing(stage.account, wanted)
        return False
    return rollout.deployed is None or stage.network.exists()


def _names(stage: Stage, rollout: Rollout, wanted: Mapping[str, str], out: Output) -> dict[str, str]:
    """HostedZoneId or CertificateArn, whichever makes the names and their certificate."""
    if arn := wanted.get("CertificateArn"):
        names.check_certificate(stage.account, arn, stage.domain)
        return {}
    if rollout.value("CertificateArn", wanted) or rollout.value("HostedZoneId", wanted):
        return {}
    if zone := names.zone_of(stage.account, stage.domain):
        out.note(f"hosted zone {zone}: the stack makes the certificate and the records")
        return {"HostedZoneId": zone}
    out.note(f"no public hosted zone for {stage.domain} in this account: its DNS is elsewhere")
    if rollout.options.dry_run:
        out.note("a certificate would be asked for first, and the records that prove the domain be shown")
        return {"CertificateArn": f"arn:aws:acm:{stage.account.region}:{stage.account.number}:certificate/not-yet"}
    minutes = float(rollout.options.environ.get("CERTIFICATE_WAIT_MINUTES") or names.WAIT_MINUTES)
    return {
        "CertificateArn": names.certificate(
            stage.account, stage.domain, stage.stack.name, out, wait_minutes=minutes
        )
    }  # fmt: skip


def _configuration(rollout: Rollout, configuration: contents.Configuration) -> dict[str, str]:
    return {} if rollout.options.dry_run else rollout.put_configuration(configuration)


def _first_configuration(
    rollout: Rollout, bucket: Bucket, wanted: Mapping[str, str], configuration: contents.Configuration
) -> bool:
    """The stack has made the secrets: fill them, and tell it so. Still part of its creation, so without alarms."""
    versions = rollout.put_configuration(configuration)
    second = Rollout(rollout.stage, rollout.options, rollout.template, rollout.stage.stack.parameters())
    return second.apply(second.plan(bucket, {**wanted, **versions}))


def _no_further(out: Output, what: str) -> None:
    out.say(f"dry run: {what} comes first; what follows can be compared once it is there. Nothing was changed.")
