"""Masks from which an edit can start: pictures in a folder, and files in COCO's format."""

import json

import numpy as np
import pytest
import torch
from editing_page import PREPARATION, client_of
from PIL import Image

from abn import Preprocessing
from abn.editor.masks import find_masks, to_map
from abn.editor.session import Session

OBJECT = np.zeros((48, 64), dtype=bool)
OBJECT[:24, 32:] = True  # the upper right quarter
QUARTER = torch.zeros(1, 16, 16)
QUARTER[:, :8, 8:] = 1


def coco(file, **changes):
    annotation = {
        "id": 1,
        "image_id": 7,
        "category_id": 1,
        "iscrowd": 0,
        "segmentation": [[32, 0, 64, 0, 64, 24, 32, 24]],
        "area": 768,
        "bbox": [32, 0, 32, 24],
    }
    images = [{"id": 7, "file_name": "cat/0.png", "width": 64, "height": 48}]
    content = {"images": images, "annotations": [annotation], "categories": [{"id": 1, "name": "cat"}]}
    file.write_text(json.dumps({**content, **changes}))
    return file


def indexed(values):
    picture = Image.fromarray(values.astype(np.uint8), mode="P")
    picture.putpalette([0, 0, 0, 128, 0, 0])
    return picture


@pytest.mark.parametrize(
    "picture",
    [
        Image.fromarray(OBJECT.astype(np.uint8) * 255),
        Image.fromarray(OBJECT.astype(np.uint8)),
        Image.fromarray(OBJECT),
        indexed(OBJECT),
        Image.fromarray(OBJECT.astype(np.uint8) * 255).convert("RGB"),
        Image.fromarray(OBJECT.astype(np.uint8) * 255).resize((32, 24), Image.Resampling.NEAREST),
    ],
    ids=["white", "ones", "bool", "palette", "RGB", "small"],
)
def test_picture_of_the_same_name_becomes_the_map(model, photos, edits, tmp_path, picture):
    (tmp_path / "masks/cat").mkdir(parents=True)
    picture.save(tmp_path / "masks/cat/0.png")
    client = client_of(Session(model, photos, edits, name="small", masks=find_masks(tmp_path / "masks")))
    assert client.get("/api/images/0").json()["mask"]
    assert not client.get("/api/images/1").json()["mask"]
    maps = torch.tensor(client.get("/api/images/0/mask").json())
    assert torch.allclose(maps, QUARTER, atol=0.05)
    assert "no mask of cat/1.png" in client.get("/api/images/1/mask").json()["error"]


@pytest.mark.parametrize("name", ["cat/0.png", "0.png"])
def test_segmentations_of_coco_become_the_map(model, photos, edits, tmp_path, name):
    images = [{"id": 7, "file_name": name, "width": 64, "height": 48}]
    masks = find_masks(coco(tmp_path / "coco.json", images=images))
    client = client_of(Session(model, photos, edits, name="small", masks=masks))
    maps = torch.tensor(client.get("/api/images/0/mask").json())
    assert torch.allclose(maps, QUARTER, atol=0.05)
    assert "unknown.png" not in masks


@pytest.mark.parametrize(
    "text", ["{", "[]", "{}", '{"images": [{"id": 1}], "annotations": []}', '{"images": []}']
)
def test_file_in_another_format_is_refused(tmp_path, text):
    (tmp_path / "coco.json").write_text(text)
    with pytest.raises(ValueError, match=r"coco\.json (is not in COCO's format|names no image)"):
        find_masks(tmp_path / "coco.json")


def test_nothing_is_no_mask(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no folder and no file"):
        find_masks(tmp_path / "masks")
    with pytest.raises(FileNotFoundError, match="there is no picture in"):
        find_masks(tmp_path)


@pytest.mark.parametrize("segmentation", [[[1, 2]], "all", {"counts": [1]}, [["a", "b", "c"]]])
def test_unsound_segmentation_is_told(model, photos, edits, tmp_path, segmentation):
    annotation = {"id": 1, "image_id": 7, "category_id": 1, "segmentation": segmentation}
    masks = find_masks(coco(tmp_path / "coco.json", annotations=[annotation]))
    client = client_of(Session(model, photos, edits, name="small", masks=masks))
    answer = client.get("/api/images/0/mask")
    assert answer.status_code == 422
    assert "segmentations of cat/0.png cannot be read" in answer.json()["error"]


def test_broken_mask_is_told(model, photos, edits, tmp_path):
    (tmp_path / "masks/cat").mkdir(parents=True)
    (tmp_path / "masks/cat/0.png").write_bytes(b"no image")
    client = client_of(Session(model, photos, edits, name="small", masks=find_masks(tmp_path / "masks")))
    answer = client.get("/api/images/0/mask")
    assert (answer.status_code, "cannot be read" in answer.json()["error"]) == (422, True)


def test_mask_of_other_proportions_is_refused():
    with pytest.raises(ValueError, match="has 48 × 64 pixels, expected the proportions of the image"):
        to_map(Image.new("L", (48, 64)), (64, 48), PREPARATION, (16, 16))


def test_what_is_around_the_image_is_no_object():
    white, border = Image.new("L", (64, 32), 255), Preprocessing((32, 32), (32, 32), crop_mode="border")
    rows = to_map(white, (64, 32), border, (8, 8))[0].mean(dim=1)
    assert rows.tolist() == pytest.approx([0, 0, 1, 1, 1, 1, 0, 0], abs=0.02)
