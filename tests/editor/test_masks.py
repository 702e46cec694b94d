"""Masks from which an edit can start: pictures in a folder, and files in COCO's format."""

import json
import math

import numpy as np
import pytest
import torch
from pages import PREPARATION, client_of
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
    client = client_of(Session(model, photos, edits, name="small", masks=tmp_path / "masks"))
    assert client.get("/api/images/0").json()["mask"]
    assert not client.get("/api/images/1").json()["mask"]
    maps = torch.tensor(client.get("/api/images/0/mask").json())
    assert torch.allclose(maps, QUARTER, atol=0.05)
    assert "no mask of cat/1.png" in client.get("/api/images/1/mask").json()["error"]


@pytest.mark.parametrize(("index", "name"), [(0, "cat/0.png"), (1, "1.png"), (1, "cat\\1.png")])
def test_segmentations_of_coco_become_the_map(model, photos, edits, tmp_path, index, name):
    images = [{"id": 7, "file_name": name, "width": 64, "height": 48}]
    masks = coco(tmp_path / "coco.json", images=images)
    client = client_of(Session(model, photos, edits, name="small", masks=masks))
    maps = torch.tensor(client.get(f"/api/images/{index}/mask").json())
    assert torch.allclose(maps, QUARTER, atol=0.05)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"images": [{"id": 1}]}', '{"images": []}'])
def test_file_in_another_format_is_refused(tmp_path, text):
    (tmp_path / "coco.json").write_text(text)
    with pytest.raises(ValueError, match=r"coco\.json is not in COCO's format"):
        find_masks(tmp_path / "coco.json", ["cat/0.png"])


def test_masks_of_other_images_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no folder and no file"):
        find_masks(tmp_path / "masks", ["cat/0.png"])
    with pytest.raises(
        ValueError, match=r"no mask of any of 1 images, such as cat/0\.png: are they named alike"
    ):
        find_masks(tmp_path, ["cat/0.png"])
    with pytest.raises(ValueError, match="no mask of any of 1 images"):
        find_masks(coco(tmp_path / "coco.json"), ["dog/1.png"])


def test_name_without_folder_must_be_of_one_image(tmp_path):
    images = [{"id": 7, "file_name": "0.png", "width": 64, "height": 48}]
    with pytest.raises(ValueError, match="no mask of any of 2 images"):
        find_masks(coco(tmp_path / "coco.json", images=images), ["cat/0.png", "dog/0.png"])
    assert "cat/0.png" in find_masks(tmp_path / "coco.json", ["cat/0.png", "dog/1.png"])


def test_all_objects_with_a_segmentation_make_the_mask(tmp_path):
    def annotation(**what):
        return {"id": 1, "image_id": 7, "category_id": 1, **what}

    left, right = [[0, 0, 32, 0, 32, 48, 0, 48]], [[32, 0, 64, 0, 64, 48, 32, 48]]
    annotations = [
        annotation(segmentation=left),
        annotation(segmentation=[], bbox=[0, 0, 1, 1]),
        annotation(bbox=[0, 0, 1, 1]),
        annotation(segmentation={"counts": [32 * 48, 32 * 48], "size": [48, 64]}),
    ]
    file = coco(tmp_path / "coco.json", annotations=annotations)
    assert np.asarray(find_masks(file, ["cat/0.png"]).read("cat/0.png")).min() == 255
    file = coco(tmp_path / "coco.json", annotations=[annotation(segmentation=right)])
    assert np.asarray(find_masks(file, ["cat/0.png"]).read("cat/0.png")).mean() == 255 / 2


@pytest.mark.parametrize(
    "segmentation",
    [
        [[1, 2]],
        "all",
        {"counts": [1]},
        {"counts": [1], "size": [48, 64]},
        {"counts": [-1, 3073], "size": [48, 64]},
        [["a"] * 6],
        [[0, 0, math.nan, 0, 5, 5]],
        [[0, 0, math.inf, 0, 5, 5]],
        [[0, 0, 1e9, 0, 5, 5]],
    ],
)
def test_unsound_segmentation_is_told(model, photos, edits, tmp_path, segmentation):
    annotation = {"id": 1, "image_id": 7, "category_id": 1, "segmentation": segmentation}
    masks = coco(tmp_path / "coco.json", annotations=[annotation])
    client = client_of(Session(model, photos, edits, name="small", masks=masks))
    answer = client.get("/api/images/0/mask")
    assert answer.status_code == 422
    assert "segmentations of cat/0.png cannot be read" in answer.json()["error"]


def test_huge_mask_is_refused(tmp_path):
    images = [{"id": 7, "file_name": "cat/0.png", "width": 80_000, "height": 60_000}]
    masks = find_masks(coco(tmp_path / "coco.json", images=images), ["cat/0.png"])
    with pytest.raises(ValueError, match="an image of 80000 × 60000 pixels"):
        masks.read("cat/0.png")


@pytest.mark.parametrize(
    ("mode", "outside", "inside"),
    [
        ("RGB", "black", "darkred"),
        ("RGB", "black", "blue"),
        ("RGBA", (255, 255, 255, 0), "white"),
        ("LA", (255, 0), (255, 255)),
    ],
)
def test_colored_and_transparent_pictures_are_masks(tmp_path, mode, outside, inside):
    picture = Image.new(mode, (64, 48), outside)
    picture.paste(inside, (32, 0, 64, 24))
    (tmp_path / "cat").mkdir()
    picture.save(tmp_path / "cat/0.png")
    mask = find_masks(tmp_path, ["cat/0.jpg"]).read("cat/0.jpg")
    assert torch.allclose(to_map(mask, (64, 48), PREPARATION, (16, 16)), QUARTER)


@pytest.mark.parametrize("save", ["gif", "quantize", "adaptive"])
def test_palette_of_any_order_is_read(tmp_path, save):
    picture = Image.fromarray(OBJECT.astype(np.uint8) * 255).convert("RGB")
    if save == "quantize":
        picture = picture.quantize(2)
    if save == "adaptive":
        picture = picture.convert("P", palette=Image.Palette.ADAPTIVE, colors=2)
    picture.save(tmp_path / f"0.{'gif' if save == 'gif' else 'png'}")
    mask = find_masks(tmp_path, ["0.jpg"]).read("0.jpg")
    assert torch.allclose(to_map(mask, (64, 48), PREPARATION, (16, 16)), QUARTER)


def test_numbers_of_objects_are_no_mask(tmp_path):
    Image.fromarray(OBJECT.astype(np.uint8) * 3).save(tmp_path / "0.png")
    with pytest.raises(ValueError, match="has values up to 3, expected 255"):
        find_masks(tmp_path, ["0.jpg"]).read("0.jpg")


def test_coarse_mask_lies_where_it_should_after_a_crop():
    mask = Image.fromarray(OBJECT.astype(np.uint8) * 255)
    coarse = mask.resize((8, 6), Image.Resampling.NEAREST)
    cropped = Preprocessing((32, 32), 32)
    maps = [to_map(each, (64, 48), cropped, (16, 16)) for each in (mask, coarse)]
    assert torch.equal(*maps)


def test_broken_mask_is_told(model, photos, edits, tmp_path):
    (tmp_path / "masks/cat").mkdir(parents=True)
    (tmp_path / "masks/cat/0.png").write_bytes(b"no image")
    client = client_of(Session(model, photos, edits, name="small", masks=tmp_path / "masks"))
    answer = client.get("/api/images/0/mask")
    assert (answer.status_code, "cannot be read" in answer.json()["error"]) == (422, True)


def test_mask_of_other_proportions_is_refused():
    with pytest.raises(ValueError, match="has 48 × 64 pixels, expected the proportions of the image"):
        to_map(Image.new("L", (48, 64)), (64, 48), PREPARATION, (16, 16))


def test_what_is_around_the_image_is_no_object():
    white, border = Image.new("L", (64, 32), 255), Preprocessing((32, 32), (32, 32), crop_mode="border")
    rows = to_map(white, (64, 32), border, (8, 8))[0].mean(dim=1)
    assert rows.tolist() == pytest.approx([0, 0, 1, 1, 1, 1, 0, 0], abs=0.02)
