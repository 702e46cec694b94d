"""The experiments on attention maps: their data, what they choose, and the page they write."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from colored_digits import CANVAS, PIECE, place_colored
from digits import scans
from experiments.explanations import runs
from experiments.explanations.candidates import CANDIDATES
from experiments.explanations.page import TASKS, page
from experiments.explanations.pictures import choose, comparison
from experiments.explanations.runs import OTHERS, directory_of, stored
from experiments.tasks.located_digits import COLORED, GRAY
from finetune_attention import choose_to_edit, guided_loss, make_images, predict
from safetensors.torch import save_file

EXAMPLES = Path(__file__).parents[2] / "examples"


def squares(images: torch.Tensor) -> list[tuple[float, ...]]:
    """Color of the one square in each image that is filled evenly."""
    found = []
    for image in images:
        windows = image.unfold(1, PIECE, 1).unfold(2, PIECE, 1).flatten(3)  # (3, 41, 41, 64)
        even = (windows.amax(3) - windows.amin(3)).sum(0).eq(0) & (windows.mean(3).amax(0) == 1)
        places = even.nonzero()
        assert len(places) == 1
        found.append(tuple(image[:, places[0, 0], places[0, 1]].tolist()))
    return found


def test_square_betrays_the_class_as_often_as_said():
    digits, labels = (values[:60] for values in scans(train=True))
    colors = {}
    for tied in (1.0, 0.0):
        images, boxes = place_colored(digits, labels, digits, tied, torch.Generator().manual_seed(0))
        assert images.shape == (60, 3, CANVAS, CANVAS)
        assert set((boxes[:, 2] - boxes[:, 0]).tolist()) == {16, 24}
        assert images.min() >= 0
        assert images.max() <= 1
        colors[tied] = squares(images)
    of_class = [{color for color, other in zip(colors[1.0], labels, strict=True) if other == label}
                for label in range(10)]  # fmt: skip
    assert all(len(found) == 1 for found in of_class)
    right = sum(color in of_class[label] for color, label in zip(colors[0.0], labels, strict=True))
    assert right < 20  # of 60, by chance 6


def test_square_and_digit_lie_apart():
    digits, labels = (values[:40] for values in scans(train=True))
    images, boxes = place_colored(torch.zeros_like(digits), labels, torch.zeros_like(digits), 0.0)
    for image, (x1, y1, x2, y2) in zip(images, boxes.tolist(), strict=True):
        assert image[:, y1:y2, x1:x2].sum() == 0
        assert (image.amax(0) == 1).sum() == PIECE**2


def test_maps_of_misclassified_images_are_edited_first():
    model = CANDIDATES[0].network(3)
    images = make_images(True, 0.9, torch.Generator().manual_seed(0)).part(torch.arange(64))
    wrong = predict(model, images).perception_logits.argmax(dim=1) != images.labels
    few = choose_to_edit(model, images, 5, torch.Generator().manual_seed(0))
    most = choose_to_edit(model, images, int(wrong.sum()) + 2, torch.Generator().manual_seed(0))
    assert few.sum() == 5
    assert wrong[few].all()
    assert most.sum() == wrong.sum() + 2
    assert most[wrong].all()


def test_guided_loss_asks_only_of_edited_maps():
    model = CANDIDATES[0].network(3).eval()
    batch = make_images(True, 0.9, torch.Generator().manual_seed(0)).part(torch.tensor([3, 8]))
    losses = []
    for edited in ([], [8], [3, 8]):
        chosen = torch.zeros(1300, dtype=torch.bool)
        chosen[edited] = True
        losses.append(guided_loss("energy", 3.0, chosen)(model(batch.pixels), batch).item())
    assert losses[0] < min(losses[1:])
    assert losses[1] != losses[2]


def test_every_candidate_is_another_network_or_loss():
    batch = COLORED.scenes(True, torch.Generator().manual_seed(0))[torch.arange(4)]
    results = set()
    for candidate in CANDIDATES:
        torch.manual_seed(0)
        model = candidate.network(3)
        loss = candidate.loss(model)(batch)
        loss.backward()
        assert loss.isfinite()
        output = model(batch.images)
        results.add((loss.item(), output.attention_map.mean().item(), output.perception_logits.sum().item()))
    assert len(results) == len(CANDIDATES)


def test_cost_is_the_step_of_the_first_candidate_over_that_of_the_second(monkeypatch):
    seconds = {}

    def in_turn(calls, *, rounds):
        for name, call in calls.items():
            call()
            seconds[name] = [2.0 + name] * rounds
        return seconds

    monkeypatch.setattr(runs, "in_turn", in_turn)
    assert runs.cost(CANDIDATES[0], CANDIDATES[1], GRAY, rounds=3) == [2 / 3] * 3


def log(directory: Path, names: list[str], accuracy: float, count: int) -> None:
    """What a run would have left."""
    directory.mkdir()
    worth = {"pointing": accuracy, "energy": accuracy - 0.25, "deletion": 0.125, "insertion": 0.5}
    figures = {"accuracy": accuracy, "maps": dict.fromkeys(names, worth)}
    (directory / "figures.json").write_text(json.dumps(figures))
    save_file({name: torch.rand(count, 1, 6, 6).half() for name in names}, directory / "maps.safetensors")


def test_page_tells_mean_and_worst_seed_and_what_came_back(tmp_path):
    for task in TASKS:
        for candidate in (None, *CANDIDATES):
            for seed, accuracy in enumerate((0.75, 1.0)):
                names = list(OTHERS) if candidate is None else ["ABN"]
                log(directory_of(tmp_path, candidate, task, seed), names, accuracy, 3)
    figures, maps = stored(directory_of(tmp_path, None, GRAY, 1))
    assert figures["accuracy"] == 1.0
    assert maps["LayerCAM"].dtype == torch.float32
    results = [
        {
            name: {"accuracy": accuracy, "pointing": 0.5, "energy": 0.25}
            for name, accuracy in (("not misled", 0.9), ("misled", 0.1), ("corrected", value))
        }
        for value in (0.4, 0.6)
    ]
    text = page(tmp_path, seeds=2, epochs=1, results=results, ratios=[1.5, 1.0, 1.25])
    assert text.count("0.875 / 0.750 | 0.875 / 0.750 | 0.625 / 0.500 | 0.125 / 0.125 | 0.500 / 0.500 |") == 22
    assert text.count("| 0 | 0.750 | 0.750 | 0.750 | 0.750 | 0.500 | 0.500 |") == 2
    assert "| corrected | 0.500 / 0.400 | 50% | 0.500 / 0.500 | 0.250 / 0.250 |" in text
    assert "1.250 times as long" in text
    for candidate in CANDIDATES:
        assert f"- **{candidate.title}**: {candidate.verdict}" in text
        assert candidate.verdict


def test_picture_shows_the_worst_maps_too():
    scenes = COLORED.test_scenes()[torch.arange(20)]
    maps = torch.full((20, 1, CANVAS, CANVAS), 0.1)
    for i, (x1, y1, x2, y2) in enumerate(scenes.boxes.tolist()):
        maps[i, :, y1:y2, x1:x2] = 0.5 if i in (3, 7, 9, 13) else 0.9
    chosen = choose(scenes, maps)
    assert len(set(chosen.tolist())) == 8
    picture = comparison(scenes, {"ABN": maps, "LayerCAM": maps}, chosen)
    assert picture.size == (96 + 8 * (3 * CANVAS + 4) + 4, 3 * (3 * CANVAS + 4) + 4)


@pytest.mark.slow
def test_finetuning_prints_its_figures(tmp_path):
    command = [sys.executable, str(EXAMPLES / "finetune_attention.py"), "--epochs", "1", "--more-epochs", "1"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    lines = result.stdout.splitlines()
    names = ["network", "not misled", "misled", "fine-tuned without maps", "fine-tuned, energy"]
    assert [line[:28].strip() for line in lines] == names
    assert all(0 <= float(figure) <= 1 for line in lines[1:] for figure in line[28:].split())
