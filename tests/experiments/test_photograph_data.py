"""Where the study of photographs takes its images and maps from, on made-up files and small networks."""

import gzip
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import timm
import torch
from experiments.photos import before, fineness
from experiments.photos.methods import CAMS, SCORE_CAMS
from experiments.tasks import cutouts, fashion
from experiments.tasks import photographs as data
from experiments.tasks.cells import cells
from experiments.tasks.photographs import Photograph
from PIL import Image

from abn.preprocessing import Preprocessing


def test_cell_is_defective_if_a_defect_is_more_likely_than_not(monkeypatch):
    probabilities = np.tile([0, 1 / 3, 2 / 3, 1], 16)
    photographs = (200 * probabilities).astype(np.uint8)[:, None, None] + np.zeros((64, 30, 30), np.uint8)
    loaded = photographs, probabilities, np.array(["mono"] * 64)
    package = SimpleNamespace(load_dataset=lambda: loaded)
    monkeypatch.setitem(sys.modules, "elpv_dataset", SimpleNamespace(utils=package))
    monkeypatch.setitem(sys.modules, "elpv_dataset.utils", package)
    task = cells(16)
    assert (len(task.train), len(task.test)) == (48, 16)
    for part in (task.train, task.test):
        assert part.pixels.shape[1:] == (3, 16, 16)
        assert torch.equal(part.pixels[:, 0, 0, 0] > 100, part.labels == 1)


@pytest.fixture
def stamps(tmp_path, monkeypatch):
    """Cut-outs of each kind, and backgrounds."""
    for index, folders in enumerate(cutouts.KINDS.values()):
        folder = tmp_path / "stamps" / folders[0]
        folder.mkdir(parents=True)
        for name in ("one", "two", "three", "four", "one-more", "one_mirror"):
            Image.new("RGBA", (40, 30), (20 * index, 0, 255, 255)).save(folder / f"{name}.png")
    (tmp_path / "nature").mkdir()
    for name in data.PLAIN:
        Image.new("RGB", (400, 300), (0, 255, 0)).save(tmp_path / "nature" / f"{name}.jpg")
    for module in (cutouts, data):
        monkeypatch.setattr(module, "STAMPS", tmp_path / "stamps")
        monkeypatch.setattr(module, "BACKGROUNDS", tmp_path / "nature")
    return tmp_path / "stamps"


def test_objects_of_the_test_are_not_in_training_under_another_name(stamps):
    files = [path for path in (stamps / "animals/birds").glob("*.png") if cutouts.is_photograph(path)]
    train, test = cutouts.split(files, data.random.Random(0))
    assert len(test) > 0
    assert {file.stem for file in files} == {"one", "two", "three", "four", "one-more"}
    names = [{file.stem.split("-")[0] for file in part} for part in (train, test)]
    assert not names[0] & names[1]


def test_cut_outs_are_where_their_masks_say(stamps):
    task = cutouts.cutouts(32)
    for part in (task.train, task.test):
        assert len(part) % cutouts.PLACES == 0
        assert set(part.labels.tolist()) == set(range(len(cutouts.KINDS)))
        blue = part.pixels[:, 2] > 127
        assert (blue == part.masks).float().mean() > 0.98  # but for the edges, which are blended


@pytest.mark.parametrize("make", [cutouts.cutouts, lambda size: list(data.composites(0))])
def test_missing_package_is_named(make, tmp_path, monkeypatch):
    monkeypatch.setattr(data, "STAMPS", tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="apt-get install tuxpaint-stamps-default"):
        make(32)


def test_fashion_is_read_from_the_files_of_its_package(tmp_path, monkeypatch):
    for part, count in (("train", 6), ("t10k", 2)):
        pixels, labels = np.full((count, 28, 28), 7, np.uint8), np.arange(count, dtype=np.uint8)
        for kind, values in (("images-idx3", pixels), ("labels-idx1", labels)):
            head = bytes([0, 0, 8, values.ndim]) + b"".join(n.to_bytes(4, "big") for n in values.shape)
            with gzip.open(tmp_path / f"{part}-{kind}-ubyte.gz", "wb") as file:
                file.write(head + values.tobytes())
    monkeypatch.setattr(fashion, "PACKAGE", tmp_path)
    task = fashion.fashion()
    assert (len(task.classes), len(task.train), len(task.test)) == (10, 6, 2)
    assert task.test.pixels.shape == (2, 1, 28, 28)
    assert task.train.labels.tolist() == list(range(6))


@pytest.fixture
def network():
    """A small network as the study knows its networks."""
    torch.manual_seed(0)
    model = timm.create_model("test_resnet", num_classes=4).eval()
    preprocessing = Preprocessing((64, 64), 64)
    return SimpleNamespace(load=lambda: model, layer="layer4", preprocessing=preprocessing)


@pytest.mark.parametrize("name", [*CAMS, *SCORE_CAMS])
def test_methods_of_other_libraries_give_a_map_for_each_image(name, network):
    images = torch.randn(3, 3, 64, 64)
    method = {**CAMS, **SCORE_CAMS}[name]
    maps = method(network.load(), network.layer, images, torch.tensor([0, 1, 3]))
    assert maps.shape[:2] == (3, 1)
    assert maps.isfinite().all()
    assert not maps.requires_grad


def photographs_of(network, count):
    """Photographs that the network gets right, with a mask."""
    images = [Image.effect_noise((64, 64), 20 + 30 * number).convert("RGB") for number in range(count)]
    mask = torch.zeros(64, 64, dtype=torch.bool)
    mask[:32] = True
    with torch.no_grad():
        batch = torch.stack([network.preprocessing(image) for image in images])
        predicted = network.load()(batch).argmax(dim=1).tolist()
    return [Photograph(image, [label], mask) for image, label in zip(images, predicted, strict=True)]


@pytest.mark.slow
def test_all_figures_before_training_are_measured(network, monkeypatch):
    seen = photographs_of(network, 6)
    monkeypatch.setattr(before, "photographs", lambda: seen)
    monkeypatch.setattr(before, "composites", lambda seed: iter(seen))
    monkeypatch.setattr(before, "PASTED_TIMES", 1)
    monkeypatch.setattr(before, "SCORED", 2)
    chosen = {2: torch.arange(4)[None], 3: torch.arange(9)[None] % 6}
    monkeypatch.setattr(before.metrics, "choose_grids", lambda *_, side, **__: chosen[side])
    shares = torch.full((1, 4), 0.5)
    monkeypatch.setattr(before.metrics, "grid_pointing_game", lambda *_: shares)
    figures = before.measure(network)
    assert figures["plain"] == {"photographs": 1.0, "composites": 1.0}
    assert set(figures["variants"]) == set(before.VARIANTS)
    figures = before.explain(network, score_cam=True)
    assert set(figures["maps"]["all"]) == {"ABN", "random maps", *CAMS}
    assert set(figures["maps"]["few"]) == {"ABN", "random maps", *CAMS, *SCORE_CAMS}
    for values in figures["maps"]["all"].values():
        assert all(0 <= values[key] <= 1 for key in ("pointing", "energy", "deletion", "insertion"))
    assert figures["grids"]["3"]["ABN"] == {"mean": 0.5, "median": 0.5}


def test_an_earlier_split_gives_a_finer_map(network):
    rows = fineness.of_size(network, network.load(), photographs_of(network, 3), 64)
    assert [row["map"] for row in rows] == [[2, 2], [4, 4], [8, 8]]
    assert [row["split"] for row in rows] == ["", "layer3", "layer2"]
    assert all(row["ratio"] > 0 for row in rows)
