"""The study of edited maps: what it paints, what it trains with, and the page it writes, on made-up data."""

import pytest
import timm
import torch
from experiments.editing import main as editing
from experiments.tasks import betrayed_cutouts, cutouts, photographs
from experiments.tasks.images import Images, Task
from PIL import Image

from abn import wrap_backbone
from abn.edits import Edits


@pytest.fixture
def task(monkeypatch):
    """Images whose object is the upper half."""
    monkeypatch.setattr(editing, "SIZE", 32)
    monkeypatch.setattr(editing, "BATCH", 8)
    masks = torch.zeros(16, 32, 32, dtype=torch.bool)
    masks[:, :16] = True
    pixels = torch.randint(0, 256, (16, 3, 32, 32), dtype=torch.uint8)
    images = Images(pixels, torch.arange(16) % 2, masks)
    return Task("task", ["one", "other"], images, images, (-1,))


def test_painted_maps_are_the_masks_and_draw_the_maps_of_the_network(task, tmp_path):
    editing.paint(tmp_path, task, range(12))
    edits = Edits(tmp_path)
    assert len(edits) == 12
    assert edits["0003.png"][:, :8].min() == 1
    assert edits["0003.png"][:, 8:].max() == 0
    assert edits.details["0003.png"]["label"] == "other"
    energy = []
    for given in (None, edits):
        torch.manual_seed(0)
        model = wrap_backbone(timm.create_model("test_resnet"), num_classes=2, input_size=32)
        editing.fit(model, task, seed=0, epochs=8, learning_rate=1e-2, edits=given)
        energy.append(editing.figures_of(model, task)["energy"])
    assert energy[1] > energy[0] + 0.1


def test_mistakes_are_edited_first(task):
    model = wrap_backbone(timm.create_model("test_resnet"), num_classes=2, input_size=32)
    order = editing.order_of_edits(model, task, seed=0)
    assert sorted(order) == list(range(16))
    with torch.no_grad():
        predicted = model.eval()(task.prepared(task.train)).perception_logits.argmax(dim=1)
    wrong = (predicted != task.train.labels)[order].tolist()
    assert wrong == sorted(wrong, reverse=True)


def test_page_tells_mean_and_worst_seed(task, monkeypatch):
    monkeypatch.setattr(editing, "task_of", lambda betrayed: task)
    names = list(editing.TITLES)
    results = [
        {name: {"accuracy": share, "pointing": share, "energy": share} for name in names}
        for share in (0.25, 0.75)
    ]
    for result in results:
        result["plain"] = {"accuracy": result["plain"]["accuracy"]}
    text = editing.page(results)
    assert "| plain network, misled | 0.500 / 0.250 |  |  |" in text
    assert text.count("0.500 / 0.250 | 0.500 / 0.250 | 0.500 / 0.250 |") == len(names) - 1
    assert text.count("| 0.250 | 0.750 |") == len(names)
    assert "16 training images" in text


def test_background_betrays_the_kind_as_often_as_said(tmp_path, monkeypatch):
    colors = {name: (40 * number, 90, 200) for number, name in enumerate(photographs.PLAIN)}
    for name, color in colors.items():
        (tmp_path / "nature").mkdir(exist_ok=True)
        Image.new("RGB", (300, 300), color).save(tmp_path / "nature" / f"{name}.png")
        (tmp_path / "nature" / f"{name}.png").rename(tmp_path / "nature" / f"{name}.jpg")
    for kind in betrayed_cutouts.BACKGROUNDS_OF:
        folder = tmp_path / "stamps" / cutouts.KINDS[kind][0]
        folder.mkdir(parents=True)
        for number in range(4):
            Image.new("RGBA", (40, 30), (255, 0, 0, 255)).save(folder / f"{chr(97 + number)}.png")
    for module in (cutouts, photographs):
        monkeypatch.setattr(module, "STAMPS", tmp_path / "stamps")
        monkeypatch.setattr(module, "BACKGROUNDS", tmp_path / "nature")
    for betrayed, share in ((1.0, 1.0), (0.0, 0.2)):
        task = betrayed_cutouts.betrayed_cutouts(16, betrayed)
        right = []
        for pixels, label, mask in zip(task.train.pixels, task.train.labels, task.train.masks, strict=True):
            background = pixels[:, ~mask].float().median(dim=1).values
            expected = torch.tensor(colors[betrayed_cutouts.BACKGROUNDS_OF[task.classes[int(label)]]])
            right.append((background - expected).abs().max() < 20)
        assert torch.tensor(right).float().mean().item() == pytest.approx(share, abs=0.15)
