"""What tests of pages in the browser share: a classifier, photographs, a client, the mark for a browser."""

from pathlib import Path

import pytest
import torch
from experiments.common.browser import CHROMIUM, TOKEN
from PIL import Image
from starlette.testclient import TestClient

from abn import ABN, Preprocessing, abn_cifar_resnet
from abn.editor.server import create_app
from abn.editor.session import Session

PREPARATION = Preprocessing((32, 32), (32, 32), mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))

needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium")


def small_classifier(depth: int) -> ABN:
    model = abn_cifar_resnet(depth, num_classes=6, in_channels=3, map="class_activation").eval()
    model.preprocessing, model.classes = PREPARATION, ("ant", "bee", "cat", "dog", "elk", "fox")
    return model


def write_photographs(folder: Path, *names: str) -> Path:
    """Writes photographs at random, and a broken one, ``z.png``."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = torch.randint(256, (4, 6, 3), dtype=torch.uint8).numpy()
        Image.fromarray(pixels).resize((64, 48)).save(path)
    (folder / "z.png").write_bytes(b"no image")
    return folder


def client_of(session: Session) -> TestClient:
    app = create_app(session, TOKEN, ["127.0.0.1", "localhost"])
    return TestClient(app, base_url="http://127.0.0.1", headers={"X-Token": TOKEN})
