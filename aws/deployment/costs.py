"""About what a month of a stage costs: a formula with list prices, to know the order of magnitude beforehand.

Prices are those of us-east-1 as AWS lists them for on-demand use, without tax, free tiers and discounts; other regions
differ by a fifth or so. What traffic costs (load balancer units, NAT per GB, logs, file system written) depends on the
events, so it is counted for EVENTS_PER_SECOND events of EVENT_BYTES.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

HOURS = 730.0
EVENTS_PER_SECOND, EVENT_BYTES = 1.0, 4096.0

# US dollars. Per hour unless the name says otherwise.
VCPU, GIB = 0.04048, 0.004445
ARM_FACTOR = 0.8
LOAD_BALANCER = 0.0225
NAT, NAT_PER_GB = 0.045, 0.045
ENDPOINT = 0.01
PUBLIC_IPV4 = 0.005
DATABASE = {"db.t4g.micro": 0.016, "db.t4g.small": 0.032, "db.t4g.medium": 0.065, "db.m7g.large": 0.168}
DATABASE_GB, DATABASE_GB_MONTH = 20.0, 0.115
EFS_GB_MONTH, EFS_GB_WRITTEN, EFS_GB_READ = 0.30, 0.06, 0.03
LOGS_GB = 0.50
SECRET_MONTH, ALARM_MONTH, KEY_MONTH = 0.40, 0.10, 1.00
SNAPSHOT_GB_MONTH, S3_GB_MONTH, ECR_GB_MONTH = 0.095, 0.023, 0.10

# vCPU and GiB of a task (deploy-rules 11).
TASKS = {"ingest": (0.5, 1.0), "worker": (0.5, 1.0), "console": (0.25, 0.5), "kafka": (1.0, 4.0)}
RETENTION_HOURS = 72.0  # of topics on the single broker
ENDPOINTS = 4  # ecr.api, ecr.dkr, logs, secretsmanager
ZONES = 2
SECRETS, ALARMS = 6, 10


@dataclass(frozen=True, slots=True)
class Line:
    what: str
    month: float


def estimate(parameters: Mapping[str, str], stage: Mapping[str, object], network: Mapping[str, str]) -> list[Line]:
    """Lines of a month. `stage`: the row of the template's mapping; `network`: the parameters of vpc.yaml, empty for a
    VPC of somebody else's."""

    arm = ARM_FACTOR if parameters.get("CpuArchitecture") == "ARM64" else 1.0
    single = parameters.get("KafkaMode", "single") == "single"
    console = bool(parameters.get("ConsoleCidr"))
    gb_month = EVENTS_PER_SECOND * EVENT_BYTES * 3600 * HOURS / 1e9

    def task(name: str, count: float) -> Line:
        vcpu, gib = TASKS[name]
        return Line(f"{name}: {count:g} × {vcpu:g} vCPU, {gib:g} GB", count * (vcpu * VCPU + gib * GIB) * HOURS * arm)

    lines = [task("ingest", float(parameters["IngestMinTasks"])), task("worker", 1)]
    if console:
        lines.append(task("console", 1))
    balancers = 1
    if single:
        balancers = 2
        stored = gb_month * RETENTION_HOURS / HOURS
        lines.append(task("kafka", 1))
        lines.append(
            Line(
                f"file system: {stored:.1f} GB kept, {gb_month:.0f} GB written and read",
                stored * EFS_GB_MONTH + gb_month * (EFS_GB_WRITTEN + EFS_GB_READ),
            )
        )
    lines.append(Line(f"load balancers: {balancers}", balancers * LOAD_BALANCER * HOURS))
    kind = str(stage.get("DatabaseClass", ""))  # a release of another time may call it otherwise
    if kind in DATABASE:
        copies = 2 if stage.get("MultiAz") == "true" else 1
        month = copies * (DATABASE[kind] * HOURS + DATABASE_GB * DATABASE_GB_MONTH)
        lines.append(Line(f"database: {copies} × {kind}, {DATABASE_GB:g} GB", month))
    addresses = balancers * ZONES
    if network:
        gateways = {"none": 0, "single": 1, "per-az": ZONES}[network.get("NatGateways", "single")]
        addresses += gateways
        if gateways:
            lines.append(Line(f"NAT gateways: {gateways}", gateways * NAT * HOURS + gb_month * NAT_PER_GB))
        if network.get("InterfaceEndpoints", "false") == "true":
            lines.append(Line(f"endpoints: {ENDPOINTS} in {ZONES} zones", ENDPOINTS * ZONES * ENDPOINT * HOURS))
    lines.append(Line(f"public addresses: {addresses}", addresses * PUBLIC_IPV4 * HOURS))
    watched = SECRETS * SECRET_MONTH + ALARMS * ALARM_MONTH + KEY_MONTH
    lines.append(Line(f"secrets: {SECRETS}, alarms: {ALARMS}, a key", watched))
    return lines


def total(lines: list[Line]) -> float:
    return sum(line.month for line in lines)
