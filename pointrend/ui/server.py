"""The page's server: static files, and the session's answers as JSON.

It is for one person on one machine. Only requests from this machine's own page are answered: the Host header must name
the loopback interface, so that no other name that resolves to it gets in (DNS rebinding), and no page of another origin
can ask. A request names weights by their number in the list that the server offers, never a path.
"""

import contextlib
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import anyio
import uvicorn
from starlette.applications import Starlette
from starlette.datastructures import Headers, QueryParams
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pointrend.ui.session import Session
from pointrend.ui.views import Choice

PAGE = Path(__file__).parent / "page"
FILES = {"/": "index.html", "/page.css": "page.css", "/page.js": "page.js"}
#: The largest file of a picture: 100 million pixels of 8 bits, uncompressed.
MAX_BYTES = 300_000_000
LOOPBACK = ("127.0.0.1", "localhost")
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


def refusal(headers: Headers, path: str) -> str | None:
    """Why a request is not answered; None if it is."""
    host = headers.get("host", "")
    if urlsplit(f"//{host}").hostname not in LOOPBACK:
        return f"the Host header is {host!r}, expected 127.0.0.1 or localhost"
    origin = headers.get("origin")
    if origin is not None and origin != f"http://{host}":
        return f"the request is from {origin}, expected this page"
    site = headers.get("sec-fetch-site", "none")
    if site not in ("same-origin", "none") and path != "/":
        return "the request is from a page of another site"
    return None


class Guard:
    """Refuses requests that are not from this machine's own page, and adds ``HEADERS`` to all answers."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] += [(key.lower().encode(), value.encode()) for key, value in HEADERS.items()]
            await send(message)

        try:
            reason = refusal(Headers(scope=scope), scope["path"])
        except ValueError as error:  # of a Host header that is none
            reason = str(error)
        app = self.app if reason is None else PlainTextResponse(f"{reason}\n", 403)
        await app(scope, receive, send_with_headers)


def failure(message: str, status: int = 400) -> Response:
    return JSONResponse({"error": message}, status)


async def read_body(request: Request) -> bytes | None:
    """The body of a request; None if it is larger than ``MAX_BYTES``, of which no more is read."""
    if int(request.headers.get("content-length", 0)) > MAX_BYTES:
        return None
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BYTES:
            return None
    return bytes(body)


def number(query: QueryParams, name: str, kind: Callable[[str], Any] = int) -> Any:
    """A number of the query.

    Raises:
        ValueError: naming it, if it is missing or none.
    """
    try:
        return kind(query[name])
    except (KeyError, ValueError) as error:
        raise ValueError(f"{name} is {query.get(name)!r}, expected a number") from error


def choice_of(query: QueryParams) -> Choice:
    """The page's settings in a query."""
    place = (number(query, "x", float), number(query, "y", float)) if "x" in query else None
    return Choice(
        score=number(query, "score", float) if "score" in query else 0,
        resolution=number(query, "resolution"),
        points=number(query, "points"),
        index=number(query, "object") if "object" in query else 0,
        place=place,
    )


def build_app(session: Session) -> Starlette:
    """The application that answers the page's requests from a session."""
    turn = anyio.Lock()

    async def answer(request: Request, work: Callable[[], Any]) -> Response:
        """The result of work in a thread, as JSON. Requests wait for their turn, and are dropped if given up."""
        async with turn:
            if await request.is_disconnected():
                return Response(status_code=499)
            try:
                return JSONResponse(await anyio.to_thread.run_sync(work))
            except (OSError, ValueError, RuntimeError, MemoryError) as error:  # RuntimeError: of a device's memory
                return failure((str(error) or type(error).__name__).splitlines()[0])

    async def file(request: Request) -> Response:
        return FileResponse(PAGE / FILES[request.url.path])

    async def weights(request: Request) -> Response:
        return JSONResponse({"weights": [known.answer() for known in session.weights], "start": session.start})

    async def example(request: Request) -> Response:
        """The file of a drawn picture, which the page sends back to open it."""
        try:
            examples = session.choose(request.path_params["weights"]).examples
        except ValueError as error:
            return failure(str(error), 404)
        index = request.path_params["index"]
        return FileResponse(examples[index]) if index < len(examples) else failure("there is no such picture", 404)

    async def pictures(request: Request) -> Response:
        name = Path(request.query_params.get("name", "")).name[:200] or "the picture"
        try:
            body = await read_body(request)
        except ClientDisconnect:
            return Response(status_code=499)
        if body is None:
            return failure(f"{name}: has more than {MAX_BYTES / 1e6:.0f} MB; make it smaller", 413)
        query = request.query_params
        return await answer(
            request, lambda: session.open(number(query, "weights") if "weights" in query else session.start, body, name)
        )

    def of_view(use: Callable[[int, str, QueryParams], Any]) -> Callable[[Request], Any]:
        async def endpoint(request: Request) -> Response:
            query = request.query_params
            return await answer(request, lambda: use(number(query, "weights"), query.get("picture", ""), query))

        return endpoint

    def overlay(index: int, picture: str, query: QueryParams) -> Any:
        choice = session.check(index, choice_of(query))
        return session.view(index, picture).overlay(choice).answer()

    def details(index: int, picture: str, query: QueryParams) -> Any:
        choice = session.check(index, choice_of(query))
        return session.view(index, picture).details(choice).answer()

    return Starlette(
        routes=[
            *(Route(path, file) for path in FILES),
            Route("/api/weights", weights),
            Route("/api/examples/{weights:int}/{index:int}", example),
            Route("/api/pictures", pictures, methods=["POST"]),
            Route("/api/found", of_view(lambda index, picture, _: session.view(index, picture).found())),
            Route("/api/overlay", of_view(overlay)),
            Route("/api/details", of_view(details)),
        ],
        middleware=[Middleware(Guard)],
    )


def serve(session: Session, listener: socket.socket) -> None:
    """Serves the page on a socket until Ctrl-C or SIGTERM."""
    config = uvicorn.Config(
        build_app(session),
        http="h11",
        ws="none",
        lifespan="off",
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=3,
    )
    with contextlib.suppress(KeyboardInterrupt):
        uvicorn.Server(config).run(sockets=[listener])
