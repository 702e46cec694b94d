"""Edited maps as files: written in one step, read as they were, refused if they do not fit."""

import json
import multiprocessing

import pytest
import torch

from abn import Preprocessing
from abn.edits import EditConflictError, Edits, remove_edit, save_edit

UNCROPPED = Preprocessing(resize=(224, 224))


def test_map_comes_back_with_what_is_known_of_it(tmp_path):
    edited, original = torch.rand(1, 14, 14), torch.rand(1, 14, 14)
    details = {"label": "cat", "before": {"dog": 0.9}}
    save_edit(tmp_path, "cats/1.jpg", edited, preprocessing=UNCROPPED, original=original, details=details)
    save_edit(tmp_path, "2.png", torch.rand(3, 7, 9), preprocessing=UNCROPPED)
    edits = Edits(tmp_path)
    assert list(edits) == ["cats/1.jpg", "2.png"]
    assert torch.equal(edits["cats/1.jpg"], edited)
    assert torch.equal(edits.original("cats/1.jpg"), original)
    assert edits.details["cats/1.jpg"] == {**details, "size": [1, 14, 14], "revision": 1}
    assert edits["2.png"].shape == (3, 7, 9)
    assert edits.preprocessing == UNCROPPED


def test_later_edit_replaces_the_earlier_one(tmp_path):
    for value in (0.25, 0.75):
        save_edit(tmp_path, "1.jpg", torch.full((1, 4, 4), value), preprocessing=UNCROPPED)
    assert Edits(tmp_path)["1.jpg"].unique().tolist() == [0.75]
    assert len(Edits(tmp_path)) == 1


def test_only_the_edit_that_was_opened_is_replaced(tmp_path):
    first, second, third = (torch.full((1, 4, 4), value) for value in (0.25, 0.5, 0.75))
    assert save_edit(tmp_path, "1.jpg", first, preprocessing=UNCROPPED, replaces=0) == 1
    for stale in (0, 7):
        with pytest.raises(EditConflictError, match=r"1\.jpg was changed by someone else"):
            save_edit(tmp_path, "1.jpg", second, preprocessing=UNCROPPED, replaces=stale)
    assert torch.equal(Edits(tmp_path)["1.jpg"], first)
    assert save_edit(tmp_path, "1.jpg", third, preprocessing=UNCROPPED, replaces=1) == 2
    assert Edits(tmp_path).revision("1.jpg") == 2
    assert torch.equal(Edits(tmp_path)["1.jpg"], third)


def test_edit_is_removed(tmp_path):
    save_edit(tmp_path, "1.jpg", torch.rand(1, 4, 4), preprocessing=UNCROPPED)
    with pytest.raises(EditConflictError):
        remove_edit(tmp_path, "1.jpg", replaces=2)
    remove_edit(tmp_path, "1.jpg", replaces=1)
    assert list(Edits(tmp_path)) == list((tmp_path / "maps").iterdir()) == []
    assert Edits(tmp_path).revision("1.jpg") == 0
    with pytest.raises(EditConflictError, match="was removed by someone else"):
        save_edit(tmp_path, "1.jpg", torch.rand(1, 4, 4), preprocessing=UNCROPPED, replaces=1)
    with pytest.raises(KeyError):
        remove_edit(tmp_path, "1.jpg")
    # The edit made next does not pass for the one that was removed.
    assert save_edit(tmp_path, "1.jpg", torch.rand(1, 4, 4), preprocessing=UNCROPPED, replaces=0) == 2


def save_some(folder, first):
    for number in range(first, first + 10):
        save_edit(folder, f"{number}.jpg", torch.rand(1, 2, 2), preprocessing=UNCROPPED)


def test_two_processes_lose_no_edit(tmp_path):
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=save_some, args=(tmp_path, first)) for first in (0, 10)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert len(Edits(tmp_path)) == 20


@pytest.mark.parametrize(
    "other", [Preprocessing(), Preprocessing(crop_mode="border"), Preprocessing((224, 224), (224, 256))]
)
def test_edits_over_another_part_of_the_images_are_refused(other, tmp_path):
    save_edit(tmp_path, "1.jpg", torch.rand(1, 4, 4), preprocessing=UNCROPPED)
    with pytest.raises(ValueError, match="keeps another part of each image"):
        save_edit(tmp_path, "2.jpg", torch.rand(1, 4, 4), preprocessing=other)


def test_edits_of_a_network_for_larger_images_fit(tmp_path):
    save_edit(tmp_path, "1.jpg", torch.rand(1, 4, 4), preprocessing=Preprocessing())
    for size in (32, 320):
        other = Preprocessing().at((size, size))
        save_edit(tmp_path, f"{size}.jpg", torch.rand(1, 4, 4), preprocessing=other)
    assert len(Edits(tmp_path)) == 3


def test_whole_images_are_whole_whatever_their_proportions(tmp_path):
    for size in ((64, 64), (32, 64)):
        save_edit(tmp_path, f"{size}.jpg", torch.rand(1, 4, 4), preprocessing=Preprocessing(size, size))
    assert len(Edits(tmp_path)) == 2


def test_own_map_may_be_beyond_0_to_1(tmp_path):
    original = torch.tensor([[[-3.0, 7.0]]])  # as of official networks
    edited = torch.rand(1, 4, 4)
    save_edit(tmp_path, "1.jpg", edited, preprocessing=UNCROPPED, original=original)
    assert torch.equal(Edits(tmp_path).original("1.jpg"), original)


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "../1.jpg", "a/../../1.jpg", "..\\1.jpg", "C:/1.jpg", "", ".", 3]
)
def test_image_outside_the_folder_is_refused(name, tmp_path):
    with pytest.raises(ValueError, match="expected a path relative to the folder of the images"):
        save_edit(tmp_path / "edits", name, torch.rand(1, 4, 4), preprocessing=UNCROPPED)
    assert not (tmp_path / "edits").exists()


@pytest.mark.parametrize(
    ("edited", "message"),
    [
        (torch.rand(4, 4), r"attention_map has shape \(4, 4\), expected \(T, h, w\)"),
        (torch.full((1, 4, 4), 2.0), "expected values from 0 to 1"),
        (torch.full((1, 4, 4), torch.nan), "holds NaN"),
        (torch.ones(1, 4, 4, dtype=torch.int64), "expected bool, or floating point"),
    ],
)
def test_map_that_is_none_is_refused(edited, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        save_edit(tmp_path / "edits", "1.jpg", edited, preprocessing=UNCROPPED)
    assert not (tmp_path / "edits").exists()


@pytest.mark.parametrize(
    "details", [{"map": torch.rand(2)}, {"share": float("nan")}, {"size": 3}, {"revision": 1}]
)
def test_details_that_json_cannot_hold_are_refused(details, tmp_path):
    with pytest.raises(ValueError, match=r"details (of 1\.jpg are not JSON|hold \{'(size|revision)'\})"):
        save_edit(
            tmp_path / "edits",
            "1.jpg",
            torch.rand(1, 4, 4),
            preprocessing=UNCROPPED,
            details=details,
        )
    assert not (tmp_path / "edits").exists()


def test_what_breaks_off_leaves_the_edit_before(tmp_path, monkeypatch):
    save_edit(tmp_path, "1.jpg", torch.zeros(1, 4, 4), preprocessing=UNCROPPED)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("abn.edits.save_file", full)
    with pytest.raises(OSError, match="No space left"):
        save_edit(tmp_path, "1.jpg", torch.ones(1, 4, 4), preprocessing=UNCROPPED)
    assert Edits(tmp_path)["1.jpg"].max() == 0
    assert not list(tmp_path.rglob("*.part"))


def test_folder_without_edits_is_told(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds no manifest\.json"):
        Edits(tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        json.dumps({"format": 9, "preprocessing": {}, "images": {}}),
        json.dumps({"format": 1, "preprocessing": {"size": "large"}, "images": {}}),
        json.dumps({"format": 1, "preprocessing": {}, "images": {}}),
        json.dumps({"format": 1, "preprocessing": {}, "images": {"../../secret": {}}}),
        json.dumps({"format": 1, "preprocessing": {}, "images": {"1.jpg": 3}}),
    ],
)
def test_damaged_manifest_is_refused(text, tmp_path):
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(ValueError, match=r"manifest\.json"):
        Edits(tmp_path)


def test_damaged_map_is_refused(tmp_path):
    save_edit(tmp_path, "1.jpg", torch.rand(1, 4, 4), preprocessing=UNCROPPED)
    (tmp_path / "maps" / "1.jpg.safetensors").write_bytes(b"damaged")
    with pytest.raises(ValueError, match=r"1\.jpg\.safetensors cannot be read"):
        Edits(tmp_path)["1.jpg"]
