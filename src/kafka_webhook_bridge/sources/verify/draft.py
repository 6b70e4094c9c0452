"""A request while it is being signed: the parts that a sender puts its signature, time and ids into."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode

from kafka_webhook_bridge.event import Request

FORM = b"application/x-www-form-urlencoded"


class Draft:
    """Starts as a request; `request` is what has become of it.

    `json_field` names the field of a form that holds the JSON (a row's `json_field`): JSON is changed inside, and the
    form is made around it, as multipart with the boundary `kwb-<unique>`. Raises ValueError where the body is not what
    it would have to be.
    """

    def __init__(self, request: Request, *, json_field: str | None = None, unique: str = "") -> None:
        self.method, self.path, self.query = request.method, request.path, request.query
        self.headers = list(request.headers)
        self.body = request.body
        self._peer = request.peer
        self._json_field = json_field
        self._boundary = f"kwb-{unique}"

    @property
    def request(self) -> Request:
        headers, body = self.headers, self.body
        if self._json_field is not None:
            body = _multipart(self._json_field, body, self._boundary)
            kind = f"multipart/form-data; boundary={self._boundary}".encode()
            headers = [*((n, v) for n, v in headers if n.lower() != b"content-type"), (b"Content-Type", kind)]
        return Request(self.method, self.path, self.query, headers, body, self._peer)

    # headers and query

    def header(self, name: str) -> bytes | None:
        """The first value of a header."""
        wanted = name.lower().encode()
        return next((value for line, value in self.headers if line.lower() == wanted), None)

    def set_header(self, name: str, value: bytes) -> None:
        """One line with that name, instead of those that there are."""
        wanted = name.lower().encode()
        self.headers = [(line, old) for line, old in self.headers if line.lower() != wanted]
        self.headers.append((name.encode(), value))

    def need_header(self, name: str, value: str) -> None:
        """The header, with `value` if it is not there or empty."""
        if not self.header(name):
            self.set_header(name, value.encode())

    def parameters(self) -> list[tuple[str, str]]:
        """Parameters of the query, decoded."""
        return parse_qsl((self.query or b"").decode("latin-1"), keep_blank_values=True)

    def set_parameter(self, name: str, value: str) -> None:
        """One parameter with that name, at the end of the query."""
        kept = [
            pair for pair in (self.query or b"").split(b"&") if pair and pair.partition(b"=")[0] != quote(name).encode()
        ]
        self.query = b"&".join([*kept, f"{quote(name)}={quote(value, safe='')}".encode()])

    # JSON

    def document(self) -> Any:
        """The JSON of the body; an empty object where there is no body."""
        if not self.body:
            return {}
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError):
            raise ValueError("the profile signs inside a JSON body, and this body is not JSON") from None

    def member(self, path: str) -> Any:
        """What stands at `a.b.0`; None where nothing does."""
        value = self.document()
        for step in path.split("."):
            if isinstance(value, dict):
                value = value.get(step)
            elif isinstance(value, list) and step.isdigit() and int(step) < len(value):
                value = value[int(step)]
            else:
                return None
        return value

    def set_member(self, path: str, value: Any) -> None:
        """Puts a value at `a.b`, objects made on the way. The body is written anew where that changes something."""
        document = inside = self.document()
        *steps, last = path.split(".")
        for step in steps:
            if isinstance(inside, list) and step.isdigit() and int(step) < len(inside):
                inside = inside[int(step)]
                continue
            if not isinstance(inside, dict):
                break
            if not isinstance(inside.get(step), (dict, list)):
                inside[step] = {}
            inside = inside[step]
        if not isinstance(inside, dict):
            raise ValueError(f"the profile signs the member {path}, and this body has no place for it")
        if inside.get(last) != value or type(inside.get(last)) is not type(value):
            inside[last] = value
            self.set_document(document)

    def set_document(self, document: Any) -> None:
        """The body becomes this JSON, without blanks."""
        self.body = json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()

    # forms

    @property
    def is_form(self) -> bool:
        return (self.header("Content-Type") or b"").lower().startswith(FORM)

    def fields(self) -> list[tuple[str, str]]:
        """Fields of an urlencoded body, decoded."""
        try:
            return parse_qsl(self.body.decode(), keep_blank_values=True) if self.is_form else []
        except UnicodeDecodeError:
            raise ValueError("the form is not UTF-8") from None

    def set_fields(self, pairs: list[tuple[str, str]]) -> None:
        """The body becomes this form."""
        self.body = urlencode(pairs).encode()
        self.set_header("Content-Type", FORM)

    def need_form(self, name: str) -> None:
        """A form; of another body, its text becomes the field `name`."""
        if not self.is_form:
            try:
                text = self.body.decode()
            except UnicodeDecodeError:
                raise ValueError("the profile signs a form, and this body is no text") from None
            self.set_fields([(name, text)])

    def set_field(self, name: str, value: str) -> None:
        """One field with that name."""
        pairs = [(field, old) for field, old in self.fields() if field != name]
        self.set_fields([*pairs, (name, value)])


def _multipart(name: str, content: bytes, boundary: str) -> bytes:
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n'
    return head.encode() + content + f"\r\n--{boundary}--\r\n".encode()
