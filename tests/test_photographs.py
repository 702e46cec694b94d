"""The study of pretrained networks on photographs: its measures and its page, on made-up data."""

import random

import pytest
import torch
from photographs.data import Photograph, pasted, prepared
from photographs.measures import Scenes, grid_pointing_game, grids, times
from photographs.page import DEFAULT, VARIANTS, page
from PIL import Image

from abn import Preprocessing


def test_pasted_object_is_where_its_mask_says():
    cutout = Image.new("RGBA", (40, 20), (255, 0, 0, 255))
    background = Image.new("RGB", (400, 300), (0, 0, 255))
    photograph = pasted(cutout, background, [7], random.Random(0))
    red = torch.tensor(list(photograph.image.getdata()))[:, 0].view(256, 256) > 127
    assert photograph.image.size == (256, 256)
    assert torch.equal(photograph.mask, red)
    assert 0.5 * 256 - 1 <= red.any(dim=0).sum() <= 0.8 * 256 + 1


def test_mask_is_cropped_like_its_image():
    mask = torch.zeros(256, 256, dtype=torch.bool)
    mask[:128] = True
    image = Image.fromarray(mask.numpy()).convert("RGB")
    preprocessing = Preprocessing((224, 224), 256, (0, 0, 0), (1, 1, 1))
    pixels, seen = prepared(Photograph(image, [7], mask), preprocessing)
    assert torch.equal(pixels[0] > 0.5, seen)
    assert seen.sum() == 112 * 224


def test_any_of_the_classes_counts_as_right():
    photographs = [
        Photograph(Image.new("RGB", (256, 256)), [1, 2]),
        Photograph(Image.new("RGB", (256, 256)), [0]),
    ]
    scenes = Scenes(photographs, Preprocessing())
    assert scenes.right(torch.tensor([[0.0, 0.1, 0.9], [0.0, 0.1, 0.9]])).tolist() == [True, False]


def test_grid_holds_four_classes_and_finds_each_in_its_cell():
    classes = torch.arange(6)
    images = classes.view(-1, 1, 1, 1).expand(-1, 3, 8, 8).float()
    scenes, of_cells, masks = grids(images, classes, seed=0)
    assert scenes.shape == (60, 3, 16, 16)
    for cell, mask in enumerate(masks):
        assert torch.equal(scenes[:, 0][:, mask].unique(dim=1)[:, 0], of_cells[:, cell].float())

    def exact(some, labels):
        return (some[:, :1] == labels.view(-1, 1, 1, 1)).float()

    assert grid_pointing_game(exact, scenes, of_cells, masks) == {"mean": 1.0, "median": 1.0}
    flat = grid_pointing_game(lambda some, labels: torch.ones(len(some), 1, 4, 4), scenes, of_cells, masks)
    assert flat["mean"] == pytest.approx(0.25)


def test_times_are_taken_in_rounds():
    called = []
    seconds = times({name: lambda images, name=name: called.append(name) for name in "ab"}, torch.zeros(1), 3)
    assert called == ["a", "b"] * 5
    assert [len(values) for values in seconds.values()] == [3, 3]


def test_page_shows_the_figures_of_every_network():
    images = {"perception": 0.91, "attention": 0.82, "agreement": 0.73}
    place = {"pointing": 0.64, "energy": 0.55}
    variant = {"photographs": images, "composites": images, "place": place, "parameters": 150}
    share = {"mean": 0.46, "median": 0.37}
    figures = {
        "plain": {"photographs": 0.28, "composites": 0.19},
        "parameters": 100,
        "variants": dict.fromkeys(VARIANTS, variant),
        "maps": {"Grad-CAM": place},
        "grids": {"photographs": 15, "grids": 60, "maps": {"ABN": share}},
        "seconds": {"plain": [1.0, 1.0, 1.0], "default": [2.0, 2.0, 2.0], "version 0.1": [3.0, 3.0, 3.0]},
    }
    text = page({"MyNet": figures})
    assert "| MyNet | photographs | 0.280 | 0.910 | 0.820 | 0.730 |" in text
    assert "| MyNet | Grad-CAM | 0.640 | 0.550 |" in text
    assert "| MyNet | ABN | 0.460 | 0.370 |" in text
    assert f"| MyNet | {DEFAULT} | 0.910 | 0.910 | 0.640 | 0.550 |" in text
    assert "| MyNet | default | 1.50 | 2.00 (2.00 to 2.00) |" in text
