"""Signatures and times: how they are found, which spellings count, how many are tried, what a window lets through."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from verify_world import NOW, b64, b64url, judge, mac, request, verifier

from kafka_webhook_bridge.sources.verify.signatures import decode_base64, decode_base64url, parse_time

BODY = b'{"order":1}'
HEX = mac("s3cret", BODY).hex()


def plain(**signature: Any) -> dict[str, Any]:
    return {
        "scheme": "hmac",
        "hash": "sha256",
        "signature": {"from": "header", "name": "X-Sig", "encoding": "hex", **signature},
        "signed": "{body}",
    }


def code(row: dict[str, Any], value: str | bytes, *secrets: str) -> str:
    return judge(verifier(row, *(secrets or ("s3cret",))), request(BODY, {"x-sig": value})).code


@pytest.mark.parametrize("value", [HEX, HEX.upper(), HEX.title(), f" {HEX}", f"{HEX}\t"])
def test_hex_of_either_case_counts(value: str) -> None:
    assert code(plain(), value) == "ok"


@pytest.mark.parametrize(
    "value",
    [
        HEX[:-1],
        HEX[:-2],
        HEX[2:],
        HEX + "00",
        HEX + HEX,
        "0x" + HEX,
        HEX[:32] + " " + HEX[32:],
        "sha256=" + HEX,
        '"' + HEX + '"',
        HEX[:-1] + "ₐ",
        HEX[:-1] + "g",
        HEX + "\x00",
        b64(bytes.fromhex(HEX)),
        "=",
        "00",
        "０" * 64,
        HEX + ",",
        "," + HEX,
        HEX + " " + HEX,
        "\udcff".encode("utf-8", "surrogateescape"),
    ],
)
def test_nothing_else_counts_as_hex(value: str | bytes) -> None:
    assert code(plain(), value) in ("signature.malformed", "signature.mismatch")


def test_base64_has_one_spelling() -> None:
    row, right = plain(encoding="base64"), b64(bytes.fromhex(HEX))
    assert code(row, right) == "ok"
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    for last in alphabet:
        assert (code(row, right[:-2] + last + "=") == "ok") == (last == right[-2])
    for other in (
        right[:-1],
        right + "=",
        right + "==",
        right.replace("=", ""),
        right[:20] + "\n" + right[20:],
        right[:20] + " " + right[20:],
        right.replace("+", "-").replace("/", "_") if set("+/") & set(right) else right[:-1] + "-",
        right + "AAAA",
        "====" + right,
        b64url(bytes.fromhex(HEX)),
    ):
        assert code(row, other) in ("signature.malformed", "signature.mismatch"), other


@given(st.binary(max_size=70))
def test_decoders_are_inverses(raw: bytes) -> None:
    assert decode_base64(b64(raw).encode()) == raw
    assert decode_base64url(b64url(raw).encode()) == raw


@given(st.binary(max_size=70))
def test_decoders_take_nothing_but_canonical_text(text: bytes) -> None:
    for decode, encode in ((decode_base64, b64), (decode_base64url, b64url)):
        try:
            raw = decode(text)
        except ValueError:
            continue
        assert encode(raw).encode() == text


def test_base64_of_hex() -> None:
    row = plain(encoding="base64-of-hex")
    assert code(row, b64(HEX.encode())) == "ok"
    assert code(row, b64(bytes.fromhex(HEX))) == "signature.malformed"
    assert code(row, HEX) in ("signature.malformed", "signature.mismatch")


def test_a_prefix_is_all_or_nothing() -> None:
    row = plain(prefix="sha256=")
    assert code(row, f"sha256={HEX}") == "ok"
    for value in (
        HEX,
        f"SHA256={HEX}",
        f"sha256:{HEX}",
        f"sha256=={HEX}",
        f"sha256=sha256={HEX}",
        f"sha1={HEX}",
        f"xsha256={HEX}",
        f"sha256= {HEX}",
        "sha256=",
        "sha256",
    ):
        assert code(row, value) in ("signature.malformed", "signature.mismatch"), value


def test_a_prefix_pattern_is_at_the_start_and_leaves_all_the_rest() -> None:
    row = plain(prefix_pattern=r"\d+/SHA256/", separator_pattern=r"\s*,\s*")
    assert code(row, f"1/SHA256/{HEX}") == "ok"
    assert code(row, f"1/SHA256/00 , 22/SHA256/{HEX}") == "ok"
    for value in (
        f"/SHA256/{HEX}",
        f"x1/SHA256/{HEX}",
        f"1/SHA256/{HEX}/",
        f"1/sha256/{HEX}",
        f"1/MD5/{HEX}",
        f"١/SHA256/{HEX}",
        f"1/SHA256/1/SHA256/{HEX}",
    ):
        assert code(row, value) in ("signature.malformed", "signature.mismatch"), value


LIST = plain(separator=",", pair="=", field="v1")


def test_of_a_list_any_signature_of_the_field_counts() -> None:
    assert code(LIST, f"v1={HEX}") == "ok"
    assert code(LIST, f"v0=00, v1=11, v1={HEX} ,v2=22") == "ok"
    assert code(LIST, f"v1=zz,v1={HEX}") == "ok"


@pytest.mark.parametrize(
    "value",
    [
        f"v0={HEX}",
        f"V1={HEX}",
        HEX,
        f"v1:{HEX}",
        f"v1 ={HEX}",
        f"v1= {HEX}",
        f"v10={HEX}",
        f"={HEX}",
        "v1=",
        "v1",
        f"v1=={HEX}",
        f"v1=v1={HEX}",
        ",",
    ],
)
def test_no_older_scheme_and_no_likeness_counts(value: str) -> None:
    assert code(LIST, value) in ("signature.malformed", "signature.mismatch")


def test_twenty_signatures_are_tried_and_no_more() -> None:
    wrong = "v1=" + "00" * 32
    assert code(LIST, ",".join([wrong] * 19 + [f"v1={HEX}"])) == "ok"
    assert code(LIST, ",".join([f"v1={HEX}"] + [wrong] * 20)) == "signature.too_many"
    assert code(LIST, ",".join([f"v0={HEX}"] * 500 + [f"v1={HEX}"])) == "ok"  # others do not count


def test_every_secret_is_tried_with_every_signature() -> None:
    secrets = [f"old-{index}" for index in range(9)]
    for place in range(10):
        assert code(LIST, f"v1=00,v1={HEX}", *secrets[:place], "s3cret", *secrets[place:]) == "ok"
    assert code(LIST, f"v1=00,v1={HEX}", *secrets) == "signature.mismatch"


def test_several_headers_may_hold_signatures() -> None:
    row = plain(also=["X-Sig-2"])
    v = verifier(row, "s3cret")
    assert judge(v, request(BODY, {"X-Sig": "00", "x-sig-2": HEX})).ok
    assert judge(v, request(BODY, {"x-sig-2": HEX})).ok
    assert judge(v, request(BODY, {"x-sig-3": HEX})).code == "header.missing"
    assert judge(v, request(BODY, [("x-sig-2", HEX), ("X-SIG-2", HEX)])).code == "header.duplicate"


def test_numbered_headers_count_from_1_to_100() -> None:
    v = verifier("docusign", "s3cret")
    right = b64(bytes.fromhex(HEX))
    for number in (1, 2, 10, 11, 99, 100):
        headers = {f"X-DocuSign-Signature-{other}": b64(bytes(32)) for other in range(1, number)}
        assert judge(v, request(BODY, {**headers, f"x-docusign-signature-{number}": right})).ok, number
    for number in ("0", "101", "01", "", "x", "1x", "-1", "１", "1000"):
        assert judge(v, request(BODY, {f"X-DocuSign-Signature-{number}": right})).code == "header.missing", number
    twice = [("X-DocuSign-Signature-2", right), ("x-docusign-signature-2", b64(bytes(32)))]
    assert judge(v, request(BODY, twice)).code == "header.duplicate"


def test_a_hash_that_the_row_does_not_list_is_never_used() -> None:
    v = verifier("websub", "s3cret")
    for name in ("sha1", "sha256", "sha384", "sha512"):
        assert judge(v, request(BODY, {"X-Hub-Signature": f"{name}={mac('s3cret', BODY, name).hex()}"})).ok
    for value in (
        f"md5={mac('s3cret', BODY, 'md5').hex()}",
        f"SHA256={HEX}",
        f"sha224={mac('s3cret', BODY, 'sha224').hex()}",
        f"sha1={HEX}",
        f"sha512={HEX}",
        HEX,
        f"={HEX}",
        "sha256=",
    ):
        assert not judge(v, request(BODY, {"X-Hub-Signature": value})).ok, value


def stamped(form: str = "unix", signed: str = "{ts}.{body}", **window: Any) -> dict[str, Any]:
    return {**plain(), "signed": signed, "timestamp": {"from": "header", "name": "X-Ts", "format": form, **window}}


def timed(row: dict[str, Any], stamp: str, now: float = NOW) -> str:
    message = row["signed"].replace("{ts}", stamp).replace("{body}", BODY.decode())
    return judge(verifier(row, "s"), request(BODY, {"X-Ts": stamp, "X-Sig": mac("s", message).hex()}), now).code


def test_a_window_is_shut_on_both_sides_and_its_edges_are_inside() -> None:
    row = stamped(past_s=300, future_s=60)
    for age in (0, 1, 299, 300, -1, -59, -60):
        assert timed(row, str(NOW - age)) == "ok", age
    assert timed(row, str(NOW), NOW + 300.0) == "ok"
    assert timed(row, str(NOW), NOW + 300.001) == "timestamp.old"
    assert timed(row, str(NOW), NOW - 60.001) == "timestamp.future"
    for age in (301, 3600, 86400 * 365 * 20):
        assert timed(row, str(NOW - age)) == "timestamp.old"
    for ahead in (61, 3600, 10**9):
        assert timed(row, str(NOW + ahead)) == "timestamp.future"


def test_a_window_is_two_sided_unless_the_row_says_any() -> None:
    assert timed(stamped(past_s=300), str(NOW + 301)) == "timestamp.future"
    assert timed(stamped(past_s=300, future_s="any"), str(NOW + 10**7)) == "ok"
    assert timed(stamped(past_s=300, future_s=0), str(NOW)) == "ok"
    assert timed(stamped(past_s=300, future_s=0), str(NOW + 1)) == "timestamp.future"


@pytest.mark.parametrize(
    "stamp",
    [
        f"{NOW}.0",
        f"{NOW}.5",
        f"+{NOW}",
        f"-{NOW}",
        f"0{NOW}",
        "0",
        "1e9",
        "1_760_000_000",
        hex(NOW),
        "１７６００００００００",
        "١٧٦٠٠٠٠٠٠٠",
        "9" * 30,
        "9" * 5000,
        "nan",
        "inf",
        "NaN",
        "Infinity",
        "-1",
        f"{NOW}s",
        f"{NOW},{NOW}",
        f"{NOW} {NOW}",
        "²",
        "null",
        "true",
        "2025-10-09T08:53:20Z",
    ],
)
def test_seconds_are_ascii_digits_and_nothing_else(stamp: str) -> None:
    assert timed(stamped(past_s=300), stamp) == "timestamp.malformed"
    assert timed(stamped(), stamp) == "timestamp.malformed"  # also where no window is checked


def test_a_time_in_another_unit_is_no_time() -> None:
    assert timed(stamped(past_s=300), f"{NOW}000") == "timestamp.malformed"
    assert timed(stamped("unix_ms", past_s=300), str(NOW)) == "timestamp.old"
    assert timed(stamped("unix_ms", past_s=300), f"{NOW}000") == "ok"
    assert timed(stamped("unix_ms", past_s=300), f"{NOW}000000") == "timestamp.malformed"
    assert timed(stamped("iso8601", past_s=300), str(NOW)) == "timestamp.malformed"


def test_a_time_of_either_unit_is_read_by_its_size() -> None:
    row = stamped("unix_auto", past_s=300)
    assert timed(row, str(NOW)) == "ok"
    assert timed(row, f"{NOW}123") == "ok"
    assert timed(row, str(NOW - 301)) == "timestamp.old"
    assert timed(row, f"{NOW + 301}000") == "timestamp.future"
    assert timed(row, f"{NOW}000000") == "timestamp.malformed"


@pytest.mark.parametrize(
    "stamp",
    [
        "2025-10-09T08:53:20Z",
        "2025-10-09T08:53:20.1Z",
        "2025-10-09T08:53:20.999999999Z",
        "2025-10-09T08:53:20+00:00",
        "2025-10-09T10:53:20+02:00",
        "2025-10-09T01:53:20-07:00",
        "2025-10-09T08:53:20",
        "2025-10-09T08:53:20.123",
        "2025-10-09T10:53:20+0200",
    ],
)
def test_iso_times(stamp: str) -> None:
    assert timed(stamped("iso8601", past_s=2), stamp) == "ok"


@pytest.mark.parametrize(
    "stamp",
    [
        "2025-10-09 08:53:20Z",
        "2025-10-09T08:53Z",
        "2025-10-09",
        "20251009T085320Z",
        "2025-W41-4T08:53:20Z",
        "2025-10-09T08:53:20z",
        "2025-10-09t08:53:20Z",
        "2025-10-09T08:53:20+00",
        "2025-10-09T08:53:20 Z",
        "2025-10-09T08:53:20,5Z",
        "2025-10-09T08:53:20.Z",
        "2025-13-09T08:53:20Z",
        "2025-02-30T08:53:20Z",
        "2025-10-09T24:00:00Z",
        "2025-10-09T08:53:60Z",
        "0000-10-09T08:53:20Z",
        "12025-10-09T08:53:20Z",
        "2025-10-09T08:53:20+24:00",
        "2025-10-09T08:53:20+00:60",
        "２０２５-10-09T08:53:20Z",
        "2025-10-09T08:53:20.1234567890Z",
        "Thu, 09 Oct 2025 08:53:20 GMT",
    ],
)
def test_what_is_no_iso_time(stamp: str) -> None:
    assert timed(stamped("iso8601"), stamp) == "timestamp.malformed"


@pytest.mark.parametrize("stamp", ["0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59", "0001-01-01T00:00:00Z"])
def test_the_ends_of_time_are_times(stamp: str) -> None:
    assert timed(stamped("iso8601", past_s=300), stamp) in ("timestamp.old", "timestamp.future")


def test_http_dates() -> None:
    row = stamped("http-date", past_s=300)
    assert timed(row, "Thu, 09 Oct 2025 08:53:20 GMT") == "ok"
    assert timed(row, "Thu, 09 Oct 2025 08:48:19 GMT") == "timestamp.old"
    for stamp in (
        "Thu, 9 Oct 2025 08:53:20 GMT",
        "Thu, 09 Oct 2025 08:53:20 +0000",
        "Thu, 09 Oct 2025 08:53:20",
        "Thu, 39 Oct 2025 08:53:20 GMT",
        "09 Oct 2025 08:53:20 GMT",
        "Thu, 09 Oct 0000 08:53:20 GMT",
        "thu, 09 oct 2025 08:53:20 gmt",
        "Thu, 09 Oct 2025 08:61:20 GMT",
    ):
        assert timed(row, stamp) == "timestamp.malformed", stamp


@given(st.text(max_size=40), st.sampled_from(["unix", "unix_ms", "unix_auto", "iso8601", "http-date"]), st.booleans())
def test_no_text_makes_the_clock_fail(text: str, form: str, touches: bool) -> None:
    try:
        moment = parse_time(text.encode("utf-8", "surrogatepass"), form, touches)
    except ValueError:
        return
    assert -62_135_700_000 < moment < 253_402_400_000


def test_a_time_inside_the_signature_header_stands_once() -> None:
    def of(value: str) -> str:
        return judge(verifier("stripe", "s"), request(BODY, {"Stripe-Signature": value})).code

    right = mac("s", f"{NOW}.{BODY.decode()}").hex()
    old = mac("s", f"{NOW - 301}.{BODY.decode()}").hex()
    assert of(f"t={NOW},v1={right}") == "ok"
    assert of(f"v1={right},t={NOW}") == "ok"
    assert of(f"t={NOW - 301},v1={old}") == "timestamp.old"
    assert of(f"t={NOW - 301},t={NOW},v1={old}") == "signature.malformed"
    assert of(f"t={NOW},t={NOW - 301},v1={old}") == "signature.malformed"
    assert of(f"t={NOW},t={NOW},v1={right}") == "ok"
    assert of(f"v1={right}") == "timestamp.missing"
    assert of(f"t=,v1={right}") == "timestamp.missing"
    assert of(f"T={NOW},v1={right}") == "timestamp.missing"
    assert of(f"t={NOW},v0={right}") == "signature.malformed"
    assert of(f"t={NOW}") == "signature.malformed"


def test_a_positional_time_is_the_first_item_alone() -> None:
    def of(value: str, now: float = NOW) -> str:
        return judge(verifier("recurly", "s"), request(BODY, {"Recurly-Signature": value}), now).code

    right = mac("s", f"{NOW}000.{BODY.decode()}").hex()
    assert of(f"{NOW}000,{right}") == "ok"
    assert of(f"{NOW}000,00,{right}") == "ok"
    assert of(f"{NOW}000,{right}", NOW + 301) == "timestamp.old"
    assert of(f"{NOW}000,{right}", NOW - 301) == "timestamp.future"
    assert of(f"{right},{NOW}000") in ("timestamp.malformed", "signature.malformed")
    assert of(f"{NOW}000") == "signature.malformed"
    assert of(f",{right}") == "timestamp.missing"


def test_an_unsigned_time_cannot_refresh_an_old_request() -> None:
    v = verifier("slack", "s")
    old = mac("s", f"v0:{NOW - 301}:{BODY.decode()}").hex()
    headers = {"X-Slack-Signature": f"v0={old}", "X-Slack-Request-Timestamp": str(NOW - 301)}
    assert judge(v, request(BODY, headers)).code == "timestamp.old"
    assert judge(v, request(BODY, {**headers, "X-Slack-Request-Timestamp": str(NOW)})).code == "signature.mismatch"


def test_a_key_id_chooses_the_secret() -> None:
    row = {**plain(), "key_select": {"header": "X-Key-Id"}}
    v = verifier(row, "k1:one", "k2:two", "k2:three")
    for key_id, secret, expected in (
        ("k1", "one", "ok"),
        ("k2", "two", "ok"),
        ("k2", "three", "ok"),
        ("k1", "two", "signature.mismatch"),
        ("k2", "one", "signature.mismatch"),
        ("k3", "one", "key.unknown"),
        ("K1", "one", "key.unknown"),
        ("k1:", "one", "key.unknown"),
    ):
        headers = {"X-Key-Id": key_id, "X-Sig": mac(secret, BODY).hex()}
        assert judge(v, request(BODY, headers)).code == expected, (key_id, secret)
    assert judge(v, request(BODY, {"X-Sig": mac("one", BODY).hex()})).code == "header.missing"
    free = verifier(row, "k1:one", "any")
    assert judge(free, request(BODY, {"X-Key-Id": "k9", "X-Sig": mac("any", BODY).hex()})).ok
    assert judge(free, request(BODY, {"X-Sig": mac("any", BODY).hex()})).ok
    assert not judge(free, request(BODY, {"X-Key-Id": "k9", "X-Sig": mac("one", BODY).hex()})).ok


@given(
    st.binary(max_size=300),
    st.sampled_from(["{body}", "{body_b64}", "{body_sha256_hex}", "{ts}.{body}", "{body}.{ts}"]),
)
def test_any_bytes_are_a_body(body: bytes, text: str) -> None:
    """Raw bytes are signed: invalid UTF-8, NUL, none at all."""
    encoded = {"{body_b64}": b64(body).encode(), "{body_sha256_hex}": hashlib.sha256(body).hexdigest().encode()}
    ts = str(NOW).encode()
    message = {"{body}": body, "{ts}.{body}": ts + b"." + body, "{body}.{ts}": body + b"." + ts, **encoded}[text]
    row = {**plain(), "signed": text}
    if "{ts}" in text:
        row["timestamp"] = {"from": "header", "name": "X-Ts", "format": "unix", "past_s": 300}
    v = verifier(row, "s")
    headers = {"X-Sig": mac("s", message).hex(), "X-Ts": str(NOW)}
    assert judge(v, request(body, headers)).ok
    assert not judge(v, request(body + b"\0", headers)).ok
    assert not judge(v, request(body[:-1], headers)).ok or not body
