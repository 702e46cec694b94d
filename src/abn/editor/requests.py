"""Checks what is asked of the server: by whom, and with which body."""

import json
import secrets
from typing import Any

import torch
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from torch import Tensor


class Guard:
    """Lets nobody ask for images or edits without the token, or from another page in the browser."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self.app, self.token = app, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request = Request(scope)
        if (problem := self._problem(request)) is not None:
            await JSONResponse({"error": problem}, status_code=403)(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["Content-Security-Policy"] = (
                    "default-src 'self'; img-src 'self' data:; frame-ancestors 'none'"
                )
                headers["X-Content-Type-Options"] = "nosniff"
                headers["Referrer-Policy"] = "no-referrer"  # the address holds the token
                headers["Cache-Control"] = "no-store"
            await send(message)

        await self.app(scope, receive, send_with_headers)

    def _problem(self, request: Request) -> str | None:
        headers: Headers = request.headers
        origin = headers.get("origin")
        if origin is not None and origin.partition("://")[2] != headers.get("host"):
            return f"asked for by a page of {origin}"
        if not request.scope["path"].startswith("/api/"):  # not request.url, which holds the Host header
            return None
        known = headers.get("x-token") or request.query_params.get("token") or ""
        if not secrets.compare_digest(known.encode(), self.token.encode()):
            return "the token is missing or wrong: open the page by the address that the command printed"
        return None


async def body_of(request: Request, most: int) -> dict[str, Any]:
    """Reads the JSON object in a request, of at most this number of bytes."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > most:
            raise HTTPException(413, f"the request has more than {most} bytes")
    try:
        values = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the request is not JSON: {error}") from error
    if not isinstance(values, dict):
        raise ValueError("the request is no JSON object")
    return values


def maps_in(body: dict[str, Any]) -> Tensor:
    """Returns the maps of a request as a tensor, of any shape."""
    try:
        return torch.tensor(body["maps"], dtype=torch.float32)
    except (KeyError, TypeError, ValueError, OverflowError, RuntimeError) as error:
        raise ValueError(f"the request holds no maps (T, h, w): {error!r}") from error


def revision_in(body: dict[str, Any]) -> int:
    """Returns the revision in a request, of the edit that it replaces."""
    revision = body.get("revision")
    if not isinstance(revision, int) or revision < 0:
        raise ValueError(f"revision is {revision!r}, expected a number of at least 0")
    return revision
