"""The providers' own SDKs take what the simulator signs, and the engine takes what they sign."""

from __future__ import annotations

import base64
import importlib
import json
import time
import warnings
from collections.abc import Callable
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, urlencode

import pytest

from kafka_webhook_bridge.body import parse_json
from kafka_webhook_bridge.cli.messages import Place
from kafka_webhook_bridge.cli.openloop import parse_url
from kafka_webhook_bridge.cli.simulator import Faults, SignedMessages, Signing
from kafka_webhook_bridge.event import Request
from kafka_webhook_bridge.sources.catalog import Catalog
from kafka_webhook_bridge.sources.samples import samples_of
from kafka_webhook_bridge.sources.verify import compile as compile_verifier
from kafka_webhook_bridge.sources.verify.identity import Identity, make_identity
from kafka_webhook_bridge.sources.verify.saved import parse_saved

pytestmark = pytest.mark.filterwarnings("default")  # what SDKs warn of is theirs

CATALOG = Catalog()
BASE = "https://hooks.example.com"
BODY = b'{"id":"e1","type":"a.b","note":"caf\xc3\xa9"}'


def sdk(module: str, package: str) -> Any:
    """A module of a provider's SDK; without the package the test is skipped, and says so."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return importlib.import_module(module)
        except ModuleNotFoundError as error:
            pytest.skip(f"{package} is not installed ({error.name} is missing): it is a dependency of the tests alone")


class Sent(NamedTuple):
    """One request of the simulator, as a receiver has it, and what it was configured with."""

    body: bytes
    headers: dict[str, str]
    url: str
    secret: str
    identity: Identity

    @property
    def text(self) -> str:
        return self.body.decode()


def simulated(name: str, path: str = "/in", **options: Any) -> list[Sent]:
    """What `kwb send --profile` sends: each of the profile's events."""
    profile = CATALOG.load(name)
    identity = make_identity(profile.verify, now=time.time(), **options)
    signing = Signing(profile, profile.verify, identity, BASE, path.partition("?")[0], True)
    messages = SignedMessages(
        Place(parse_url(BASE), path), signing, Faults(), login="", method="POST", headers=[], content_type="", body="",
        events=[],
    )  # fmt: skip
    found = []
    for seq in range(len(samples_of(profile))):
        request = parse_saved(messages.make(seq).wire)
        headers = {name.decode().lower(): value.decode() for name, value in request.headers}
        query = "" if request.query is None else "?" + request.query.decode()
        found.append(Sent(request.body, headers, BASE + request.path.decode() + query, identity.secret, identity))
    return found


def taken(
    name: str, secret: str, body: bytes, headers: dict[str, str], path: str = "/in", query: str | None = None
) -> bool:
    """Whether the engine takes a request now."""
    profile = CATALOG.load(name)
    identity = make_identity(profile.verify, secret=secret)
    verify = compile_verifier(profile, [secret], params=identity.params, public_url=BASE, keys=identity.keys)
    lines = [(key.encode(), value.encode()) for key, value in headers.items()]
    request = Request(b"POST", path.encode(), None if query is None else query.encode(), lines, body, "")
    return verify(request, parse_json(body), time.time()).ok


def refuses(check: Callable[[], object]) -> bool:
    """Whether an SDK says no, by an error or by a false answer."""
    try:
        return not check()
    except Exception:
        return True


def agree(sent: list[Sent], check: Callable[[Sent], object]) -> None:
    """The SDK takes every request, and none of another body."""
    assert sent
    for one in sent:
        assert check(one) is not False
        assert refuses(lambda one=one: check(one._replace(body=one.body.replace(b"a", b"b"))))


def test_stripe() -> None:
    webhook = sdk("stripe._webhook", "stripe").WebhookSignature
    agree(simulated("stripe"), lambda s: webhook.verify_header(s.text, s.headers["stripe-signature"], s.secret, 300))
    now = int(time.time())
    mine = f"t={now},v1={webhook._compute_signature(f'{now}.{BODY.decode()}', 'whsec_test')}"
    assert taken("stripe", "whsec_test", BODY, {"Stripe-Signature": mine})
    assert not taken("stripe", "whsec_test", BODY + b" ", {"Stripe-Signature": mine})


@pytest.mark.parametrize(
    ("module", "package", "profile", "prefix"),
    [
        ("standardwebhooks", "standardwebhooks", "standard-webhooks-v1", "webhook"),
        ("svix.webhooks", "svix", "clerk-svix", "svix"),
    ],
)
def test_standard_webhooks_and_svix(module: str, package: str, profile: str, prefix: str) -> None:
    hook = sdk(module, package).Webhook
    sent = simulated(profile)
    for one in sent:
        hook(one.secret).verify(one.text, one.headers)
        assert refuses(lambda one=one: hook(one.secret).verify(one.text + " ", one.headers) or True)
    secret, now = sent[0].secret, datetime.now(UTC)
    headers = {
        f"{prefix}-id": "msg_1", f"{prefix}-timestamp": str(int(now.timestamp())),
        f"{prefix}-signature": hook(secret).sign("msg_1", now, BODY.decode()),
    }  # fmt: skip
    assert taken(profile, secret, BODY, headers)
    assert not taken(profile, secret, BODY + b" ", headers)


def test_slack() -> None:
    verifier = sdk("slack_sdk.signature", "slack-sdk").SignatureVerifier
    agree(simulated("slack"), lambda s: verifier(s.secret).is_valid_request(s.body, s.headers))
    now = str(int(time.time()))
    signature = verifier("secret").generate_signature(timestamp=now, body=BODY)
    assert taken("slack", "secret", BODY, {"X-Slack-Request-Timestamp": now, "X-Slack-Signature": signature})


def test_twilio_forms() -> None:
    validator = sdk("twilio.request_validator", "twilio").RequestValidator

    def check(sent: Sent) -> object:
        params = dict(parse_qsl(sent.text, keep_blank_values=True))
        return validator(sent.secret).validate(sent.url, params, sent.headers["x-twilio-signature"])

    agree(simulated("twilio", "/in?x=1"), check)
    form = {"From": "+46700000001", "Body": "Hej å"}
    signature = validator("token").compute_signature(f"{BASE}/in?x=1", form)
    headers = {"X-Twilio-Signature": signature, "Content-Type": "application/x-www-form-urlencoded"}
    assert taken("twilio", "token", urlencode(form).encode(), headers, query="x=1")
    assert not taken("twilio", "token", urlencode(form).encode() + b"&y=1", headers, query="x=1")


def test_twilio_json() -> None:
    validator = sdk("twilio.request_validator", "twilio").RequestValidator
    profile = CATALOG.load("twilio")
    from kafka_webhook_bridge.sources.verify.sign import compile_signer

    identity = make_identity(profile.verify)
    lines = [(b"Content-Type", b"application/json")]
    request = compile_signer(profile.verify, identity, public_url=BASE)(
        Request(b"POST", b"/in", None, lines, BODY, ""), time.time(), "u" * 32
    )
    assert request.query is not None
    url = f"{BASE}/in?{request.query.decode()}"
    signature = dict(request.headers)[b"X-Twilio-Signature"].decode()
    assert validator(identity.secret).validate(url, BODY.decode(), signature)
    assert not validator(identity.secret).validate(url, BODY.decode() + " ", signature)


def test_gidgethub() -> None:
    sansio = sdk("gidgethub.sansio", "gidgethub")

    def check(sent: Sent) -> bool:
        event = sansio.Event.from_http(sent.headers, sent.body, secret=sent.secret)
        return event.delivery_id == sent.headers["x-github-delivery"]

    agree(simulated("github"), check)


def test_discord() -> None:
    verify_key = sdk("discord_interactions", "discord-interactions").verify_key

    def check(sent: Sent) -> object:
        signature, timestamp = sent.headers["x-signature-ed25519"], sent.headers["x-signature-timestamp"]
        return verify_key(sent.body, signature, timestamp, sent.secret)

    agree(simulated("discord"), check)
    key = sdk("nacl.signing", "PyNaCl").SigningKey.generate()
    now = str(int(time.time()))
    headers = {"X-Signature-Timestamp": now, "X-Signature-Ed25519": key.sign(now.encode() + BODY).signature.hex()}
    profile = CATALOG.load("discord")
    public = bytes(key.verify_key).hex()
    verify = compile_verifier(profile, [public], params={}, public_url=BASE, keys=Identity("").keys)
    lines = [(name.encode(), value.encode()) for name, value in headers.items()]
    assert verify(Request(b"POST", b"/in", None, lines, BODY, ""), None, time.time()).ok
    assert not verify(Request(b"POST", b"/in", None, lines, BODY + b" ", ""), None, time.time()).ok


def test_razorpay() -> None:
    utility = sdk("razorpay.utility.utility", "razorpay").Utility()

    def check(sent: Sent) -> object:
        return utility.verify_webhook_signature(sent.text, sent.headers["x-razorpay-signature"], sent.secret)

    agree(simulated("razorpay"), check)


def test_adyen_notifications() -> None:
    util = sdk("Adyen.util", "Adyen")
    for sent in simulated("adyen-standard"):
        document = json.loads(sent.body)
        assert util.is_valid_hmac_notification(document, sent.secret)
        document["notificationItems"][0]["NotificationRequestItem"]["amount"]["value"] += 1
        assert not util.is_valid_hmac_notification(document, sent.secret)
    item = {
        "pspReference": "7914073381342284", "merchantAccountCode": "TestMerchant", "merchantReference": "A-1",
        "amount": {"value": 1130, "currency": "EUR"}, "eventCode": "AUTHORISATION", "success": "true",
    }  # fmt: skip
    signature = util.generate_notification_sig(item, "44" * 32).decode()
    item["additionalData"] = {"hmacSignature": signature}
    body = json.dumps({"live": "false", "notificationItems": [{"NotificationRequestItem": item}]}).encode()
    assert taken("adyen-standard", "44" * 32, body, {})
    assert not taken("adyen-standard", "44" * 32, body.replace(b"1130", b"1131"), {})


def test_adyen_payloads() -> None:
    util = sdk("Adyen.util", "Adyen")
    agree(
        simulated("adyen-payload"), lambda s: util.is_valid_hmac_payload(s.headers["hmacsignature"], s.secret, s.body)
    )
    assert taken(
        "adyen-payload", "44" * 32, BODY, {"HmacSignature": util.generate_payload_sig(BODY, "44" * 32).decode()}
    )


def test_braintree() -> None:
    braintree = sdk("braintree", "braintree")

    def gateway(secret: str) -> Any:
        public, _, private = secret.partition("|")
        return braintree.BraintreeGateway(
            braintree.Configuration(braintree.Environment.Sandbox, "merchant", public, private)
        )

    for sent in simulated("braintree"):
        form = dict(parse_qsl(sent.text))
        found = gateway(sent.secret).webhook_notification.parse(form["bt_signature"], form["bt_payload"])
        assert f"<kind>{found.kind}</kind>".encode() in base64.b64decode(form["bt_payload"])
        assert refuses(
            lambda form=form, sent=sent: gateway(sent.secret).webhook_notification.parse(
                form["bt_signature"], "A" + form["bt_payload"]
            )
        )
    kind = braintree.WebhookNotification.Kind.SubscriptionWentPastDue
    theirs = gateway("public|private").webhook_testing.sample_notification(kind, "my_id")
    body = urlencode(theirs).encode()
    form_type = {"Content-Type": "application/x-www-form-urlencoded"}
    assert taken("braintree", "public|private", body, form_type)
    assert not taken("braintree", "public|other", body, form_type)


def test_sendgrid() -> None:
    webhook = sdk("sendgrid.helpers.eventwebhook", "sendgrid").EventWebhook

    def check(sent: Sent) -> object:
        signature = sent.headers["x-twilio-email-event-webhook-signature"]
        timestamp = sent.headers["x-twilio-email-event-webhook-timestamp"]
        return webhook(sent.secret).verify_signature(sent.text, signature, timestamp)

    agree(simulated("sendgrid"), check)


def test_paddle() -> None:
    verifier = sdk("paddle_billing.Notifications", "paddle-python-sdk").Verifier
    secret = sdk("paddle_billing.Notifications", "paddle-python-sdk").Secret

    def check(sent: Sent) -> object:
        request = SimpleNamespace(headers={"Paddle-Signature": sent.headers["paddle-signature"]}, body=sent.body)
        return verifier(300).verify(request, secret(sent.secret))

    agree(simulated("paddle"), check)


def test_coinbase_commerce() -> None:
    signature = sdk("coinbase_commerce.webhook", "coinbase-commerce").WebhookSignature
    agree(
        simulated("coinbase-commerce"),
        lambda s: signature.verify_sig_header(s.text, s.headers["x-cc-webhook-signature"], s.secret),
    )
    mine = signature._compute_signature(BODY.decode(), "secret")
    assert taken("coinbase-commerce", "secret", BODY, {"X-CC-Webhook-Signature": mine})


def test_mercado_pago() -> None:
    module = sdk("mercadopago.webhook.validator", "mercadopago")

    def check(sent: Sent, data_id: str = "") -> object:
        query = dict(parse_qsl(sent.url.partition("?")[2]))
        return module.WebhookSignatureValidator.validate(
            sent.headers["x-signature"], sent.headers["x-request-id"], data_id or query["data.id"], sent.secret
        )

    for sent in simulated("mercado-pago", "/in?data.id=123456"):
        assert check(sent) is None
        assert refuses(lambda sent=sent: check(sent, "123457") or True)


def test_mailtrap() -> None:
    verify = sdk("mailtrap.webhooks", "mailtrap").verify_signature
    agree(simulated("mailtrap"), lambda s: verify(s.body, s.headers["mailtrap-signature"], s.secret))


@pytest.mark.parametrize(("profile", "algorithm"), [("cloudinary", "sha1"), ("cloudinary-sha256", "sha256")])
def test_cloudinary(profile: str, algorithm: str) -> None:
    cloudinary, utils = sdk("cloudinary", "cloudinary"), sdk("cloudinary.utils", "cloudinary")

    def check(sent: Sent) -> object:
        cloudinary.config(api_secret=sent.secret)
        timestamp, signature = sent.headers["x-cld-timestamp"], sent.headers["x-cld-signature"]
        return utils.verify_notification_signature(sent.text, timestamp, signature, algorithm=algorithm)

    try:
        agree(simulated(profile), check)
    finally:
        cloudinary.reset_config()


TOKENS = [
    ("netlify", "HS256", "x-webhook-signature"), ("livekit", "HS256", "authorization"),
    ("plaid", "ES256", "plaid-verification"),
    ("gcp-pubsub", "RS256", "authorization"), ("fusionauth", "HS256", "x-fusionauth-signature-jwt"),
]  # fmt: skip


@pytest.mark.parametrize(("profile", "algorithm", "header"), TOKENS)
def test_tokens_by_pyjwt(profile: str, algorithm: str, header: str) -> None:
    jwt = sdk("jwt", "PyJWT")
    for sent in simulated(profile):
        token = sent.headers[header].removeprefix("Bearer ")
        key = jwt.PyJWK(dict(sent.identity.jwks[0]), algorithm).key if sent.identity.jwks else sent.secret

        def read(text: str, key: Any = key) -> Any:
            return jwt.decode(text, key, algorithms=[algorithm], options={"verify_aud": False})

        assert read(token)["exp"] > time.time()
        assert refuses(lambda token=token, read=read: read(token[:-4] + "AAAA"))


def test_a_token_of_pyjwt_is_taken() -> None:
    import hashlib

    jwt = sdk("jwt", "PyJWT")
    claims = {"iss": "netlify", "sha256": hashlib.sha256(BODY).hexdigest()}
    token = jwt.encode(claims, "a-secret-of-at-least-32-bytes-for-hs", "HS256")
    assert taken("netlify", "a-secret-of-at-least-32-bytes-for-hs", BODY, {"X-Webhook-Signature": token})
    assert not taken("netlify", "a-secret-of-at-least-32-bytes-for-hs", BODY + b" ", {"X-Webhook-Signature": token})
