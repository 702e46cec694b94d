"""A small network, a folder of images, and their edits."""

import pytest
import torch
from editing_page import PREPARATION, client_of
from PIL import Image

from abn import abn_cifar_resnet
from abn.editor.session import Session


@pytest.fixture
def model():
    model = abn_cifar_resnet(20, num_classes=6, in_channels=3, map="class_activation").eval()
    model.preprocessing, model.classes = PREPARATION, ("ant", "bee", "cat", "dog", "elk", "fox")
    return model


@pytest.fixture
def photos(tmp_path):
    """Three images in folders that name their class, one in a folder that does not, and a broken one."""
    for name in ("cat/0.png", "cat/1.png", "dog/0.png", "unknown/0.png"):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = torch.randint(256, (4, 6, 3), dtype=torch.uint8).numpy()
        Image.fromarray(pixels).resize((64, 48)).save(path)
    (tmp_path / "photos" / "z.png").write_bytes(b"no image")
    return tmp_path / "photos"


@pytest.fixture
def edits(tmp_path):
    return tmp_path / "edits"


@pytest.fixture
def session(model, photos, edits):
    return Session(model, photos, edits, name="small")


@pytest.fixture
def client(session):
    return client_of(session)
