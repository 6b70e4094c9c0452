"""`./aws/deploy.sh <subdomain> [image_tag]`: bring a stage up, or up to date. It may be run again at any point."""

from __future__ import annotations

from collections.abc import Mapping

from deployment import contents, names, network, registry, releases
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
    checked = rollout.check_configuration(configuration)
    own_network = _own_network(stage, rollout, wanted)
    if own_network:
        network.check(account, out, stage.name, options.environ)
    wanted |= _zone(stage, rollout, wanted)
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
    wanted |= _certificate(stage, rollout, wanted)
    if new:
        rollout.make(rollout.plan(bucket, wanted))
    else:
        rollout.history = releases.history(bucket, stage.stack)
        alarms = rollout.alarms()
        rollout.apply(bucket, rollout.plan(bucket, wanted | rollout.put_configuration(checked), alarms))
    if options.dry_run:
        out.say("dry run: nothing was changed")
        return
    if new:
        rollout = _configured(rollout, bucket, wanted, checked)
    rollout.finish(bucket, configuration.smoke_source)


def _own_network(stage: Stage, rollout: Rollout, wanted: Mapping[str, str]) -> bool:
    """Whether the stage's VPC is our stack's. One that was given when the stage was made stays given."""
    if network.given(wanted):
        network.check_existing(stage.account, wanted)
        return False
    return rollout.deployed is None or stage.network.exists()


def _zone(stage: Stage, rollout: Rollout, wanted: Mapping[str, str]) -> dict[str, str]:
    """HostedZoneId, where there is a zone and nobody has said otherwise. Raises Refused for what could not serve."""
    arn, zone = wanted.get("CertificateArn"), wanted.get("HostedZoneId")
    if arn:
        names.check_certificate(stage.account, arn, stage.domain)
    if zone:
        names.check_zone(stage.account, zone, stage.domain)
    if rollout.value("CertificateArn", wanted) or rollout.value("HostedZoneId", wanted):
        return {}
    if found := names.zone_of(stage.account, stage.domain):
        stage.out.note(f"hosted zone {found}: the stack makes the certificate and the records")
        return {"HostedZoneId": found}
    stage.out.note(f"no public hosted zone for {stage.domain} in this account: its DNS is elsewhere")
    return {}


def _certificate(stage: Stage, rollout: Rollout, wanted: Mapping[str, str]) -> dict[str, str]:
    """CertificateArn, where the stack cannot make one itself."""
    if rollout.value("CertificateArn", wanted) or rollout.value("HostedZoneId", wanted):
        return {}
    if rollout.options.dry_run:
        stage.out.note("a certificate would be asked for first, and the records that prove the domain be shown")
        return {"CertificateArn": f"arn:aws:acm:{stage.account.region}:{stage.account.number}:certificate/not-yet"}
    minutes = rollout.options.certificate_minutes
    arn = names.certificate(stage.account, stage.domain, stage.stack.name, stage.out, wait_minutes=minutes)
    return {"CertificateArn": arn}


def _configured(rollout: Rollout, bucket: Bucket, wanted: Mapping[str, str], checked: contents.Contents) -> Rollout:
    """The stack has made the secrets: fill them, and tell it so. Still part of its creation, so without alarms."""
    versions = rollout.put_configuration(checked)
    second = Rollout(rollout.stage, rollout.options, rollout.template, rollout.stage.stack.parameters())
    second.apply(bucket, second.plan(bucket, {**wanted, **versions}))
    return second


def _no_further(out: Output, what: str) -> None:
    out.say(f"dry run: {what} comes first; what follows can be compared once it is there. Nothing was changed.")
