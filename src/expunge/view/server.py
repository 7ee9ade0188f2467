"""The server of the viewer: its routes, and a socket on this machine only."""

from __future__ import annotations

import errno
import secrets
import socket
import webbrowser
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import uvicorn
from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from expunge.console import note, print_result
from expunge.errors import UserError
from expunge.view import samples
from expunge.view.chat import Chat
from expunge.view.folder import OutsideError, RunFolder, UnknownNameError
from expunge.view.guard import Guard
from expunge.view.progress import progress
from expunge.view.request import ChatRequest

ADDRESS = "127.0.0.1"
_SCRIPTS = ("app.js", "chat.js", "compare.js", "dom.js", "list.js", "progress.js", "samples.js")
_STATIC = {"style.css": "text/css", **dict.fromkeys(_SCRIPTS, "text/javascript")}
"""Files of the page -> media type."""
_MAX_PAGE = 200
_MAX_COMPARED = 12


class Api:
    """The routes over one folder of runs.

    Args:
        folder: The folder.
    """

    def __init__(self, folder: RunFolder) -> None:
        self._folder, self._chat = folder, Chat(folder)

    def routes(self) -> list[Route]:
        """Return all routes of the server."""
        reading: dict[str, Callable[[Request], Response]] = {
            "/": _page,
            "/static/{name}": _static,
            "/report/{run}": self._report,
            "/api/runs": self._list,
            "/api/runs/{run}": self._run,
            "/api/runs/{run}/samples/{file}": self._samples,
            "/api/compare": self._compare,
        }
        return [
            *(Route(path, handler) for path, handler in reading.items()),
            Route("/api/chat", self._ask, methods=["POST"]),
        ]

    def _list(self, request: Request) -> Response:
        rows = [row.model_dump() for row in self._folder.rows()]
        return JSONResponse({"folder": str(self._folder.root), "runs": rows})

    def _run(self, request: Request) -> Response:
        name = request.path_params["run"]
        files = {stem: samples.num_rows(path) for stem, path in self._folder.sample_files(name).items()}
        run = self._folder.run(name)
        return JSONResponse({"row": self._folder.row(name).model_dump(), "samples": files, "progress": progress(run)})

    def _samples(self, request: Request) -> Response:
        files, stem = self._folder.sample_files(request.path_params["run"]), request.path_params["file"]
        if stem not in files:
            raise UnknownNameError(f"this run has no samples '{stem}'.")
        start, size = (_whole_number(request, key, default) for key, default in (("start", 0), ("size", 20)))
        page = samples.search(files[stem], request.query_params.get("q", ""), start, min(size, _MAX_PAGE))
        return JSONResponse(vars(page))

    def _compare(self, request: Request) -> Response:
        # The report's plots take half a second to import.
        from expunge.view.comparison import compare

        names = list(dict.fromkeys(request.query_params.getlist("run")))
        if not 2 <= len(names) <= _MAX_COMPARED:
            raise UserError(f"a comparison needs 2 to {_MAX_COMPARED} runs, and {len(names)} are given.")
        return JSONResponse(compare({name: self._folder.run(name) for name in names}))

    def _report(self, request: Request) -> Response:
        """Return the report in a sandbox: it has an origin of its own, and cannot ask this server for anything."""
        from expunge.report.html import content_policy, render_run

        run = self._folder.run(request.path_params["run"])
        path = run.folder / "report.html"
        page = path.read_text(encoding="utf-8") if path.is_file() else render_run(run)
        policy = f"{content_policy()}; sandbox allow-scripts; frame-ancestors 'self'"
        return HTMLResponse(page, headers={"Content-Security-Policy": policy})

    async def _ask(self, request: Request) -> Response:
        if request.headers.get("content-type", "").split(";")[0] != "application/json":
            return JSONResponse({"error": "the body must be JSON (Content-Type: application/json)."}, 415)
        try:
            prompt = ChatRequest.model_validate_json(await request.body())
        except ValidationError as error:
            problems = [f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors()]
            raise UserError(f"the prompt is not valid: {'; '.join(problems)}") from error
        events = await run_in_threadpool(self._chat.start, prompt)
        return StreamingResponse(events, media_type="application/x-ndjson")


def make_app(folder: RunFolder, port: int, token: str) -> Starlette:
    """Return the application.

    Args:
        folder: The folder of runs.
        port: Port that it is served on; requests to another address are refused.
        token: Secret that every request needs.
    """
    return Starlette(
        routes=Api(folder).routes(),
        middleware=[Middleware(Guard, port=port, token=token)],
        exception_handlers={UserError: _explain},
    )


def serve(root: Path, port: int, *, browser: bool) -> None:
    """Serve the viewer until Ctrl-C.

    Args:
        root: The folder of runs.
        port: Port on 127.0.0.1; 0 for a free one.
        browser: Whether to open a browser.

    Raises:
        UserError: The folder has no runs, or the port is in use.
    """
    folder = RunFolder(root)
    with _listen(port) as listener:
        port, token = listener.getsockname()[1], secrets.token_urlsafe(32)
        count = len(folder.rows())
        address = f"http://{ADDRESS}:{port}/?token={token}"
        print_result(f"{count} run{'s' if count > 1 else ''} in {folder.root}: {address}")
        note("The address contains a token that gives access to these runs. Press Ctrl-C to stop.")
        if browser:
            webbrowser.open(address)
        # Answers that are still streamed do not keep the server alive.
        config = uvicorn.Config(
            make_app(folder, port, token), log_level="error", server_header=False, timeout_graceful_shutdown=1
        )
        uvicorn.Server(config).run(sockets=[listener])


def _listen(port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((ADDRESS, port))
        listener.listen()
    except OSError as error:
        listener.close()
        if error.errno not in {errno.EADDRINUSE, errno.EACCES}:
            raise
        reason = "is in use, perhaps by another viewer" if error.errno == errno.EADDRINUSE else "is reserved"
        raise UserError(
            f"port {port} {reason}.", fix="Choose another one with --port, or --port 0 for a free one."
        ) from error
    return listener


def _page(request: Request) -> Response:
    return HTMLResponse(_read("index.html"))


def _static(request: Request) -> Response:
    name = request.path_params["name"]
    if name not in _STATIC:
        raise UnknownNameError(f"there is no file '{name}'.")
    return Response(_read(name), media_type=_STATIC[name])


def _read(name: str) -> str:
    return (resources.files("expunge.view") / "static" / name).read_text(encoding="utf-8")


def _whole_number(request: Request, key: str, default: int) -> int:
    text = request.query_params.get(key, str(default))
    if not text.isascii() or not text.isdigit():
        raise UserError(f"{key} must be a whole number, not '{text}'.")
    return int(text)


def _explain(request: Request, error: Any) -> Response:
    status = {UnknownNameError: 404, OutsideError: 403}.get(type(error), 422)
    return JSONResponse({"error": str(error)}, status)
