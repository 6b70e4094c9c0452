"""What deploy and update have in common: images, the bridge's stack, its configuration, the release, the verdict."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import botocore.exceptions

from deployment import contents, costs, images, names, releases, verify
from deployment.arguments import Options
from deployment.changes import Plan, apply
from deployment.contents import Configuration, Contents, Secret
from deployment.errors import Failed, Refused, Unverified
from deployment.parameters import check_credentials, check_single, check_values, expected
from deployment.releases import History, Release
from deployment.remains import groups_of_aws
from deployment.stage import Stage
from deployment.tasks import Admin
from deployment.templates import AWS, ROOT, Bucket, Template

LOG_DAYS = 90
# In the place of a version that a dry run does not make; the parameters' pattern takes it.
NOT_YET = "00000000-0000-0000-0000-000000000000"
VERSIONS = ("ConfigVersion", "SourcesVersion")
SHOWN = ("WebhookUrl", "KafkaBootstrapServers", "ConsoleUrl", "DashboardUrl")


@dataclass(slots=True)
class Rollout:
    """One run of deploy or update, past its preconditions. `deployed` are the stack's parameters; None: it is made.

    `history` is what was deployed before, where anything was; `release` what this run deploys, once it has begun.
    """

    stage: Stage
    options: Options
    template: Template
    deployed: Mapping[str, str] | None
    history: History | None = None
    release: Release | None = None

    def value(self, name: str, wanted: Mapping[str, str]) -> str:
        """What a parameter will be."""
        if name in wanted:
            return wanted[name]
        if self.deployed is not None and name in self.deployed:
            return self.deployed[name]
        return str(self.template.parameters.get(name, {}).get("Default", ""))

    def check_wanted(self, wanted: Mapping[str, str]) -> None:
        """What the environment gives, before anything is made. Raises Refused."""
        check_credentials(wanted, self.deployed, self.stage.out)
        check_single(wanted, self.value("KafkaMode", wanted))
        wanted = {**wanted, "Environment": self.stage.name, "DomainName": self.stage.domain}
        check_values(self.template, self.deployed, wanted)

    # ── images ────────────────────────────────────────────────────────────────────────────────────────────────────────

    def images(self, wanted: Mapping[str, str]) -> dict[str, str]:
        """BridgeImage, KafkaImage and GuardImage, in the repositories for sure, unless it is a dry run."""
        account, out = self.stage.account, self.stage.out
        architecture = self.value("CpuArchitecture", wanted) or "X86_64"
        own = images.checkout_tag() if not self.options.tag or (ROOT / ".git").exists() else ""
        tag = self.options.tag or own
        plans = {"BridgeImage": (images.BRIDGE, tag, tag == own, _build_arguments(tag))}
        if self.value("KafkaMode", wanted) != "external":
            plans["KafkaImage"] = (images.KAFKA, images.kafka_tag(), True, [str(AWS / "kafka")])
        found = {} if "KafkaImage" in plans else {"KafkaImage": ""}
        for parameter, (repository_name, image_tag, buildable, build) in plans.items():
            repository = images.Repository(account, repository_name)
            if self.options.dry_run:
                if repository.platforms(image_tag) is None:
                    out.note(f"{repository_name}:{image_tag} is not there yet: it would be built.")
                found[parameter] = f"{repository.uri()}:{image_tag}"
            else:
                found[parameter] = images.ensure(
                    repository, image_tag, own=buildable, architecture=architecture, build=build, out=out
                )
        return {**found, "GuardImage": self._guard(found)}

    def _guard(self, found: Mapping[str, str]) -> str:
        """The bridge's image that the broker's guard is run from. It is in the broker's task, so another one restarts
        the broker: it stays until the broker gets another image, too, or it is asked for."""
        if not found["KafkaImage"]:
            return ""
        deployed = self.deployed or {}
        stays = deployed.get("KafkaImage") == found["KafkaImage"] and not self.options.update_guard
        return (deployed.get("GuardImage", "") if stays else "") or found["BridgeImage"]

    # ── configuration ─────────────────────────────────────────────────────────────────────────────────────────────────

    def secrets(self) -> tuple[Secret, Secret] | None:
        """Of configuration and sources; None before the stack has made them."""
        outputs = self.stage.stack.outputs()
        if "ConfigSecretArn" not in outputs:
            return None
        account = self.stage.account
        return Secret(account, outputs["ConfigSecretArn"]), Secret(account, outputs["SourcesSecretArn"])

    def check_configuration(self, configuration: Configuration) -> Contents:
        """What is to be put into the secrets, the sources' as checked with that very configuration.

        What runs keeps its values; a name that only an attempt before has put there is taken from there. Raises Refused
        when it could not serve, or could not be verified afterwards.
        """
        known: dict[str, str] = {}
        if there := self.secrets():
            deployed = (self.deployed or {}).get("SourcesVersion", "")
            known = contents.known_sources(there[1].value())
            known |= contents.known_sources(there[1].value(deployed) if deployed else None)
        sources = {**known, **contents.given(configuration, self.options.environ)}
        contents.check(configuration, sources)
        if not configuration.smoke_source and not self.options.skip_smoke:
            raise Refused(
                f"{configuration.path.relative_to(ROOT)} has no source with the topic {contents.SMOKE_TOPIC}, "
                "to which the verification sends.",
                f"`kwb-smoke: {{topic: {contents.SMOKE_TOPIC}}}` under sources, or SKIP_SMOKE=1.",
            )
        return Contents(configuration.text, contents.sources_text(sources))

    def put_configuration(self, checked: Contents) -> dict[str, str]:
        """Put what was checked where tasks read it; the versions as parameters. A dry run puts nothing there."""
        there = self.secrets()
        assert there is not None
        deployed = self.stage.stack.parameters()
        found = {}
        for parameter, secret, text in zip(VERSIONS, there, (checked.configuration, checked.sources), strict=True):
            before = deployed.get(parameter, "")
            if self.options.dry_run:
                found[parameter] = secret.version_of(text, before) or NOT_YET
            else:
                found[parameter] = secret.put(text, before)
        return found

    # ── the stack ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def plan(self, bucket: Bucket, wanted: Mapping[str, str], alarms: tuple[str, ...] = ()) -> Plan:
        wanted = {**wanted, "Environment": self.stage.name, "DomainName": self.stage.domain}
        return Plan(
            self.template, wanted, bucket.upload(self.template), self.options.allow_replace, alarms,
        )  # fmt: skip

    def alarms(self) -> tuple[str, ...]:
        """The alarm that takes an update back: senders get 5xx. Raises Refused when it is red already."""
        if not self.options.alarm_rollback:
            return ()
        arn = self.stage.stack.outputs().get("Ingest5xxAlarmArn", "")
        if not arn:
            return ()
        name = arn.rpartition(":")[2]
        found = self.stage.account.client("cloudwatch").describe_alarms(AlarmNames=[name])["MetricAlarms"]
        if found and found[0]["StateValue"] == "ALARM":
            raise Refused(
                f"{name} is red before anything was changed: it would take this update back.",
                "If this update is the cure: ./aws/update.sh … --no-alarm-rollback.",
            )
        return tuple(row["AlarmArn"] for row in found)

    def apply(self, bucket: Bucket, plan: Plan, *, of: str = "") -> bool:
        """Make it so, as a release; whether anything changed (would change, in a dry run). `of`: as Release has it."""
        stack = self.stage.stack

        def begin() -> str:
            if self.history and self.history.unfinished:
                releases.finish(bucket, self.history.unfinished, None)
            parameters = expected(self.template, self.deployed, plan.wanted)
            self.release = releases.begin(
                bucket, stack.name, self.template, parameters, by=self.stage.account.who, of=of
            )
            return self.release.token

        try:
            changed = apply(stack, plan, may_make=False, dry_run=self.options.dry_run, begin=begin)
        except Failed:
            if self.release:
                releases.taken_back(bucket, self.release)
            raise
        return changed

    def make(self, plan: Plan) -> bool:
        """A new stack. It is no release before it has its configuration."""
        return apply(self.stage.stack, plan, dry_run=self.options.dry_run)

    # ── afterwards ────────────────────────────────────────────────────────────────────────────────────────────────────

    def finish(self, bucket: Bucket, smoke_source: str) -> None:
        """Tidy what AWS made by itself, verify, keep the verdict, tell. Raises Unverified."""
        stage, out = self.stage, self.stage.out
        parameters, outputs = stage.stack.parameters(), stage.stack.outputs()
        release = self.release or self._running(bucket, parameters)
        limit_logs(stage)
        if stage.name == "prod":
            client = stage.account.client("cloudformation")
            client.update_termination_protection(StackName=stage.stack.name, EnableTerminationProtection=True)
        try:
            verdict = self._verify(parameters, outputs, smoke_source)
        except Unverified:
            releases.finish(bucket, release, False)
            raise
        except (botocore.exceptions.ClientError, botocore.exceptions.BotoCoreError) as error:
            raise Unverified(
                f"It is deployed; whether it works could not be seen: {error}",
                "Run this command again: it looks again.",
            ) from None
        finally:
            self._tell(parameters, outputs)
        release = releases.finish(bucket, release, verdict)
        if self.release:
            out.say(f"release {release.name}")
        if release.verified is False:
            out.warn("Its verification failed before; without SKIP_SMOKE it is judged anew.")
        out.say("done" if verdict else "deployed, not verified from outside (SKIP_SMOKE)", "bold green")

    def _running(self, bucket: Bucket, parameters: dict[str, str]) -> Release:
        """The release that runs; written down now when there is none, or the stack was changed by something else."""
        if self.history and self.history.unfinished:
            return self.history.unfinished
        here = releases.without_secrets(self.template, parameters)
        if self.history and self.history.deployed and self.history.deployed[-1].parameters == here:
            return self.history.deployed[-1]
        return releases.begin(bucket, self.stage.stack.name, self.template, parameters, by=self.stage.account.who)

    def _verify(self, parameters: Mapping[str, str], outputs: Mapping[str, str], smoke_source: str) -> bool | None:
        """True, or None when the outside was left out."""
        stage, options = self.stage, self.options
        services = {outputs["IngestServiceName"]: parameters["BridgeImage"]}
        services[outputs["WorkerServiceName"]] = parameters["BridgeImage"]
        if outputs.get("KafkaServiceName"):
            services[outputs["KafkaServiceName"]] = parameters["KafkaImage"]
        if outputs.get("ConsoleServiceName"):
            services[outputs["ConsoleServiceName"]] = parameters["BridgeImage"]
        groups = tuple(arn for name, arn in sorted(outputs.items()) if name.endswith("TargetGroupArn"))
        minutes = options.verify_minutes
        verify.Running(stage.account, stage.out, outputs["ClusterName"], services, groups, minutes * 60).check()
        stage.out.note("  services run what was asked for, and every target is healthy")
        wanted = names.records(stage.domain, outputs)
        with stage.out.progress("Looking the names up"):
            elsewhere = verify.reach(options.environ, {}, {}).names
            pending = dict(names.pending([row for row in wanted if row[0] not in elsewhere]))
        kafka_port = int(parameters.get("KafkaExternalPort", "29095"))
        ports = {name: kafka_port if name.startswith("kafka.") else 443 for name, _ in wanted}
        reach = verify.reach(options.environ, pending, ports)
        if not options.skip_smoke:
            verify.Outside(
                stage.domain, smoke_source, self._login(outputs), reach,
                (f"kafka.{stage.domain}", kafka_port) if outputs.get("NlbDnsName") else None,
                limit_s=min(minutes, verify.OUTSIDE_MINUTES) * 60,
            ).check(Admin(stage.account, stage.out, outputs), stage.users_prefix, stage.out)  # fmt: skip
            stage.out.note("  webhooks are taken and refused as they should be, and Kafka is read from outside")
        told = [(name, target) for name, target in wanted if name in pending]
        if told:
            stage.out.say("DNS pending: these names do not lead here yet.", "yellow")
            stage.out.table(("name", "type", "value"), [(name, "CNAME", target) for name, target in told])
            if zone := parameters.get("HostedZoneId"):
                stage.out.say(f"The stack has put them into the zone {zone}; does the world ask that one?")
        self._warn_of_alarms()
        return None if options.skip_smoke else True

    def _login(self, outputs: Mapping[str, str]) -> tuple[str, str]:
        client = self.stage.account.client("secretsmanager")
        arn = outputs.get("WebhookSecretArn") or f"{self.stage.name}-webhooks/webhook"
        text = client.get_secret_value(SecretId=arn)["SecretString"]
        try:
            found: dict[str, Any] = json.loads(text)
            return str(found["username"]), str(found["password"])
        except (ValueError, KeyError, TypeError):
            raise Unverified(f"{arn} is no JSON object with a username and a password.") from None

    def _warn_of_alarms(self) -> None:
        client = self.stage.account.client("cloudwatch")
        rows = client.describe_alarms(AlarmNamePrefix=f"{self.stage.name}-webhooks-", StateValue="ALARM")[
            "MetricAlarms"
        ]
        for row in rows:
            self.stage.out.warn(f"{row['AlarmName']} is red: {row.get('StateReason', '')}")

    def _tell(self, parameters: Mapping[str, str], outputs: Mapping[str, str]) -> None:
        out = self.stage.out
        out.table(("output", "value"), [(name, outputs[name]) for name in SHOWN if outputs.get(name)])
        rows = self.template.mapping("Stage").get(self.stage.name, {})
        lines = costs.estimate(parameters, rows, self.stage.network.parameters())
        out.say(f"about ${costs.total(lines):.0f} a month in us-east-1 (docs/howto/aws-costs.md):")
        for line in lines:
            out.say(f"  ${line.month:7.2f}  {line.what}")


def _build_arguments(tag: str) -> list[str]:
    found = ["--build-arg", f"VERSION={tag}", "--build-arg", f"REVISION={tag.partition('-')[0]}"]
    if url := os.environ.get("RDS_CA_URL", ""):
        found += ["--build-arg", f"RDS_CA_URL={url}"]
    return [*found, str(ROOT)]


def limit_logs(stage: Stage) -> None:
    """Log groups that AWS makes by itself keep everything for ever: give this stage's an end."""
    client = stage.account.client("logs")
    for row in groups_of_aws(stage.account, stage.stack.resources()):
        if "retentionInDays" not in row:
            try:
                client.put_retention_policy(logGroupName=row["logGroupName"], retentionInDays=LOG_DAYS)
            except botocore.exceptions.ClientError as error:
                stage.out.warn(f"{row['logGroupName']} keeps everything: {error.response['Error']['Message']}")
