"""The `verify` table of a profile as data: every word of the language, and every mistake that can be found at load.

One model for each `scheme`. A signed text is a template (template.py); where signatures and times stand is said by
`signature` and `timestamp`. Defaults are the strict ones: a window that is not said to be one-sided is two-sided.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    WithJsonSchema,
    model_validator,
)

from kafka_webhook_bridge.sources.verify.template import Template, parse_signed

Hash = Literal["md5", "sha1", "sha256", "sha384", "sha512"]
Encoding = Literal["hex", "base64", "base64url", "base64-of-hex"]
KeyEncoding = Literal["utf8", "base64", "hex", "pem", "spki-base64"]
JwtAlgorithm = Literal[
    "HS256", "HS384", "HS512", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"
]
Code = Literal[
    "adyen", "braintree", "contentful", "ebay", "exactonline", "paypal", "plivo3", "segment", "sinch", "sns", "twilio",
    "unisender",
]  # fmt: skip

WINDOW_S_MAX = 7 * 24 * 3600
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110, token
_PARAM = re.compile(r"\{(?:param(?::([A-Za-z0-9_]+))?|url)\}")


def _as_list(value: object) -> object:
    return [value] if isinstance(value, str) else value


def _signed(text: str) -> str:
    parse_signed(text)
    return text


def _pattern(text: str) -> str:
    try:
        pattern = re.compile(text.encode())
    except re.error as error:
        raise ValueError(f"no regular expression: {error}") from None
    if pattern.groups:
        raise ValueError("write (?:…) for a group")
    return text


def _header(name: str) -> str:
    if not _HEADER_NAME.fullmatch(name):
        raise ValueError(f"{name!r} cannot be the name of a header")
    return name


def _numbered(text: str) -> str:
    before, mark, after = text.partition("{n}")
    if not mark or after or not _HEADER_NAME.fullmatch(before):
        raise ValueError(f"{text!r} must be the name of a header that ends in {{n}}")
    return text


def _path(text: str) -> str:
    if "" in text.split("."):
        raise ValueError(f"{text!r} has an empty step")
    return text


def _value(text: str) -> str:
    if not text or ("{" in text and not _PARAM.fullmatch(text)):
        raise ValueError(f"{text!r} is neither plain text nor {{param}}, {{param:name}} or {{url}}")
    return text


Pattern = Annotated[str, AfterValidator(_pattern)]
Header = Annotated[str, AfterValidator(_header)]
JsonPath = Annotated[str, AfterValidator(_path)]
TEXT_OR_LIST = WithJsonSchema(
    {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}]}
)
Templates = Annotated[
    list[Annotated[str, AfterValidator(_signed)]], Field(min_length=1), BeforeValidator(_as_list), TEXT_OR_LIST
]
Values = Annotated[
    list[Annotated[str, AfterValidator(_value)]], Field(min_length=1), BeforeValidator(_as_list), TEXT_OR_LIST
]
Text = Annotated[str, Field(min_length=1)]
Seconds = Annotated[float, Field(gt=0, le=WINDOW_S_MAX, allow_inf_nan=False)]


class Model(BaseModel):
    """What all tables share: no unknown words, no other types than those written, nothing changes later."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, hide_input_in_errors=True)


class Place(Model):
    """Where a value stands: a header, a query parameter or form field by `name`, a JSON member by `path`."""

    from_: Literal["header", "query", "form", "json", "body"] = Field(alias="from", description="Part of the request.")
    name: Text | None = Field(default=None, description="Header, query parameter or form field.")
    path: JsonPath | None = Field(default=None, description="Member of the JSON body, such as `event.hash`.")
    strip_prefix: Text | None = Field(
        default=None, description="What stands before it, such as `Bearer `; without it the value does not count."
    )

    @model_validator(mode="after")
    def _complete(self) -> Place:
        if (self.path is not None) != (self.from_ == "json"):
            raise ValueError("`path` belongs to from = json, and only there")
        if (self.name is not None) != (self.from_ in ("header", "query", "form")):
            raise ValueError("`name` belongs to from = header, query or form, and only there")
        if self.from_ == "header":
            _header(self.name or "")
        return self


class Signature(Place):
    """Where the signatures stand and how they are written."""

    encoding: Encoding = Field(description="How a signature is written.")
    prefix: Text | None = Field(default=None, description="Text before each signature; others do not count.")
    prefix_pattern: Pattern | None = Field(default=None, description="The same as a regular expression.")
    also: list[Header] = Field(default_factory=list, description="More headers that may hold signatures.")
    also_pattern: Annotated[str, AfterValidator(_numbered)] | None = Field(
        default=None, description="Numbered headers, such as `x-docusign-signature-{n}`, n from 1 to 100."
    )
    separator: Text | None = Field(default=None, description="Text between the items of a list.")
    separator_pattern: Pattern | None = Field(default=None, description="The same as a regular expression.")
    pair: Text | None = Field(default=None, description="Text between the name and the value of an item.")
    field: Text | None = Field(default=None, description="Name of the items that are signatures; `*`: a hash's name.")
    first_is_timestamp: bool = Field(default=False, description="The list is a time, then signatures.")

    @model_validator(mode="after")
    def _fits(self) -> Signature:
        if (self.also or self.also_pattern) and self.from_ != "header":
            raise ValueError("`also` and `also_pattern` are for headers")
        if self.separator and self.separator_pattern:
            raise ValueError("either `separator` or `separator_pattern`")
        if self.prefix and self.prefix_pattern:
            raise ValueError("either `prefix` or `prefix_pattern`")
        if (self.pair is None) != (self.field is None):
            raise ValueError("`pair` and `field` belong together")
        if self.pair and (self.prefix or self.prefix_pattern or self.first_is_timestamp):
            raise ValueError("`pair` names the signatures; no prefix or place can")
        if self.first_is_timestamp and not (self.separator or self.separator_pattern):
            raise ValueError("`first_is_timestamp` needs a `separator`")
        return self


class Timestamp(Model):
    """The time that the signature covers. Without `past_s` there is no window, but it must still be well-formed."""

    from_: Literal["header", "query", "form", "json", "sigfield"] = Field(
        alias="from", description="Part of the request; `sigfield`: an item of the signature header."
    )
    name: Text | None = Field(default=None, description="Header, query parameter or form field.")
    path: JsonPath | None = Field(default=None, description="Member of the JSON body.")
    field: Text | None = Field(default=None, description="Item of the signature header.")
    format: Literal["unix", "unix_ms", "unix_auto", "iso8601", "http-date"] = Field(
        default="unix", description="Seconds, milliseconds, either of both by size, RFC 3339, or an HTTP date."
    )
    past_s: Seconds | None = Field(default=None, description="Oldest age. Default: any.")
    future_s: Annotated[float, Field(ge=0, le=WINDOW_S_MAX, allow_inf_nan=False)] | Literal["any"] | None = Field(
        default=None, description="How far ahead of the clock it may be. Default: as `past_s`; `any`: no limit."
    )

    @model_validator(mode="after")
    def _complete(self) -> Timestamp:
        if (self.path is not None) != (self.from_ == "json"):
            raise ValueError("`path` belongs to from = json, and only there")
        if (self.field is not None) != (self.from_ == "sigfield"):
            raise ValueError("`field` belongs to from = sigfield, and only there")
        if (self.name is not None) != (self.from_ in ("header", "query", "form")):
            raise ValueError("`name` belongs to from = header, query or form, and only there")
        if self.from_ == "header":
            _header(self.name or "")
        return self


class Key(Model):
    """How the text of a secret becomes a key, or where public keys come from."""

    from_: Literal["secret", "jwks"] = Field(default="secret", alias="from", description="`jwks`: fetched public keys.")
    encoding: KeyEncoding | None = Field(
        default=None, description="How the secret is written. Default: utf8 for shared secrets, pem for public keys."
    )
    strip_prefix: Text | None = Field(default=None, description="Text before the key, such as `whsec_`; it may lack.")
    suffix: Text | None = Field(default=None, description="Text to put behind the secret.")
    hash: Hash | None = Field(default=None, description="The key is this hash of the secret.")
    url: Annotated[str, Field(pattern="^https://")] | None = Field(default=None, description="Address of the JWKS.")
    param: Text | None = Field(default=None, description="Parameter of the source that holds the address of the JWKS.")

    @model_validator(mode="after")
    def _fits(self) -> Key:
        if self.from_ == "jwks":
            if (self.url is None) == (self.param is None):
                raise ValueError("a JWKS has either `url` or `param`")
            if self.encoding or self.strip_prefix or self.suffix or self.hash:
                raise ValueError("keys of a JWKS have no encoding, strip_prefix, suffix or hash")
        elif self.url or self.param:
            raise ValueError("`url` and `param` are for from = jwks")
        return self


class KeySelect(Model):
    """A header that names the secret: secrets are then `id:secret`. One without an id serves every id."""

    header: Header = Field(description="Header with the id of the key.")


class BodyClaim(Model):
    """A claim that holds the hash of the body."""

    claim: Text = Field(description="Name of the claim.")
    hash: Literal["sha256", "sha384", "sha512"] = Field(default="sha256", description="Hash of the body.")
    encoding: Literal["hex", "base64", "base64url"] = Field(default="hex", description="How the hash is written.")
    only_if_claim: bool = Field(default=False, description="A token without the claim covers no body.")
    optional_if_empty: bool = Field(default=False, description="An empty body needs no claim.")


class UrlClaim(Model):
    """A claim that holds the address, or its hash."""

    claim: Text = Field(description="Name of the claim.")
    hash: Literal["none", "sha256", "sha384", "sha512"] = Field(default="sha256", description="Hash of the address.")


class _Signed(Model):
    signature: Signature = Field(description="Where the signatures stand.")
    signed: Templates = Field(description="The signed text; of several, each is tried.")
    timestamp: Timestamp | None = Field(default=None, description="The signed time.")
    key_select: KeySelect | None = Field(default=None, description="Header that names the secret.")
    json_field: Text | None = Field(default=None, description="Field of a form or multipart body that holds the JSON.")

    @model_validator(mode="after")
    def _agrees(self) -> _Signed:
        templates = [parse_signed(text) for text in self.signed]
        uses_ts = any(template.uses("ts") for template in templates)
        if uses_ts and self.timestamp is None:
            raise ValueError("`signed` has {ts}, but there is no `timestamp`")
        time = self.timestamp
        if time is not None and time.from_ == "sigfield":
            if self.signature.first_is_timestamp != (self.signature.pair is None):
                raise ValueError("`timestamp` is an item of a header without items")
        elif self.signature.first_is_timestamp:
            raise ValueError("`first_is_timestamp` needs a `timestamp` with from = sigfield")
        if time is not None and time.format == "unix_auto" and any(template.touches_time for template in templates):
            raise ValueError("a time of free length must stand between literal text")
        if not uses_ts and time is not None and not _covers(templates, time):
            raise ValueError("`signed` does not hold the time; a time that is not signed proves nothing")
        if self.signature.from_ == "body":
            raise ValueError("a body that is a signature signs nothing")
        return self


def _covers(templates: list[Template], time: Timestamp) -> bool:
    """Whether a signed text without {ts} holds the time all the same: inside the body, or as a header."""
    if time.from_ in ("json", "form"):
        whole = {"body", "body_b64", "body_ascii", "body_sha256_hex", "body_md5_b64", "body_crc32", "body_json_string"}
        return all(any(template.uses(item) for item in whole) for template in templates)
    if time.from_ == "header":
        return all(template.uses("header", (time.name or "").lower()) for template in templates)
    return False


class Hmac(_Signed):
    """HMAC of a signed text. `hash = "by_field"`: the item's name chooses among `hashes`."""

    scheme: Literal["hmac"]
    hash: Hash | Literal["by_field"] = Field(description="Hash.")
    hashes: list[Hash] = Field(default_factory=list, description="What `by_field` may choose.")
    body: Literal["json"] | None = Field(
        default=None,
        description="The body must be a JSON object or array: where a hand-shake signs texts that strangers choose, "
        "which these never are.",
    )
    key: Key = Field(default_factory=Key, description="How a secret becomes a key.")

    @model_validator(mode="after")
    def _hashes(self) -> Hmac:
        by_field = self.hash == "by_field"
        if by_field != bool(self.hashes) or by_field != (self.signature.field == "*"):
            raise ValueError("hash = by_field, `hashes` and signature.field = * belong together")
        if self.key.from_ == "jwks" or self.key.encoding in ("pem", "spki-base64"):
            raise ValueError("an HMAC has a shared secret, no public key")
        if any(parse_signed(text).uses("secret") for text in self.signed):
            raise ValueError("{secret} is for scheme = digest")
        return self


class Digest(_Signed):
    """Plain hash of a text that holds the secret."""

    scheme: Literal["digest"]
    hash: Hash = Field(description="Hash.")

    @model_validator(mode="after")
    def _secret(self) -> Digest:
        if not all(parse_signed(text).uses("secret") for text in self.signed):
            raise ValueError("a digest without {secret} could be made by anybody")
        if self.signature.field == "*":
            raise ValueError("signature.field = * belongs to hash = by_field")
        return self


class Asymmetric(_Signed):
    """Signature with a private key, checked with public ones."""

    scheme: Literal[
        "ed25519", "ecdsa-p256-sha1", "ecdsa-p256-sha256", "rsa-sha1", "rsa-sha256", "rsa-sha512", "rsa-pss-sha256"
    ]
    key: Key = Field(default_factory=Key, description="How public keys are written, or where they come from.")

    @model_validator(mode="after")
    def _public(self) -> Asymmetric:
        if self.key.suffix or self.key.hash or self.key.encoding == "utf8":
            raise ValueError("a public key is pem, spki-base64, or the bytes of Ed25519 in hex or base64")
        if self.key.encoding in ("hex", "base64") and self.scheme != "ed25519":
            raise ValueError("keys in hex or base64 are for ed25519; others are pem or spki-base64")
        if any(parse_signed(text).uses("secret") for text in self.signed):
            raise ValueError("{secret} is for scheme = digest")
        if self.signature.field == "*":
            raise ValueError("signature.field = * belongs to hash = by_field")
        return self


class Token(Model):
    """A fixed text, the secret itself."""

    scheme: Literal["token"]
    signature: Place = Field(description="Where the token stands.")
    json_field: Text | None = Field(default=None, description="Field of a form or multipart body that holds the JSON.")


class TokenEach(Model):
    """A fixed text in every element of an array of the body."""

    scheme: Literal["token_each"]
    array: JsonPath = Field(description="Path of the array.")
    field: Text = Field(description="Member of each element.")


class Basic(Model):
    """Basic authentication (RFC 7617); a secret is `user:password`."""

    scheme: Literal["basic"]


class Open(Model):
    """Anybody may send."""

    scheme: Literal["none"]


class Jwt(Model):
    """A JSON Web Token (RFC 7519)."""

    scheme: Literal["jwt"]
    signature: Place = Field(description="Where the token stands.")
    algorithms: Annotated[list[JwtAlgorithm], Field(min_length=1)] = Field(description="Algorithms that are accepted.")
    key: Key = Field(default_factory=Key, description="How secrets are written, or where public keys come from.")
    issuer: Values | None = Field(default=None, description="Issuers; `{param}` is the parameter `issuer`.")
    audience: Values | None = Field(
        default=None, description="Audiences; `{param}` is the parameter `audience`, `{url}` the address."
    )
    leeway_s: Annotated[float, Field(ge=0, le=300, allow_inf_nan=False)] = Field(
        default=0.0, description="How far clocks may lie apart."
    )
    require_expiry: bool = Field(default=False, description="A token without `exp` is refused.")
    age_max_s: Seconds | None = Field(default=None, description="Largest age by `iat`.")
    claims: list[Text] = Field(
        default_factory=list,
        description="Claims that must be there, where the sender's keys sign tokens for other purposes, too.",
    )
    email_param: bool = Field(default=False, description="`email` must be the parameter `email`, and verified.")
    body_claim: BodyClaim | None = Field(default=None, description="Claim with the hash of the body.")
    url_claim: UrlClaim | None = Field(default=None, description="Claim with the address.")
    json_field: Text | None = Field(default=None, description="Field of a form or multipart body that holds the JSON.")

    @model_validator(mode="after")
    def _one_kind(self) -> Jwt:
        _one_kind(self.algorithms, self.key)
        return self


class JwsDetached(Model):
    """A signature of the body in JWS compact form without payload (RFC 7515 appendix F, RFC 7797)."""

    scheme: Literal["jws_detached"]
    signature: Place = Field(description="Where the signature stands.")
    algorithms: Annotated[list[JwtAlgorithm], Field(min_length=1)] = Field(description="Algorithms that are accepted.")
    key: Key = Field(default_factory=Key, description="How secrets are written, or where public keys come from.")

    @model_validator(mode="after")
    def _one_kind(self) -> JwsDetached:
        _one_kind(self.algorithms, self.key)
        if self.signature.from_ == "body":
            raise ValueError("a body that is a signature signs nothing")
        return self


def _one_kind(algorithms: list[JwtAlgorithm], key: Key) -> None:
    kinds = {"shared" if name.startswith("HS") else "public" for name in algorithms}
    if len(kinds) > 1:
        raise ValueError("`algorithms` mixes shared secrets (HS…) and public keys; one could be taken for the other")
    if kinds == {"shared"} and (key.from_ == "jwks" or key.encoding in ("pem", "spki-base64")):
        raise ValueError("HS… has a shared secret, no public key")
    if kinds == {"public"} and (key.suffix or key.hash or key.encoding in ("utf8", "base64", "hex")):
        raise ValueError("a public key is pem or spki-base64")


class Named(Model):
    """A scheme that data cannot say, in code (named.py)."""

    scheme: Literal["named"]
    code: Code = Field(description="Which.")
    past_s: Seconds | None = Field(default=None, description="Oldest age, where the scheme signs a time.")
    future_s: Annotated[float, Field(ge=0, le=WINDOW_S_MAX)] | None = Field(
        default=None, description="How far ahead of the clock. Default: as `past_s`."
    )

    @model_validator(mode="after")
    def _window(self) -> Named:
        if (self.past_s is not None) != (self.code in ("contentful", "sinch")):
            raise ValueError("`past_s` belongs to contentful and sinch, and only there")
        if self.future_s is not None and self.past_s is None:
            raise ValueError("`future_s` without `past_s`")
        return self


class AnyOf(Model):
    """One of several ways is enough."""

    scheme: Literal["any"]
    of: Annotated[list[Verify], Field(min_length=2, max_length=5)] = Field(description="The ways.")


class AllOf(Model):
    """All of several ways are needed."""

    scheme: Literal["all"]
    of: Annotated[list[Verify], Field(min_length=2, max_length=5)] = Field(description="The ways.")


Verify = Annotated[
    Hmac | Digest | Asymmetric | Token | TokenEach | Basic | Open | Jwt | JwsDetached | Named | AnyOf | AllOf,
    Field(discriminator="scheme"),
]
AnyOf.model_rebuild()
AllOf.model_rebuild()
ADAPTER: TypeAdapter[Verify] = TypeAdapter(Verify)


def parse_verify(table: Any) -> Verify:
    """The model of a `verify` table, which may be one already. Raises pydantic's ValidationError, a ValueError."""
    return ADAPTER.validate_python(table)
