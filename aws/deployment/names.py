"""Names: the public zone that a domain lives in, its certificate, and what a person must put into DNS elsewhere.

With a public hosted zone in the account the stack makes certificate and records itself. Without one the certificate is
asked for before the stack, because a stack would hang until it is there; the records that prove the domain are shown,
and whoever runs the command may end it and come back: the next run finds the same request.
"""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Mapping, Sequence
from typing import Any

import botocore.exceptions

from deployment.account import Account
from deployment.arguments import CERTIFICATE_MINUTES
from deployment.errors import Failed, Refused
from deployment.output import Output
from deployment.stacks import pauses

HOSTS = ("webhooks", "kafka", "console")
TAG = "kafka-webhook-bridge"  # as on everything that the templates make
_PENDING = "PENDING_VALIDATION"


def zone_of(account: Account, domain: str) -> str:
    """Id of the public hosted zone that is nearest to the domain; empty when the account has none.

    Raises Refused when several have that name: the world asks one of them, and only its owner knows which.
    """
    labels = domain.split(".")
    for start in range(len(labels) - 1):
        found = _public_zones(account, ".".join(labels[start:]) + ".")
        if len(found) > 1:
            raise Refused(
                f"There are {len(found)} public zones {'.'.join(labels[start:])}: {', '.join(found)}.",
                "HOSTED_ZONE_ID=… names the one whose name servers the registrar has.",
            )
        if found:
            return found[0]
    return ""


def _public_zones(account: Account, name: str) -> list[str]:
    """Ids of those with that name. Private ones may have it, too, and as many as one likes."""
    client = account.client("route53")
    found: list[str] = []
    more: dict[str, str] = {"DNSName": name}
    while True:
        answer = client.list_hosted_zones_by_name(**more)
        rows = [row for row in answer["HostedZones"] if row["Name"] == name]
        found += [_short(row["Id"]) for row in rows if not row.get("Config", {}).get("PrivateZone")]
        if not answer["IsTruncated"] or answer.get("NextDNSName") != name:  # sorted by name
            return found
        more = {"DNSName": name, "HostedZoneId": answer["NextHostedZoneId"]}


def check_zone(account: Account, zone: str, domain: str) -> None:
    """Raises Refused unless the zone is there, public, and holds the domain."""
    try:
        found = account.client("route53").get_hosted_zone(Id=zone)["HostedZone"]
    except botocore.exceptions.ClientError as error:
        raise Refused(f"HOSTED_ZONE_ID={zone}: {error.response['Error']['Message']}") from None
    name = found["Name"].rstrip(".")
    if found.get("Config", {}).get("PrivateZone"):
        raise Refused(f"HOSTED_ZONE_ID={zone}: {name} is private, and nobody outside would find the names.")
    if domain != name and not domain.endswith(f".{name}"):
        raise Refused(f"HOSTED_ZONE_ID={zone} is {name}, which does not hold {domain}.")


def _short(zone: str) -> str:
    return str(zone).rpartition("/")[2]


# ── certificate ───────────────────────────────────────────────────────────────────────────────────────────────────────


def check_certificate(account: Account, arn: str, domain: str) -> None:
    """Raises Refused unless it is issued, of this region, and for every name."""
    region = (arn.split(":") + [""] * 4)[3]
    if region != account.region:
        raise Refused(f"The certificate is of {region or 'no region'}, and this is {account.region}.")
    found = _describe(account, arn)
    if found is None:
        raise Refused(f"There is no certificate {arn}.")
    if found["Status"] != "ISSUED":
        raise Refused(f"The certificate is {found['Status']}.", "Only an issued one can serve.")
    names = found.get("SubjectAlternativeNames", [found["DomainName"]])
    missing = [host for host in _hosts(domain) if not any(_matches(name, host) for name in names)]
    if missing:
        raise Refused(f"The certificate is not for {', '.join(missing)}.", f"It is for {', '.join(names)}.")


def _matches(name: str, host: str) -> bool:
    return name == host or (name.startswith("*.") and host.partition(".")[2] == name[2:])


def _hosts(domain: str) -> list[str]:
    return [f"{host}.{domain}" for host in HOSTS]


def certificate(
    account: Account, domain: str, stack: str, out: Output, *, wait_minutes: float = CERTIFICATE_MINUTES
) -> str:
    """ARN of an issued certificate of ours, asked for when there is none, waited for when it is not proved yet.

    Raises Refused when it is still not issued after `wait_minutes`: the next run goes on from there.
    """
    arn = _ours(account, domain, stack) or _request(account, domain, stack)
    told: list[tuple[str, str]] = []
    with out.progress(f"Waiting for the certificate of {domain}") as steps:
        for _ in pauses(wait_minutes * 60):
            found = _describe(account, arn) or {"Status": "gone"}
            if found["Status"] == "ISSUED":
                return arn
            if found["Status"] != _PENDING:
                raise Failed(
                    f"The certificate of {domain} is {found['Status']}.", f"{arn}; run this again for a new one."
                )
            records = _validation(found)
            if records and records != told:
                out.heading("Put these into the domain's DNS; then the certificate is issued, and renewed for ever:")
                out.table(("name", "type", "value"), [(name, "CNAME", value) for name, value in records])
                told = records
            steps.now(f"{_PENDING}: AWS looks for the records above; Ctrl-C ends this command, not the request")
    raise Refused(
        f"The certificate of {domain} is not issued yet.", "When the records above are in DNS, run this command again."
    )


def _request(account: Account, domain: str, stack: str) -> str:
    hosts = _hosts(domain)
    token = hashlib.sha256(f"{stack}/{domain}".encode()).hexdigest()[:32]
    made: str = account.client("acm").request_certificate(
        DomainName=hosts[0], SubjectAlternativeNames=hosts, ValidationMethod="DNS", IdempotencyToken=token,
        Tags=[{"Key": TAG, "Value": stack}],
    )["CertificateArn"]  # fmt: skip
    return made


def _ours(account: Account, domain: str, stack: str) -> str:
    """One that an earlier run asked for and that is, or may yet be, issued."""
    client = account.client("acm")
    pages = client.get_paginator("list_certificates").paginate(CertificateStatuses=[_PENDING, "ISSUED"])
    for row in (row for page in pages for row in page["CertificateSummaryList"]):
        if row["DomainName"] != _hosts(domain)[0]:
            continue
        tags = client.list_tags_for_certificate(CertificateArn=row["CertificateArn"])["Tags"]
        if {"Key": TAG, "Value": stack} in tags:
            return str(row["CertificateArn"])
    return ""


def is_there(account: Account, arn: str) -> bool:
    return _describe(account, arn) is not None


def made_by_us(account: Account, arn: str) -> bool:
    """Whether a run of deploy.sh asked for it."""
    try:
        tags = account.client("acm").list_tags_for_certificate(CertificateArn=arn)["Tags"]
    except botocore.exceptions.ClientError:
        return False
    return any(row["Key"] == TAG for row in tags)


def _describe(account: Account, arn: str) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = account.client("acm").describe_certificate(CertificateArn=arn)["Certificate"]
    except botocore.exceptions.ClientError:
        return None
    return found


def _validation(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    rows = [row["ResourceRecord"] for row in found.get("DomainValidationOptions", []) if "ResourceRecord" in row]
    return sorted({(row["Name"], row["Value"]) for row in rows})


# ── records that a person makes ───────────────────────────────────────────────────────────────────────────────────────


def records(domain: str, outputs: Mapping[str, str]) -> list[tuple[str, str]]:
    """Name and target of each CNAME that leads to the load balancers."""
    found = [(f"webhooks.{domain}", outputs["AlbDnsName"])]
    if outputs.get("NlbDnsName"):
        found.append((f"kafka.{domain}", outputs["NlbDnsName"]))
    if outputs.get("ConsoleUrl"):
        found.append((f"console.{domain}", outputs["AlbDnsName"]))
    return found


def pending(wanted: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Those that do not lead where they should, as this machine sees DNS now."""
    found = []
    for name, target in wanted:
        here = addresses(name)
        if not here or not here & addresses(target):
            found.append((name, target))
    return found


def addresses(name: str) -> set[str]:
    try:
        return {str(row[4][0]) for row in socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)}
    except OSError:
        return set()
