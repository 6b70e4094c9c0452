"""Certificates of the local stack as OpenSSL, Java and Python's TLS find them, and every way they may be damaged."""

from __future__ import annotations

import shutil
import stat
import subprocess
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID

from authority import DAY, Authority, key_pem, pem
from certificate_world import DOMAIN, NAMES, NOW, OWN_NAMES, Other, Place, shake
from kafka_webhook_bridge.errors import KwbError, StackError, UsageError
from kafka_webhook_bridge.stack import certificates
from kafka_webhook_bridge.stack.certificates import Held


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


# ── what is made ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_deploy_rule_22_every_name_is_in_it_and_no_other_is_accepted(place: Place) -> None:
    made = place.make()
    assert set(made.held.certificate.names) == NAMES
    assert {shake(place, name) for name in NAMES} == {"TLSv1.3"}
    assert "Hostname mismatch" in shake(place, f"other.{DOMAIN}")
    assert "IP address mismatch" in shake(place, "127.0.0.2")
    assert (made.held.own, made.held.verified, made.held.troubles) == (False, True, ())


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs the command openssl")
@pytest.mark.parametrize("name", [("-verify_hostname", f"kafka.{DOMAIN}"), ("-verify_ip", "127.0.0.1")])
def test_openssl_accepts_it_strictly(place: Place, name: tuple[str, str]) -> None:
    place.make()
    done = subprocess.run(
        ["openssl", "verify", "-x509_strict", "-purpose", "sslserver", *name, "-CAfile", place.ca, place.pem],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, f"{place.pem}: OK\n"), done.stderr


@pytest.mark.skipif(shutil.which("keytool") is None, reason="needs Java's keytool")
def test_java_reads_both(place: Place) -> None:
    place.make()
    for path, words in ((place.ca, "PathLen:0"), (place.pem, f"DNSName: kafka.{DOMAIN}")):
        done = subprocess.run(
            ["keytool", "-printcert", "-file", path], capture_output=True, text=True, timeout=60, check=True
        )
        assert words in done.stdout


def test_private_things_stay_private(place: Place) -> None:
    place.make()
    modes = {
        str(p.relative_to(place.root)): stat.S_IMODE(p.stat().st_mode)
        for p in place.root.rglob("*") if p.name != ".lock"
    }  # fmt: skip
    assert modes == {
        "authority": 0o700, "authority/ca.key": 0o600, "authority/ca.pem": 0o644,
        "compose": 0o700, "compose/ca.pem": 0o644,
        "compose/tls": 0o700, "compose/tls/server.key": 0o600, "compose/tls/server.pem": 0o644,
    }  # fmt: skip
    authority_key = (place.authority / "ca.key").read_bytes()
    assert not [name for name, data in place.contents().items() if authority_key in data and name != "authority/ca.key"]


def test_a_certificate_lasts_at_most_397_days_and_the_authority_ten_years(place: Place) -> None:
    place.make(now=NOW)
    server, ca = (
        x509.load_pem_x509_certificate(place.pem.read_bytes()),
        x509.load_pem_x509_certificate(place.ca.read_bytes()),
    )
    assert timedelta(days=390) < server.not_valid_after_utc - server.not_valid_before_utc <= timedelta(days=397)
    assert abs(ca.not_valid_after_utc - NOW - timedelta(days=3_652)) <= DAY
    usage = server.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.SERVER_AUTH]
    assert not server.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert ca.extensions.get_extension_for_class(x509.BasicConstraints).value.path_length == 0


@pytest.mark.parametrize(
    ("name", "refusal"),
    [
        ("www.bank.example", "permitted subtree violation"),
        (f"evil{DOMAIN}", "permitted subtree violation"),
        ("10.0.0.1", "permitted subtree violation"),
        (f"deeper.kafka.{DOMAIN}", "TLSv1.3"),
    ],
)
def test_a_stolen_authority_signs_for_its_domain_alone(place: Place, name: str, refusal: str) -> None:
    place.make()
    stolen = serialization.load_pem_private_key((place.authority / "ca.key").read_bytes(), None)
    assert isinstance(stolen, ec.EllipticCurvePrivateKey)
    Authority(x509.load_pem_x509_certificate(place.ca.read_bytes()), stolen).sign([name]).put(place.tls)
    assert shake(place, name) == refusal


# ── again ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_second_run_changes_nothing(place: Place) -> None:
    assert len(place.make().done) == 3
    before = place.contents()
    assert place.make().done == ()
    assert place.contents() == before


@pytest.mark.parametrize(("days", "renewed"), [(365, False), (367, True), (500, True)])
def test_it_is_renewed_when_less_than_30_days_are_left(place: Place, days: int, renewed: bool) -> None:
    place.make(now=NOW)
    before = place.contents()
    made = place.make(now=NOW + days * DAY)
    assert bool(made.done) is renewed
    changed = {name for name, data in place.contents().items() if before[name] != data}
    assert changed == ({"compose/tls/server.pem", "compose/tls/server.key"} if renewed else set())
    assert made.held.certificate.days_left(NOW + days * DAY) >= 30


def test_renew_makes_a_new_one_by_the_same_authority(place: Place) -> None:
    place.make()
    ca, key = place.ca.read_bytes(), place.key.read_bytes()
    made = place.make(renew=True)
    assert "asked for" in made.done[0]
    assert place.ca.read_bytes() == ca
    assert place.key.read_bytes() != key
    assert shake(place, "localhost") == "TLSv1.3"


def test_another_domain_needs_another_authority(place: Place) -> None:
    place.make()
    ca = place.ca.read_bytes()
    made = place.make("other.example")
    assert "may not sign for that domain" in made.done[0]
    assert shake(place, "kafka.other.example") == "TLSv1.3"
    assert place.ca.read_bytes() != ca
    assert "Hostname mismatch" in shake(place, f"kafka.{DOMAIN}")


def test_other_names_by_the_same_authority(place: Place) -> None:
    place.make()
    ca = place.ca.read_bytes()
    made = place.make("localhost")  # which every authority may sign for
    assert "the names differ" in made.done[0]
    assert place.ca.read_bytes() == ca
    assert shake(place, "kafka.localhost") == "TLSv1.3"


def test_an_authority_that_is_nearly_over_is_replaced_and_what_it_signs_ends_with_it(place: Place) -> None:
    place.make(now=NOW)
    end = x509.load_pem_x509_certificate(place.ca.read_bytes()).not_valid_after_utc
    made = place.make(now=end - 60 * DAY)
    assert made.held.certificate.not_after <= end
    made = place.make(now=end - 20 * DAY)
    assert "nearly over" in made.done[0]
    assert made.held.certificate.not_after > end


def _unpaired(place: Place) -> None:
    place.key.write_bytes(key_pem(ec.generate_private_key(ec.SECP256R1())))


def _cut_between_the_two(place: Place) -> None:
    """As a run that renewed the certificate and was killed before its key."""
    key = place.key.read_bytes()
    place.make(renew=True)
    place.key.write_bytes(key)
    (place.tls / ".server.key.x1y2").write_text("the half of a key")


DAMAGES: dict[str, Callable[[Place], Any]] = {
    "the key is missing": lambda place: place.key.unlink(),
    "the key is another's": _unpaired,
    "the key is garbage": lambda place: place.key.write_text("garbage"),
    "certificate and key are missing": lambda place: (place.pem.unlink(), place.key.unlink()),
    "the certificate is empty": lambda place: place.pem.write_text(""),
    "the certificate is cut": lambda place: place.pem.write_bytes(place.pem.read_bytes()[:300]),
    "an earlier run was cut": _cut_between_the_two,
    "ca.pem is missing": lambda place: place.ca.unlink(),
    "ca.pem is damaged": lambda place: place.ca.write_text("-----BEGIN CERTIFICATE-----\n"),
    "the authority's key is missing": lambda place: (place.authority / "ca.key").unlink(),
    "the authority's key is garbage": lambda place: (place.authority / "ca.key").write_text("garbage"),
    "the authority's key is another's": lambda place: (place.authority / "ca.key").write_bytes(
        key_pem(ec.generate_private_key(ec.SECP256R1()))
    ),
    "the authority's key is of another kind": lambda place: (place.authority / "ca.key").write_bytes(
        key_pem(rsa.generate_private_key(65_537, 2_048))
    ),
    "the authority is gone": lambda place: shutil.rmtree(place.authority),
    "the authority is garbage": lambda place: (place.authority / "ca.pem").write_text("garbage"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_damaged_is_made_anew(place: Place, damage: str) -> None:
    place.make()
    DAMAGES[damage](place)
    made = place.make()
    assert made.done
    assert (made.held.verified, made.held.troubles) == (True, ())
    assert shake(place, f"kafka.{DOMAIN}") == "TLSv1.3"
    assert not list(place.tls.glob(".server.*"))
    assert place.make().done == ()


def test_a_new_authority_is_told(place: Place) -> None:
    place.make()
    shutil.rmtree(place.authority)
    assert "Give its ca.pem to every client." in place.make().done[0]


def test_runs_side_by_side_leave_one_pair(place: Place) -> None:
    with ThreadPoolExecutor(8) as pool:
        done = list(pool.map(lambda _: place.make().done, range(16)))
    assert sorted(map(len, done)) == [0] * 15 + [3]
    assert shake(place, "localhost") == "TLSv1.3"


# ── clocks, folders, names ────────────────────────────────────────────────────────────────────────────────────────────


def test_a_clock_that_was_reset_makes_nothing(place: Place) -> None:
    with pytest.raises(StackError, match="This clock says 1970-01-01") as caught:
        place.make(now=datetime(1970, 1, 1, 5, tzinfo=UTC))
    assert "Set it" in caught.value.hint
    place.make(now=NOW)
    before = place.contents()
    with pytest.raises(StackError, match="before the authority") as caught:
        place.make(now=NOW - DAY)
    assert "Set the clock" in caught.value.hint
    assert place.contents() == before


def test_a_clock_that_was_wrong_when_it_was_renewed_is_told(place: Place) -> None:
    place.make(now=NOW)
    place.make(now=NOW + 380 * DAY)
    with pytest.raises(StackError, match=r"This clock says .*server\.pem is of"):
        place.make(now=NOW)
    assert place.make(now=NOW, renew=True).held.troubles == ()


@pytest.mark.parametrize("domain", ["", "a b", "127.0.0.1", "::1", "*.example.com", "ä.example", "a" * 64, "a..b"])
def test_a_domain_that_is_none(place: Place, domain: str) -> None:
    with pytest.raises(UsageError, match="is not a domain"):
        place.make(domain)
    assert not place.contents()


def test_a_domain_is_spelled_as_certificates_do(place: Place) -> None:
    assert "kafka.shop.example" in place.make(" Shop.Example. ").held.certificate.names


@pytest.mark.parametrize("domain", ["localhost", "x" * 63 + ".example", "xn--bcher-kva.example"])
def test_unusual_domains(place: Place, domain: str) -> None:
    place.make(domain)
    assert shake(place, f"kafka.{domain}") == "TLSv1.3"


def test_a_folder_that_is_a_file(place: Place) -> None:
    place.folder.write_text("")
    with pytest.raises(StackError, match="cannot be used"):
        place.make()


def test_a_full_disk_is_told_and_harms_nothing(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.make()
    before = place.contents()

    def full(*_: Any, **__: Any) -> None:
        raise StackError("The disk is full.")

    monkeypatch.setattr(certificates, "write_private", full)
    with pytest.raises(StackError, match="full"):
        place.make(renew=True)
    assert place.contents() == before


# ── the user's own files ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("names", [OWN_NAMES, (f"*.{DOMAIN}",)])
def test_own_files_are_left_alone(place: Place, names: Sequence[str]) -> None:
    Other(names).put(place)
    before = place.contents()
    made = place.make()
    assert (made.done, made.held.own, made.held.verified, made.held.troubles) == ((), True, True, ())
    after = place.contents()
    assert {name: after[name] for name in before} == before
    assert not [name for name in set(after) - set(before) if not name.endswith(".lock")]
    with pytest.raises(StackError, match="your own certificate"):
        place.make(renew=True)


def test_own_files_in_the_place_of_ours(place: Place) -> None:
    place.make()
    Other(OWN_NAMES).put(place)
    assert place.make().held.own
    assert place.make().held.troubles == ()


def test_ours_again_in_the_place_of_own_files(place: Place) -> None:
    Other(OWN_NAMES).put(place)
    for path in (place.pem, place.key, place.ca):
        path.unlink()
    assert len(place.make().done) == 3


def troubles(held: Held) -> str:
    assert all(trouble.todo for trouble in held.troubles)
    return "\n".join(trouble.what for trouble in held.troubles)


def test_own_files_that_clients_will_refuse_are_told(place: Place) -> None:
    Other(OWN_NAMES[:2]).put(place)
    assert troubles(place.make().held) == f"{place.pem} is not for console.{DOMAIN}."
    Other(OWN_NAMES, start=NOW - 100 * DAY).put(place)
    assert "it has expired on" in troubles(place.make().held)
    Other(OWN_NAMES, start=NOW + DAY).put(place)
    assert "it is not good before" in troubles(place.make().held)
    Other(OWN_NAMES, start=NOW - 85 * DAY).put(place)
    assert "it expires on" in troubles(place.make().held)
    Other(OWN_NAMES).put(place, ca=False)
    assert f"{place.ca} does not vouch for it" in troubles(place.make().held)
    place.ca.unlink()
    held = place.make().held
    assert "the authorities of this system do not vouch for it" in troubles(held)
    assert not held.verified


def test_own_files_that_nginx_cannot_serve_are_an_error(place: Place) -> None:
    own = Other(OWN_NAMES)
    own.put(place, key=ec.generate_private_key(ec.SECP256R1()))
    with pytest.raises(StackError, match="is another certificate's key"):
        place.make()
    place.key.write_bytes(key_pem(own.server.key, b"secret"))
    with pytest.raises(StackError, match="is not a private key in PEM") as caught:
        place.make()
    assert "without a passphrase" in caught.value.hint
    place.key.unlink()
    with pytest.raises(StackError, match="is missing"):
        place.make()
    place.pem.write_bytes(own.server.certificate.public_bytes(serialization.Encoding.DER))
    with pytest.raises(StackError, match="is not a PEM certificate"):
        place.make()
    place.pem.unlink()
    place.key.write_bytes(key_pem(own.server.key))
    with pytest.raises(StackError, match="has no certificate beside it"):
        place.make()


def test_a_link_to_what_the_container_does_not_see(place: Place) -> None:
    place.tls.mkdir(parents=True)
    place.pem.symlink_to("/nowhere/fullchain.pem")
    with pytest.raises(StackError, match="link to nothing"):
        place.make()
    assert place.pem.is_symlink()


def test_an_own_authority_without_its_certificate_is_not_written_over(place: Place) -> None:
    own = Other(OWN_NAMES)
    place.folder.mkdir()
    ca = own.authority.save(place.ca).read_bytes()
    with pytest.raises(StackError, match="is not of the authority here"):
        place.make()
    assert place.ca.read_bytes() == ca


def test_a_bundle_with_our_authority_in_it_stays(place: Place) -> None:
    place.make()
    bundle = place.ca.read_bytes() + pem(Other(OWN_NAMES).authority.certificate)
    place.ca.write_bytes(bundle)
    assert place.make().done == ()
    assert place.ca.read_bytes() == bundle


def test_every_error_says_what_to_do(place: Place) -> None:
    place.make()
    place.pem.write_text("not ours, not a certificate")
    for ask in (place.make, place.look):
        with pytest.raises(KwbError) as caught:
            ask()
        assert caught.value.hint
