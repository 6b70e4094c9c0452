"""The console: three pages without JavaScript and the same as JSON under /api/v1. It reads, and changes nothing.

/             /api/v1/status         health, outbox, archive
/events       /api/v1/events         a search, page by page
/events/ID    /api/v1/events/ID      one event;  /events/ID/body  its bytes, never to be rendered
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.resources import files
from typing import Any
from urllib.parse import urlencode

import jinja2
import orjson
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import BaseRoute, Route

from kafka_webhook_bridge import ids
from kafka_webhook_bridge.console.look import Look
from kafka_webhook_bridge.errors import KwbError, NotFoundError, StoreError, UsageError
from kafka_webhook_bridge.settings import Settings
from kafka_webhook_bridge.store import Store, events
from kafka_webhook_bridge.store.events import Search
from kafka_webhook_bridge.times import iso, moment

PAGE_EVENTS, PAGE_EVENTS_MAX = 50, 200
TEXT_BYTES_MAX = 64 * 1024  # of a body shown in a page; all of it is a download
_FIELDS = ("source", "type", "key", "json", "since", "until", "after", "limit")
_HIDDEN = ("body", "body_json", "headers", "marks", "key_bytes")


class Site:
    """Pages and API over a Store that is open."""

    def __init__(self, settings: Settings, store: Store) -> None:
        self._store = store
        self.look = Look(settings, store)
        folder = files(__package__).joinpath("pages")
        names = ("layout.html", "status.html", "events.html", "event.html", "problem.html")
        pages = {name: folder.joinpath(name).read_text(encoding="utf-8") for name in names}
        self._style = folder.joinpath("style.css").read_bytes()
        self._pages = jinja2.Environment(
            loader=jinja2.DictLoader(pages), autoescape=True, undefined=jinja2.StrictUndefined
        )

    def routes(self) -> list[BaseRoute]:
        answers = (
            ("/", "status", self._status),
            ("/events", "events", self._events),
            ("/events/{id}", "event", self._event),
        )
        found: list[BaseRoute] = [Route("/style.css", self._css), Route("/events/{id}/body", self._body)]
        for path, page, find in answers:
            api = "/api/v1" + ("/status" if path == "/" else path)
            found += [Route(path, self._page(page, find)), Route(api, self._api(find))]
        return found

    def _page(self, page: str, find: Any) -> Any:
        async def answer(request: Request) -> Response:
            try:
                found = await find(request)
            except KwbError as error:
                return self._html("problem", _status_of(error), message=error.message, hint=error.hint)
            return self._html(page, **found)

        return answer

    def _api(self, find: Any) -> Any:
        async def answer(request: Request) -> Response:
            try:
                found = await find(request)
            except KwbError as error:
                status = _status_of(error)
                problem = {
                    "type": "about:blank", "title": error.message, "status": status, "code": error.code,
                    "detail": error.hint,
                }  # fmt: skip
                return Response(orjson.dumps(problem), status, media_type="application/problem+json")
            shown = {name: value for name, value in found.items() if not name.startswith("_")}
            return Response(orjson.dumps(shown, default=str), media_type="application/json")

        return answer

    def _html(self, page: str, code: int = 200, /, **values: Any) -> Response:
        return HTMLResponse(self._pages.get_template(f"{page}.html").render(values), code)

    async def _css(self, _request: Request) -> Response:
        return Response(self._style, media_type="text/css")

    async def _status(self, _request: Request) -> dict[str, Any]:
        return await self.look.status()

    async def _events(self, request: Request) -> dict[str, Any]:
        given = {name: request.query_params.get(name, "").strip() for name in _FIELDS}
        now = datetime.now(UTC)
        wanted = _search(given, now).bounded(now)
        rows = await events.search(self._store, wanted)
        last = str(rows[-1]["event_id"]) if len(rows) == wanted.limit else None
        # Times are written out, so that all pages are of one search.
        times = {name: iso(t) for name, t in (("since", wanted.since), ("until", wanted.until)) if t}
        following = {**given, **times, "after": last or ""}
        return {
            "events": [_plain(row) for row in rows],
            "since": times.get("since"),
            "next_after": last,
            "_given": given,
            "_next": "/events?" + urlencode({k: v for k, v in following.items() if v}) if last else "",
        }

    async def _event(self, request: Request) -> dict[str, Any]:
        row = await self._get(request)
        body = bytes(row["body"])
        try:
            text = body[:TEXT_BYTES_MAX].decode(errors="strict" if len(body) <= TEXT_BYTES_MAX else "ignore")
        except UnicodeDecodeError:
            text = ""
        return {
            "event": _plain({name: value for name, value in row.items() if name not in _HIDDEN}),
            "headers": json.loads(row["headers"]),
            "body_bytes": len(body),
            "body_text": text,
            "body_complete": len(text.encode()) == len(body),
        }

    async def _body(self, request: Request) -> Response:
        """As it came. A browser saves it and does not look into it."""
        try:
            row = await self._get(request)
        except KwbError as error:
            return self._html("problem", _status_of(error), message=error.message, hint=error.hint)
        headers = {
            "content-security-policy": "sandbox; default-src 'none'",
            "content-disposition": f'attachment; filename="{row["event_id"]}.bin"',
        }
        return Response(bytes(row["body"]), headers=headers, media_type="application/octet-stream")

    async def _get(self, request: Request) -> Mapping[str, Any]:
        row = await events.get(self._store, _event_id(request.path_params["id"]))
        if row is None:
            raise NotFoundError(
                "There is no such event in the archive.", hint="It follows Kafka within about a second."
            )
        return row


def _status_of(error: KwbError) -> int:
    return {UsageError: 400, NotFoundError: 404, StoreError: 503}.get(type(error), 503)


def _event_id(text: str) -> uuid.UUID:
    found = ids.parse(text.lower())
    if found is None:
        raise UsageError("That is not an event id.", hint="They look like 019a2f4e-5b6c-7d8e-9f01-23456789abcd.")
    return found


def _search(given: Mapping[str, str], now: datetime) -> Search:
    """Raises UsageError for what cannot be searched for."""
    limit = given["limit"] or str(PAGE_EVENTS)
    if not (limit.isascii() and limit.isdigit() and len(limit) < 5 and 1 <= int(limit) <= PAGE_EVENTS_MAX):
        raise UsageError(f"limit is from 1 to {PAGE_EVENTS_MAX}.")
    if given["json"]:
        try:
            value = orjson.loads(given["json"])
        except (ValueError, UnicodeEncodeError):
            raise UsageError("json is not JSON.", hint='For example {"order": {"id": 1234}}.') from None
        if b"\\u0000" in orjson.dumps(value):
            raise UsageError("json has a U+0000, which PostgreSQL cannot keep in JSON: nothing contains it.")
    return Search(
        source=given["source"] or None,
        type=given["type"] or None,
        key=given["key"] or None,
        json=given["json"] or None,
        since=moment("since", given["since"], now) if given["since"] else None,
        until=moment("until", given["until"], now) if given["until"] else None,
        after=_event_id(given["after"]) if given["after"] else None,
        limit=int(limit),
    )


def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: iso(v) if isinstance(v, datetime) else str(v) if isinstance(v, uuid.UUID) else v
        for name, v in row.items()
    }
