"""A small network, a folder of images, and their edits."""

import pytest
from pages import client_of, small_classifier, write_photographs

from abn.editor.session import Session


@pytest.fixture
def model():
    return small_classifier(20)


@pytest.fixture
def photos(tmp_path):
    """Three images in folders that name their class, one in a folder that does not, and a broken one."""
    return write_photographs(tmp_path / "photos", "cat/0.png", "cat/1.png", "dog/0.png", "unknown/0.png")


@pytest.fixture
def edits(tmp_path):
    return tmp_path / "edits"


@pytest.fixture
def session(model, photos, edits):
    return Session(model, photos, edits, name="small")


@pytest.fixture
def client(session):
    return client_of(session)
