"""The addresses of the page, and who may ask for them.

Whoever asks for more than the page itself must know the token, which is part of the address that is printed.
Images are asked for by their number, never by a path.
"""

import contextlib
import errno
import ipaddress
import secrets
import socket
import threading
import webbrowser
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any

import matplotlib
import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from abn.editor.background import Predictions
from abn.editor.requests import Guard, body_of, maps_in, revision_in
from abn.editor.session import PICTURE, THUMBNAIL, ReadOnlyError, Session
from abn.edits import EditConflictError
from abn.visualize import SHARED

LOCAL = ("127.0.0.1", "localhost")
COLORMAPS = ("jet", "viridis", "inferno", "gray")
_STATIC = Path(__file__).parent / "static"
_BYTES_PER_VALUE = 32
"""Most bytes of a number in a request, with its comma."""


def serve(session: Session, *, host: str, port: int, open_browser: bool) -> None:
    """Serves the page until it is interrupted. Prints its address.

    Args:
        session: The network, its images and their edits.
        host: Address of the network interface to listen on. ``"127.0.0.1"`` is for this machine alone.
        port: Port to listen on. 0 takes a free one.
        open_browser: Whether to open the page in the browser.

    Raises:
        OSError: If the port is taken, or there is no such interface.
        ValueError: If the host is empty.
    """
    if not host:
        raise ValueError("host is empty, expected the address of a network interface, such as 127.0.0.1")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listening = socket.create_server((host, port), family=family)
    except (OSError, OverflowError) as error:
        raise OSError(f"cannot listen on {host}, port {port}: {error}; --port takes another") from error
    token = secrets.token_urlsafe(16)
    named = f"[{host}]" if ":" in host else host
    shown = socket.gethostname() if _is_any(host) else named
    address = f"http://{shown}:{listening.getsockname()[1]}/?token={token}"
    print(f"{len(session.paths)} images, edits in {session.out}: {address}\nCtrl-C ends.", flush=True)
    app = create_app(session, token, hosts=["*"] if _is_any(host) else [*LOCAL, named])
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
    if open_browser:  # may take seconds; the page waits until the server listens
        threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()
    with contextlib.suppress(KeyboardInterrupt):  # the usual way to end
        server.run(sockets=[listening])


def create_app(session: Session, token: str, hosts: list[str]) -> Starlette:
    """Makes the application.

    Args:
        session: The network, its images and their edits.
        token: What whoever asks must know.
        hosts: Names under which the page may be asked for. ``"*"`` stands for any name.
    """
    predictions = Predictions(session)
    most = session.shape[0] * session.shape[1] * session.shape[2] * _BYTES_PER_VALUE + 1024
    tables = {name: _colors(name) for name in COLORMAPS}

    def folder(_: Request) -> Response:
        edits = session.edits() or ()
        return JSONResponse(
            {
                "images": [
                    {"name": name, "label": session.label(index), "edited": name in edits}
                    for index, name in enumerate(session.names)
                ],
                "shape": session.shape,
                "outputNames": session.output_names,
                "ofClasses": session.of_classes,
                "classMaps": session.class_maps,
                "readOnly": session.read_only,
                "edits": str(session.out),
                "colormaps": tables,
            }
        )

    def predicted(request: Request) -> Response:
        start = int(request.query_params.get("start", "0"))
        return JSONResponse({"predictions": predictions.known[max(start, 0) :]})

    def image(request: Request) -> Response:
        return JSONResponse(session.opened(index_of(request)))

    def picture(request: Request) -> Response:
        return Response(session.jpeg(index_of(request), PICTURE), media_type="image/jpeg")

    def thumbnail(request: Request) -> Response:
        return Response(session.jpeg(index_of(request), THUMBNAIL), media_type="image/jpeg")

    def class_map(request: Request) -> Response:
        return JSONResponse(session.class_map(index_of(request), request.path_params["number"]))

    def mask(request: Request) -> Response:
        return JSONResponse(session.mask(index_of(request)))

    async def answer(request: Request) -> Response:
        index, body = index_of(request), await body_of(request, most)
        return JSONResponse(await run_in_threadpool(session.answer, index, maps_in(body)))

    async def save(request: Request) -> Response:
        index, body = index_of(request), await body_of(request, most)
        revision = await run_in_threadpool(session.save, index, maps_in(body), revision_in(body))
        return JSONResponse({"revision": revision})

    async def remove(request: Request) -> Response:
        index, body = index_of(request), await body_of(request, most)
        try:
            await run_in_threadpool(session.remove, index, revision_in(body))
        except KeyError as error:
            raise HTTPException(404, f"there is no edit of {error.args[0]}") from error
        return JSONResponse({"revision": 0})

    def index_of(request: Request) -> int:
        index: int = request.path_params["index"]
        if index >= len(session.paths):
            raise HTTPException(404, f"there is no image {index}, expected 0 to {len(session.paths) - 1}")
        return index

    def page(_: Request) -> Response:
        return FileResponse(_STATIC / "index.html")

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        predictions.start()
        yield
        predictions.stop()

    of_image = "/api/images/{index:int}"
    routes = [
        Route("/", page),
        Mount("/shared", StaticFiles(directory=SHARED)),
        Mount("/static", StaticFiles(directory=_STATIC)),
        Route("/api/folder", folder),
        Route("/api/predictions", predicted),
        Route(of_image, image),
        Route(f"{of_image}/picture", picture),
        Route(f"{of_image}/thumbnail", thumbnail),
        Route(f"{of_image}/classes/{{number:int}}", class_map),
        Route(f"{of_image}/mask", mask),
        Route(f"{of_image}/answer", answer, methods=["POST"]),
        Route(f"{of_image}/edit", save, methods=["PUT"]),
        Route(f"{of_image}/edit", remove, methods=["DELETE"]),
    ]
    middleware = [
        Middleware(TrustedHostMiddleware, allowed_hosts=hosts),
        Middleware(Guard, token=token),
    ]
    kinds = (HTTPException, OSError, ValueError, ReadOnlyError)
    handlers: dict[Any, Callable[[Request, Any], Response]] = dict.fromkeys(kinds, _failure)
    return Starlette(routes=routes, middleware=middleware, exception_handlers=handlers, lifespan=lifespan)


def _failure(_: Request, error: Exception) -> Response:
    """Tells the page in words what failed."""
    status = HTTPStatus.UNPROCESSABLE_ENTITY
    text = str(error)
    if isinstance(error, HTTPException):
        status, text = HTTPStatus(error.status_code), error.detail
    elif isinstance(error, EditConflictError):
        status = HTTPStatus.CONFLICT
    elif isinstance(error, ReadOnlyError):
        status = HTTPStatus.FORBIDDEN
    elif isinstance(error, OSError) and error.errno == errno.ENOSPC:
        status = HTTPStatus.INSUFFICIENT_STORAGE
    return JSONResponse({"error": text}, status_code=status)


def _is_any(host: str) -> bool:
    """Tells whether a host stands for all network interfaces."""
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:  # a name
        return False


def _colors(name: str) -> list[list[int]]:
    """Returns the 256 colours of a colour map as red, green and blue in 0..255."""
    colors = matplotlib.colormaps[name](range(256), bytes=True)
    return [[int(channel) for channel in color[:3]] for color in colors]
