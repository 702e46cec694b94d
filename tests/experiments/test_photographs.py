"""The study of networks on photographs: its measures, its training and its page, on made-up data."""

import random
import re
import sys
from dataclasses import replace

import pytest
import solar_cells
import timm
import torch
from experiments.photos import measures, pictures
from experiments.photos.before import DEFAULT as DEFAULT_CHANGE
from experiments.photos.before import VARIANTS
from experiments.photos.measures import Scenes, times
from experiments.photos.page import page
from experiments.photos.runs import DEFAULT, PLAIN, STUDIES, Study, map_figures, run, stored, task_of
from experiments.photos.training import Recipe
from experiments.tasks.images import Images, Task
from experiments.tasks.photographs import Photograph, pasted, prepared
from PIL import Image
from torch import nn

from abn import Preprocessing, metrics, wrap_backbone


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


def test_times_are_taken_in_rounds():
    called = []
    seconds = times({name: lambda images, name=name: called.append(name) for name in "ab"}, torch.zeros(1), 3)
    assert "".join(called) == "baabbaabba"
    assert [len(values) for values in seconds.values()] == [3, 3]


# Training


def scenes(count: int) -> Images:
    """Dark and bright images, with the brightest part as their object."""
    labels = torch.arange(count) % 2
    pixels = (60 * torch.rand(count, 3, 32, 32) + 120 * labels.view(-1, 1, 1, 1)).byte()
    masks = torch.zeros(count, 32, 32, dtype=torch.bool)
    masks[:, :16] = True
    return Images(pixels, labels, masks)


@pytest.fixture
def study(monkeypatch):
    """A study of small networks on such images."""
    torch.manual_seed(0)
    task = Task("cells", ["dark", "bright"], scenes(32), scenes(24), flips=(-1, -2))
    study = Study(
        lambda: task,
        Recipe(epochs=3, batch=8, learning_rate=1e-2),
        lambda classes: timm.create_model("test_resnet", num_classes=classes),
        lambda classes, **arguments: wrap_backbone(
            timm.create_model("test_resnet"), num_classes=classes, input_size=32, **arguments
        ),
        "layer4",
    )
    monkeypatch.setitem(STUDIES, "cells", study)
    task_of.cache_clear()
    yield study
    task_of.cache_clear()


@pytest.mark.parametrize("variant", [PLAIN, DEFAULT], ids=lambda variant: variant.name)
def test_run_learns_and_logs_what_it_measured_once(study, variant, tmp_path, monkeypatch):
    run("cells", variant, 0, tmp_path / "run")
    figures, outputs = stored(tmp_path / "run")
    assert figures["auc"] > 0.95
    right = outputs["scores"].argmax(dim=1) == study.task().test.labels
    assert figures["accuracy"] == pytest.approx(right.float().mean().item())
    assert set(figures["maps"]["random maps"]) == {"pointing", "energy", "deletion", "insertion"}
    assert ("effect" in figures) == (variant == DEFAULT)
    monkeypatch.setitem(STUDIES, "cells", None)  # what is there is not made again
    run("cells", variant, 0, tmp_path / "run")


def test_training_images_are_mirrored_and_test_images_are_not():
    images = scenes(8)
    task = Task("cells", [], images, images, flips=(-1,))
    prepared = task.prepared(images)
    mirrored = task.mirrored(prepared, torch.Generator().manual_seed(0))
    same = (mirrored == prepared).all(dim=(1, 2, 3))
    assert 0 < same.sum() < 8
    assert torch.equal(mirrored[~same], prepared[~same].flip(-1))
    assert prepared.min() >= -1
    assert prepared.max() <= 1


def test_deletion_is_measured_on_what_the_network_finds(study, monkeypatch):
    deleted = []
    monkeypatch.setattr(
        measures, "faithfulness", lambda model, images, maps: deleted.append(images.flatten().tolist()) or {}
    )
    test = Images(torch.zeros(4), torch.tensor([0, 1, 1, 1]))
    logits = torch.tensor([[1.0, 0], [0, 1], [1, 0], [0, 1]])  # the third is overlooked
    map_figures(
        nn.Identity(),
        replace(study, judged_class=1),
        test,
        torch.arange(4.0),
        logits,
        torch.zeros(4, 1, 2, 2),
    )
    assert deleted == [[1.0, 3.0]]


def test_chosen_cells_are_found_ones_and_those_overlooked_most():
    labels = torch.tensor([0] * 4 + [1] * 12)
    certainty = torch.cat([torch.zeros(4), torch.linspace(5, -6, 12)])
    chosen = pictures.choose_cells(torch.stack([-certainty, certainty], dim=1), labels)
    assert chosen.tolist() == [4, 5, 6, 8, 12, 13, 14, 15]


def test_pictures_have_a_row_for_each_map():
    images = scenes(12)
    maps = torch.rand(12, 1, 4, 4)
    chosen = pictures.choose_objects(maps, images.masks)
    energy = metrics.energy_pointing_game(maps, images.masks)[chosen]
    assert (energy[:4].diff() <= 0).all()
    assert energy[-1] == metrics.energy_pointing_game(maps, images.masks).min()
    picture = pictures.comparison(images[chosen], {"ABN": maps[chosen], "noise": maps[chosen]})
    assert picture.size == (96 + 8 * 36 + 4, 3 * 36 + 4)


def test_main_example_prints_what_both_networks_are_worth_and_draws_defects(
    study, tmp_path, monkeypatch, capsys
):
    task = study.task()
    parts = (solar_cells.Cells(part.pixels, part.labels) for part in (task.train, task.test))
    monkeypatch.setattr(solar_cells, "efficientnet_lite", lambda number: timm.create_model("test_resnet"))
    monkeypatch.setattr(solar_cells, "LAST_LAYER", "layer4")
    monkeypatch.setattr(solar_cells, "IMAGE_SIZE", 32)
    monkeypatch.setattr(solar_cells, "load_cells", lambda size: parts)
    monkeypatch.setattr(solar_cells, "BATCH", study.recipe.batch)
    monkeypatch.setattr(solar_cells, "LEARNING_RATE", study.recipe.learning_rate)
    output = tmp_path / "cells.png"
    monkeypatch.setattr(sys, "argv", ["solar_cells.py", "--output", str(output)])
    solar_cells.main()
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    for line, name in zip(lines, ("with attention branch", "plain network"), strict=False):
        area = re.match(rf"{name} +accuracy [01]\.\d+, area .* ([01]\.\d+), 24 cells", line).group(1)
        assert float(area) > 0.95
    with Image.open(output) as picture:
        assert picture.size == (930, 450)


# The page


def test_page_shows_the_figures_of_every_network():
    images = {"perception": 0.91, "attention": 0.82, "agreement": 0.73}
    place = {"pointing": 0.64, "energy": 0.55}
    variant = {"photographs": images, "composites": images, "place": place, "parameters": 150}
    share = {"mean": 0.46, "median": 0.37}
    row = {**place, "deletion": 0.12, "insertion": 0.34, "seconds": 0.056}
    before = {
        "plain": {"photographs": 0.28, "composites": 0.19},
        "parameters": 100,
        "variants": dict.fromkeys(VARIANTS, variant),
        "maps": {"images": 9, "all": {"ABN": row, "random maps": row}, "few": {"Score-CAM": row}},
        "grids": {"photographs": 15, "2": {"ABN": share}, "3": {"ABN": share}},
        "seconds": {"plain": [1.0, 1.0, 1.0], "default": [2.0, 2.0, 2.0], "version 0.1": [3.0, 3.0, 3.0]},
    }
    maps = {"Grad-CAM": row, "random maps": row}
    plain = {"accuracy": 0.75, "auc": 0.85, "seconds_per_epoch": 30.0, "maps": maps}
    effect = {"correct": 0.76, "correct_replaced": 0.65, "change": 0.04}
    abn = {
        **plain,
        "attention": 0.72,
        "maps": {"ABN": row},
        "effect": dict.fromkeys(("ones", "mean", "another"), effect),
    }
    runs = {
        PLAIN: [(plain, {}), ({**plain, "accuracy": 0.65}, {})],
        DEFAULT: [(abn, {}), ({**abn, "accuracy": 0.77}, {})],
    }
    fine = {"size": 128, "split": "blocks.2", "map": [16, 16], "ratio": 5.5, "accuracy": 0.5, **place}
    studies = ("cells", "cutouts", "fashion")
    text = page({"MyNet": before}, dict.fromkeys(studies, runs), dict.fromkeys(studies, (30, 10)), [fine])
    assert "| MyNet | photographs | 0.280 | 0.910 | 0.820 | 0.730 |" in text
    assert "| MyNet | ABN | 0.640 | 0.550 | 0.120 | 0.340 | 56 |" in text
    assert "| MyNet | Score-CAM | 0.640 | 0.550 | 56 |" in text
    assert "| MyNet | ABN | 0.460 | 0.370 | 0.460 | 0.370 |" in text
    assert f"| MyNet | {DEFAULT_CHANGE} | 0.910 | 0.910 | 0.640 | 0.550 |" in text
    assert "| MyNet | default | 1.50 | 2.00 (2.00 to 2.00) |" in text
    assert "| plain network | 2 | 0.700 / 0.650 | 0.850 / 0.850 |  | 30 |" in text
    assert "| ABN | 2 | 0.760 / 0.750 | 0.850 / 0.850 | 0.720 / 0.720 | 30 |" in text
    assert "| ABN | 0.760 | 0.650, 0.040 | 0.650, 0.040 | 0.650, 0.040 |" in text
    assert "| 128 | `blocks.2` | 16 × 16 | 5.50 | 0.500 | 0.640 | 0.550 |" in text
