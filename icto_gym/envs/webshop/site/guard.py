"""What a request must be like before the site looks at it, and what every answer says about itself.

The site shows texts that strangers wrote and may run beside other pages of the same browser. So: no script at all
(``script-src`` falls back to ``'none'``), nothing from elsewhere, no framing; only requests for the site's own names
(against DNS rebinding), and forms only from its own pages (against forged requests).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

BODY_LIMIT = 64 * 1024
"""Bytes of a form."""
LONGEST_ADDRESS = 2_048
PATIENCE = 10.0
"""Seconds that a body may take to arrive."""
LOOPBACK_NAMES = ("127.0.0.1", "localhost", "[::1]")


def security_headers(pictures: bool) -> dict[str, str]:
    """Headers of every answer.

    Args:
        pictures: product pictures may be loaded from the addresses in the data.
    """
    images = "img-src 'self' https:" if pictures else "img-src 'self'"
    policy = f"default-src 'none'; style-src 'self'; {images}; form-action 'self'; frame-ancestors 'none'"
    return {
        "Content-Security-Policy": f"{policy}; base-uri 'none'",
        "X-Content-Type-Options": "nosniff",
        "X-Frame-Options": "DENY",
        "Referrer-Policy": "same-origin",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Cache-Control": "no-store",
    }


class Guard:
    """ASGI middleware around the whole site.

    Args:
        app: the site.
        hosts: names that a ``Host`` header may give, without a port.
        pictures: see `security_headers`.
    """

    def __init__(self, app: ASGIApp, hosts: Iterable[str], pictures: bool = False) -> None:
        self._app = app
        self._hosts = {host.lower() for host in hosts}
        self._headers = security_headers(pictures)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return

        async def marked(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(self._headers)
            await send(message)

        refusal = self._refusal(scope)
        await (self._app if refusal is None else refusal)(scope, receive, marked)

    def _refusal(self, scope: Scope) -> PlainTextResponse | None:
        headers = Headers(scope=scope)
        hosts = headers.getlist("host")
        if len(hosts) != 1 or host_name(hosts[0]) not in self._hosts:
            names = "This site does not answer to that Host name. Start it with --allow-host NAME to add one.\n"
            return PlainTextResponse(names, 400)
        if len(scope.get("raw_path", b"")) + len(scope.get("query_string", b"")) > LONGEST_ADDRESS:
            return PlainTextResponse("The address is too long.\n", 414)
        if scope["method"] not in ("GET", "HEAD") and not _from_here(headers, hosts[0]):
            return PlainTextResponse("Forms are taken from this site's own pages only.\n", 403)
        return None


def host_name(host: str) -> str:
    """The name in a ``Host`` header; ``""`` where it is none."""
    name, colon, port = host.lower().rpartition(":")
    if not colon or host.endswith("]"):
        return host.lower()
    return name if port.isdecimal() else ""


def _from_here(headers: Headers, host: str) -> bool:
    """A browser says where a form comes from; a program that says nothing is no browser misled by another page."""
    origin, site = headers.get("origin"), headers.get("sec-fetch-site")
    return origin in (None, f"http://{host}", f"https://{host}") and site in (None, "same-origin", "none")


async def read_body(request: Request, limit: int) -> bytes:
    """The body, refused as soon as it is too large (413) or too slow (408)."""
    declared = request.headers.get("content-length", "0")
    if not declared.isdecimal() or int(declared) > limit:
        raise HTTPException(413, f"A form may have {limit} bytes.")
    try:
        return await asyncio.wait_for(_collect(request, limit), PATIENCE)
    except asyncio.TimeoutError as error:
        raise HTTPException(408, "The form did not arrive in time.") from error


async def _collect(request: Request, limit: int) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit:
            raise HTTPException(413, f"A form may have {limit} bytes.")
    return bytes(body)
