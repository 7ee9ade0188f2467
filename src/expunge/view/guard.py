"""Access to the viewer: only requests with the token, to this address, from this page."""

from __future__ import annotations

import secrets
from urllib.parse import parse_qs

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import cookie_parser
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; frame-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""Content-Security-Policy of all answers that do not set their own."""


class Guard:
    """Middleware that refuses a request unless all of this holds.

    - Host is the address that the server listens on; a page whose name was rebound to 127.0.0.1 has another.
    - Origin and Sec-Fetch-Site, which browsers send, name this page; other pages are refused even with the cookie.
    - The token is in the cookie or, for the start page only, in the address. The start page stores it in a cookie that
      scripts cannot read and that browsers do not send from other sites.

    Args:
        app: The application.
        port: Port that the server listens on.
        token: The secret.
    """

    def __init__(self, app: ASGIApp, port: int, token: str) -> None:
        self._app, self._token = app, token
        self._hosts = {f"127.0.0.1:{port}", f"localhost:{port}"}
        # Cookies are shared by all ports of a host.
        self._cookie = f"expunge-view-{port}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            raise ValueError(f"unexpected {scope['type']} request")
        headers = Headers(scope=scope)
        opens = scope["path"] == "/" and self._is_token(
            next(iter(parse_qs(scope["query_string"].decode("latin-1")).get("token", [])), "")
        )

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._add_headers(MutableHeaders(scope=message), opens)
            await send(message)

        refusal = self._refusal(headers, opens)
        app = self._app if refusal is None else PlainTextResponse(refusal[1], refusal[0])
        await app(scope, receive, send_guarded)

    def _refusal(self, headers: Headers, opens: bool) -> tuple[int, str] | None:
        """Return status and reason for refusing a request; None for one that is allowed."""
        if headers.get("host", "") not in self._hosts:
            return 421, "This address is not served here. Open the address that expunge view printed."
        origin, site = headers.get("origin"), headers.get("sec-fetch-site")
        # A link with the token, such as one in a notebook, opens the start page from another site.
        foreign = site is not None and site not in {"same-origin", "none"} and not opens
        if foreign or (origin is not None and origin not in {f"http://{host}" for host in self._hosts}):
            return 403, "Requests of other pages are refused."
        if not opens and not self._is_token(cookie_parser(headers.get("cookie", "")).get(self._cookie, "")):
            return 401, "The token is missing. Open the address that expunge view printed."
        return None

    def _is_token(self, text: str) -> bool:
        return secrets.compare_digest(text.encode(), self._token.encode())

    def _add_headers(self, headers: MutableHeaders, opens: bool) -> None:
        headers.setdefault("Content-Security-Policy", PAGE_POLICY)
        headers["X-Content-Type-Options"] = "nosniff"
        headers["Referrer-Policy"] = "no-referrer"
        headers["Cross-Origin-Resource-Policy"] = "same-origin"
        headers["Cross-Origin-Opener-Policy"] = "same-origin"
        headers["Cache-Control"] = "no-store"
        if opens:
            headers.append("Set-Cookie", f"{self._cookie}={self._token}; Path=/; HttpOnly; SameSite=Strict")
