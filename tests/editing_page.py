"""The server of the page to edit maps, for tests: asked by a test client, or listening for a browser."""

import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from starlette.testclient import TestClient

from abn import Preprocessing
from abn.editor.server import create_app
from abn.editor.session import Session

TOKEN = "token"
PREPARATION = Preprocessing((32, 32), (32, 32), mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def client_of(session: Session, **headers: str) -> TestClient:
    app = create_app(session, TOKEN, ["127.0.0.1", "localhost"])
    return TestClient(app, base_url="http://127.0.0.1", headers={"X-Token": TOKEN, **headers})


@contextmanager
def serving(session: Session) -> Iterator[str]:
    """Serves the page on a free port, and yields its address."""
    config = uvicorn.Config(create_app(session, TOKEN, ["127.0.0.1"]), port=0, log_level="warning")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}/?token={TOKEN}"
    finally:
        server.should_exit = True
        thread.join()
