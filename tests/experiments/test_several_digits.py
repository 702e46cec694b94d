"""The experiment on several tasks: its data, its measures, and the page it writes."""

import json

import pytest
import torch
from experiments.common.memory import in_new_process
from experiments.multitask import cost
from experiments.multitask.page import page, picture
from experiments.multitask.runs import KINDS, answers, criterion, file_of, loss_of, maps_of, places
from experiments.tasks.several_digits import CLASSES, MOST, NAMES, TASKS, SeveralDigits
from safetensors.torch import save_file


@pytest.fixture(scope="module")
def scenes():
    return SeveralDigits().test_scenes()


def test_masks_cover_the_digits_that_the_labels_name(scenes):
    there = scenes.masks.flatten(2).any(dim=2)
    assert torch.equal(there[:, :CLASSES], scenes.labels[:, :CLASSES] > 0)
    assert torch.equal(scenes.masks[:, -1], scenes.masks[:, :-1].any(dim=1))
    areas = scenes.masks[:, -1].flatten(1).sum(dim=1) / 16**2  # digits do not overlap
    assert set(areas.tolist()) == {*range(1, MOST + 1)}


def test_last_label_is_the_sum_in_tens(scenes):
    distinct = scenes.labels[:, :CLASSES].sum(dim=1) == scenes.masks[:, -1].flatten(1).sum(dim=1) / 16**2
    assert distinct.sum() > 200  # no digit twice
    expected = scenes.labels[distinct, :CLASSES] @ torch.arange(10.0) / 10
    torch.testing.assert_close(scenes.labels[distinct, -1], expected)


def test_criterion_is_the_mean_over_the_tasks():
    labels = torch.zeros(3, TASKS)
    logits = torch.zeros(3, TASKS)
    logits[:, -1] = 2.0  # 4 off in the square; and log 2 for each digit
    expected = (CLASSES * torch.tensor(2.0).log() + 4) / TASKS
    torch.testing.assert_close(criterion(logits, labels), expected)


def test_measures_by_hand(scenes):
    some = scenes[torch.arange(40)]
    logits = 20 * some.labels - 10
    logits[:, -1] = some.labels[:, -1] + 0.3
    logits[0, 4] *= -1  # one wrong answer to "a 4?"
    figures = {**answers(logits, some), **places(some.masks.float() - 0.5, some)}
    assert figures["accuracy"] == pytest.approx([1, 1, 1, 1, 39 / 40, 1, 1, 1, 1, 1])
    assert figures["error"] == pytest.approx(3)
    assert figures["pointing"] == figures["energy"] == pytest.approx([1] * TASKS)


def test_every_kind_of_network_learns_from_its_loss(scenes):
    batch = scenes[torch.arange(4)]
    losses = set()
    for kind in KINDS:
        torch.manual_seed(0)
        loss = loss_of(kind.network())(batch)
        loss.backward()
        losses.add(loss.item())
    assert len(losses) == len(KINDS)


def test_page_and_picture_tell_what_was_logged(tmp_path):
    for kind in (None, *KINDS):
        for seed, share in enumerate((0.75, 1.0)):
            digits = [share] * (CLASSES - 1) + [share - 0.25]
            figures = {
                "accuracy": digits,
                "error": 2 - share,
                "pointing": [*digits, 0.5],
                "energy": [*digits, 0.25],
            }
            file_of(tmp_path, kind, seed).write_text(json.dumps(figures))
            save_file({"maps": torch.rand(4, TASKS, 12, 12).half()}, maps_of(tmp_path, kind, seed))
    memory = dict(zip(cost.CHUNKS, (300.0, 200.0, 100.0), strict=True))
    costs = [{"tasks": 10, "phase": "training", "threads": 2, "ratios": [0.5, 0.75, 1.0], "memory": memory}]
    text = page(tmp_path, seeds=2, epochs=3, costs=costs)
    share, least = "0.850 / 0.725", "0.625 / 0.500"
    row = [share, least, "1.125 / 1.250", share, least, share, "0.250 / 0.250"]
    assert text.count(f"| {' | '.join(row)} |") == 1 + len(KINDS)
    assert f"| {NAMES[9]} | 0.625 | 0.625 | 0.625 | 0.625 | 0.625 | 0.625 |" in text
    assert "| 10 | training | 0.75 (0.50 to 1.00) | 300 | 200 | 100 |" in text
    assert all(f"- **{kind.title}**: {kind.verdict}" in text and kind.verdict for kind in KINDS)
    assert picture(tmp_path).size == ((1 + TASKS) * 104 - 8, 4 * 118)


@pytest.mark.parametrize("training", [False, True])
def test_cost_is_the_folded_pass_over_the_loop(training, monkeypatch):
    seconds = {}

    def in_turn(calls, *, rounds):
        for chunk, call in calls.items():
            call()
            seconds[chunk] = [1.0 if chunk is None else 4.0] * rounds
        return seconds

    monkeypatch.setattr(cost, "SIZE", 64)
    monkeypatch.setattr(cost, "in_turn", in_turn)
    assert cost.time_ratios(2, training) == [0.25] * cost.PAIRS


@pytest.mark.slow
def test_cost_measures_memory_in_a_process_of_its_own():
    folded, loop = (in_new_process(cost.peak_memory, 10, False, chunk) for chunk in (None, 1))
    assert folded > loop
