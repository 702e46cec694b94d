"""The benchmark: its baseline, the forms that networks run in, what it measures, and the page it writes."""

import json
from pathlib import Path

import pytest
import torch
import torchvision
from experiments.common.memory import added_memory, in_new_process
from experiments.common.timing import in_turn, ratios
from experiments.performance import measure
from experiments.performance.contenders import METHODS, MODELS, NETWORKS, official, straightforward
from experiments.performance.forms import fold_batch_norms
from experiments.performance.inference import forms_of
from experiments.performance.logs import best, fastest_method
from experiments.performance.page import page
from experiments.performance.picture import picture
from experiments.performance.training import TRAINED, checkpointed, step_of
from torch import nn


@pytest.fixture
def backbone():
    torch.manual_seed(0)
    return torchvision.models.resnet18(num_classes=7)


def images() -> torch.Tensor:
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("other", [straightforward, checkpointed])
def test_baselines_compute_the_official_function(backbone, other):
    one, other = official(backbone), other(backbone)
    other.load_state_dict(one.state_dict())
    for ours, theirs in zip(one.eval()(images()), other.eval()(images()), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_straightforward_baseline_convolves_before_it_pools(backbone):
    def flops(build) -> int:
        model = build(backbone).eval()
        return measure.flops(lambda: model(images()))

    pixels, classes = 4 * 4, 7  # of the features, for images of 64 pixels
    assert flops(straightforward) - flops(official) == 2 * 2 * classes**2 * (pixels - 1)


def test_folded_norms_leave_the_logits(backbone):
    for norm in backbone.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.uniform_(norm.running_var, 0.5, 2)
            nn.init.normal_(norm.running_mean)
    expected = backbone.eval()(images())
    fold_batch_norms(backbone, images())
    assert not any(isinstance(module, nn.BatchNorm2d) for module in backbone.modules())
    torch.testing.assert_close(backbone(images()), expected, atol=1e-3, rtol=1e-3)


def test_calls_take_turns_and_the_order_is_reversed_every_other_round():
    order = []
    times = in_turn({name: lambda name=name: order.append(name) for name in "ab"}, rounds=7)
    assert "".join(order) == 4 * "baab" + "ba"
    assert {name: len(seconds) for name, seconds in times.items()} == {"a": 7, "b": 7}


def memory_of_256_mebibytes() -> float:
    return added_memory(lambda: torch.ones(64, 2**20).sum())


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux")
def test_added_memory_is_that_of_the_call():
    assert in_new_process(memory_of_256_mebibytes) == pytest.approx(256, rel=0.1)


def test_step_updates_every_weight(backbone):
    model = TRAINED["light"](backbone)
    before = [parameter.clone() for parameter in model.parameters()]
    step, _ = step_of(model, images())
    step()
    assert not any(map(torch.equal, before, model.parameters()))


def test_ratio_is_within_the_rounds():
    assert ratios([2.0, 9.0], [1.0, 3.0]) == [2, 3]


def test_best_form_is_the_fastest():
    assert best({"eager": [4.0], "folded": [3.0], "folded, bfloat16": [2.0]}) == "folded, bfloat16"
    times = {row: {"eager": [9.0], "folded": [float(i)]} for i, row in enumerate(METHODS, 2)}
    assert fastest_method(times) == ("torch-cam GradCAM", [2.0])


def logs(directory):
    """Made up: a second for everything, a tenth less for what this library computes."""
    seconds = {"eager": [1.0] * 3, "deployed": [0.5] * 3}
    times = dict.fromkeys(MODELS, seconds) | {"official": {"eager": [0.9] * 3, "deployed": [0.45] * 3}}
    times |= {row: {**dict.fromkeys(forms_of(row), [0.75] * 3), "eager": [1.0] * 3} for row in METHODS}
    rows = {row: {"flops": 2, "parameters": 3} for row in (*MODELS, *METHODS)}
    training = {row: {"eager": [2.0] * 3} for row in TRAINED} | {
        "plain": {"eager": [1.0] * 3, "accelerated": [0.5] * 3}
    }
    memory = {row: {"eager": 4.0} for row in TRAINED} | {"plain": {"eager": 3.0, "accelerated": 1.0}}
    machine = {
        "kind": "cpu",
        "device": "CPU",
        "machine": "a machine",
        "versions": "torch 2",
    }
    contents = {
        "machine": machine,
        "commands": ["python x", "python y"],
        "arithmetic_resnet18": rows,
        "times_resnet18_1": times,
        "times_resnet18_8": {},
        "memory_resnet18_1": dict.fromkeys(MODELS, 10.0),
        "score_cam": {"plain": {"eager": [1.0]}, "torch-cam ScoreCAM": {"eager": [500.0]}},
        "training_resnet18_8": training,
        "training_memory_resnet18_8": memory,
        "imports": [0.04, 0.05, 0.06],
        "wrapping": {"resnet18": [0.6, 0.1, 0.05], "vgg16": [0.8, 0.7, 0.2]},
    }
    for name, content in contents.items():
        (directory / f"{name}.json").write_text(json.dumps(content))


def test_page_and_picture_tell_what_the_logs_say(tmp_path):
    (tmp_path / "cpu").mkdir()
    logs(tmp_path / "cpu")
    text = page(tmp_path)
    assert "a machine. torch 2.\n\n```bash\npython x\npython y\n```" in text
    goals = ["0.90 (0.90–0.90)", "0.45 (0.45–0.45)", "0.90 (0.90–0.90)", *["1.00 (1.00–1.00)"] * 3]
    assert f"| ResNet-18, 1 | {' | '.join(goals)} |" in text
    assert "| **goal reached** | 1 of 1 | 1 of 1 |  | 1 of 1 | 1 of 1 | 1 of 1 |" in text
    assert "| **goal reached** |  |  | 1 of 1 | 1 of 1 |" in text
    assert "| ResNet-18, 8 |" not in text.partition("### A step of training")[0]  # did not fit into memory
    assert "| ResNet-18, 1 | torch-cam GradCAM | folded | 1.50 (1.50–1.50) | 1.50 (1.50–1.50) |" in text
    assert "torch-cam ScoreCAM, one image, ResNet-18: 500 times the plain forward." in text
    trained = ["0.50 (0.50–0.50)", "0.75", "0.25 (0.25–0.25)", "0.25"]
    assert f"| ResNet-18, 8 | plain backbone, no map | {' | '.join(trained)} |" in text
    assert "1 of 2 within 0.5 s (0 the first time), half of them in 0.40 s" in text
    assert "| vgg16 | 0.70 | 0.80 | 0.20 |" in text
    assert "0.050 s (median of 3 pairs of processes)" in text
    (axis,) = picture(tmp_path / "cpu").axes
    assert (axis.get_title(), len(axis.patches)) == (
        NETWORKS["resnet18"].title,
        len(MODELS) - 2 + len(METHODS),
    )
