"""`./aws/update.sh <subdomain> [image_tag] [--rollback [release]]`: change a stage that runs, or take it back."""

from __future__ import annotations

from deployment import contents, images, names, registry, releases
from deployment.account import Account
from deployment.arguments import Options, variable
from deployment.errors import Refused
from deployment.network import TOLD
from deployment.output import Output
from deployment.parameters import OWN, from_environment, shown
from deployment.releases import History, Release
from deployment.rollout import Rollout
from deployment.stage import Stage, find
from deployment.templates import AWS, Bucket, load

# An older folder of the broker has older data, or was lost: that it was left behind is no release's affair.
STAYS = frozenset({"KafkaDataPath"})


def update(options: Options, account: Account, out: Output) -> None:
    """Raises Stop with its exit status."""
    stage = find(options, account, out)
    stage.stack.settle(may_make=False, dry_run=options.dry_run)
    bucket = registry.existing(account, out)
    history = releases.history(bucket, stage.stack)
    if options.rollback is not None:
        _roll_back(stage, options, bucket, history)
        return
    rollout = Rollout(stage, options, load("bridge"), stage.stack.parameters(), history)
    wanted = from_environment(rollout.template, options.environ)
    if wanted:
        out.note(f"from the environment: {shown(rollout.template, wanted)}")
    rollout.check_wanted(wanted)
    of_network = [*TOLD, *(name for name in load("vpc").parameters if name not in OWN and name not in TOLD)]
    if theirs := [name for name in of_network if variable(name) in options.environ]:
        raise Refused(f"{variable(theirs[0])} is the network's.", "./aws/deploy.sh changes the network first.")
    if arn := wanted.get("CertificateArn"):
        names.check_certificate(account, arn, stage.domain)
    if zone := wanted.get("HostedZoneId"):
        names.check_zone(account, zone, stage.domain)
    configuration = contents.load(stage.name)
    checked = rollout.check_configuration(configuration)
    alarms = rollout.alarms()
    wanted |= rollout.images(wanted)
    wanted |= rollout.put_configuration(checked)
    rollout.apply(bucket, rollout.plan(bucket, wanted, alarms))
    if options.dry_run:
        out.say("dry run: nothing was changed")
        return
    rollout.finish(bucket, configuration.smoke_source)


def _roll_back(stage: Stage, options: Options, bucket: Bucket, history: History) -> None:
    """Deploy an older release again: its template, its parameters, its images, its configuration.

    A rollback that was interrupted is finished, and not followed by another one: that is what running it again is for.
    """
    out, unfinished = stage.out, history.unfinished
    again = ""
    if unfinished and unfinished.of != unfinished.name and not options.rollback:
        again = unfinished.of
        out.note(f"the rollback {unfinished.name} was interrupted: it is finished")
    release = releases.choose(history.deployed, stage.stack.name, again or options.rollback or "")
    out.note(f"back to the release {release.name}, by {release.by}")
    template = releases.template_of(bucket, release)
    rollout = Rollout(stage, options, template, stage.stack.parameters(), history)
    _check_there(stage, rollout, release)
    wanted = {
        name: value for name, value in release.parameters.items()
        if name in template.parameters and name not in template.secret_parameters and name not in STAYS
    }  # fmt: skip
    changed = rollout.apply(bucket, rollout.plan(bucket, wanted, rollout.alarms()), of=release.of)
    if not changed and not again:
        raise Refused(
            f"The release {release.name} is what runs: nothing was changed.",
            f"Another one by its name: {releases.newest(history.deployed)}.",
        )
    if options.dry_run:
        out.say("dry run: nothing was changed")
        return
    there = rollout.secrets()
    text = there[0].value(release.parameters.get("ConfigVersion", "")) if there else ""
    source = contents.Configuration(AWS, text or "", frozenset()).smoke_source
    rollout.finish(bucket, source)


def _check_there(stage: Stage, rollout: Rollout, release: Release) -> None:
    """Raises Refused when what the release needs has been removed since, or serves no more."""
    if arn := release.parameters.get("CertificateArn", ""):
        names.check_certificate(stage.account, arn, stage.domain)
    repositories = {"BridgeImage": images.BRIDGE, "KafkaImage": images.KAFKA, "GuardImage": images.BRIDGE}
    for parameter, repository in repositories.items():
        tag = release.parameters.get(parameter, "").rpartition(":")[2]
        if tag and images.Repository(stage.account, repository).platforms(tag) is None:
            raise Refused(f"The release {release.name} needs {repository}:{tag}, which is not there any more.")
    there = rollout.secrets()
    if there is None:
        return
    for parameter, secret in zip(("ConfigVersion", "SourcesVersion"), there, strict=True):
        version = release.parameters.get(parameter, "")
        if version and secret.value(version) is None:
            raise Refused(
                f"The release {release.name} needs {parameter} {version}, which Secrets Manager has removed.",
                f"It keeps the newest {contents.VERSIONS_KEPT}. Deploy the configuration from the history instead.",
            )
