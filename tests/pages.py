"""A client of the page to edit maps, for tests."""

from experiments.common.browser import TOKEN
from starlette.testclient import TestClient

from abn import Preprocessing
from abn.editor.server import create_app
from abn.editor.session import Session

PREPARATION = Preprocessing((32, 32), (32, 32), mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


def client_of(session: Session) -> TestClient:
    app = create_app(session, TOKEN, ["127.0.0.1", "localhost"])
    return TestClient(app, base_url="http://127.0.0.1", headers={"X-Token": TOKEN})
