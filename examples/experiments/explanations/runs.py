"""Trains one network, and measures its maps, or the maps that other methods make of it."""

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F
from torchcam.methods import GradCAM, LayerCAM

from abn import ABN, ABNOutput, metrics
from abn.models import cifar_resnet
from abn.saving import replacing
from experiments.common.timing import in_turn, ratios
from experiments.common.training import BATCH, step, train_on_digits
from experiments.explanations.candidates import Candidate
from experiments.explanations.losses import Loss
from experiments.tasks.located_digits import Scenes, Task

OTHERS = {"Grad-CAM": GradCAM, "LayerCAM": LayerCAM}
"""Methods that make a map of the plain network, from its last stage."""
DELETED = 128  # test images for deletion and insertion, which take 48 passes each
STEP = 96  # pixels removed at once


def run(candidate: Candidate | None, task: Task, seed: int, epochs: int, directory: Path) -> None:
    """Trains and measures one network, if not done before. Without a candidate it is the plain network."""
    if (directory / "figures.json").exists():
        return
    torch.manual_seed(seed)
    if candidate is None:
        plain = cifar_resnet(20, in_channels=task.channels)
        train_on_digits(
            plain, lambda batch: F.cross_entropy(plain(batch.images), batch.labels), task, seed, epochs
        )
        figures, maps = measure_plain(plain, task.test_scenes())
    else:
        model = candidate.network(task.channels)
        train_on_digits(model, candidate.loss(model), task, seed, epochs)
        figures, maps = measure_abn(model, task.test_scenes())
    directory.mkdir(parents=True, exist_ok=True)
    with replacing(directory / "maps.safetensors") as file:
        save_file({name: values.half().contiguous() for name, values in maps.items()}, file)
    with replacing(directory / "figures.json") as file:  # last, since it marks the run as complete
        file.write_text(json.dumps(figures, indent=2), encoding="utf-8")


def directory_of(root: Path, candidate: Candidate | None, task: Task, seed: int) -> Path:
    """Returns the directory of a run. Without a candidate it is the run of the plain network."""
    return root / f"{task.name}_{'plain' if candidate is None else candidate.name}_{seed}"


def stored(directory: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Reads figures and maps (N, 1, h, w) of a run."""
    figures = json.loads((directory / "figures.json").read_text(encoding="utf-8"))
    return figures, {name: maps.float() for name, maps in load_file(directory / "maps.safetensors").items()}


@torch.no_grad()
def predict(model: ABN, scenes: Scenes) -> ABNOutput:
    """Computes scores and maps of all scenes."""
    model.eval()
    return ABNOutput(
        *map(torch.cat, zip(*(model(images) for images in scenes.images.split(BATCH)), strict=True))
    )


def measure_abn(model: ABN, scenes: Scenes) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Measures a network with an attention branch. Returns figures and maps."""
    output = predict(model, scenes)
    maps = output.attention_map
    return {
        "accuracy": accuracy(output.perception_logits, scenes),
        "maps": {"ABN": {**place(scenes, maps), **effect(model, scenes, maps)}},
    }, {"ABN": maps}


def measure_plain(model: nn.Module, scenes: Scenes) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Measures a plain network, and the maps that other methods make of it. Returns figures and maps."""
    model.eval()
    maps, logits = {}, []
    for name, method in OTHERS.items():
        parts, logits = [], []
        with method(model, "layer3") as explain:
            for images in scenes.images.split(BATCH):
                logits.append(model(images))
                parts.append(explain(logits[-1].argmax(dim=1).tolist(), logits[-1])[0])
        maps[name] = torch.cat(parts).unsqueeze(1).detach()
    return {
        "accuracy": accuracy(torch.cat(logits), scenes),
        "maps": {
            name: {**place(scenes, values), **effect(model, scenes, values)} for name, values in maps.items()
        },
    }, maps


def accuracy(logits: Tensor, scenes: Scenes) -> float:
    return (logits.argmax(dim=1) == scenes.labels).float().mean().item()


def place(scenes: Scenes, maps: Tensor) -> dict[str, float]:
    """Measures where the maps point, in the mean over the scenes."""
    masks = metrics.box_masks(scenes.boxes, scenes.images.shape[-2:])
    return {
        "pointing": metrics.pointing_game(maps, masks).mean().item(),
        "energy": metrics.energy_pointing_game(maps, masks).mean().item(),
    }


def effect(model: nn.Module, scenes: Scenes, maps: Tensor) -> dict[str, float]:
    """Measures the prediction without, and with only, what the maps point at."""
    some = model, scenes.images[:DELETED], maps[:DELETED]
    return {
        "deletion": metrics.deletion(*some, step=STEP).mean().item(),
        "insertion": metrics.insertion(*some, step=STEP).mean().item(),
    }


def cost(candidate: Candidate, other: Candidate, task: Task, rounds: int = 55) -> list[float]:
    """Measures the time of a training step over the step time of another candidate, in pairs in turn."""
    generator = torch.Generator().manual_seed(0)
    scenes = task.scenes(True, generator)
    learners = []
    for one in (candidate, other):
        model = one.network(task.channels).to(memory_format=torch.channels_last).train()
        learners.append((torch.optim.AdamW(model.parameters()), one.loss(model)))
    batches = torch.randperm(len(scenes.labels), generator=generator).split(BATCH)[:-1]  # whole batches

    def steps_of(optimizer: torch.optim.Optimizer, loss: Loss) -> Callable[[], None]:
        chosen = itertools.cycle(batches)
        return lambda: step(optimizer, loss, scenes[next(chosen)])

    times = in_turn(dict(enumerate(steps_of(*learner) for learner in learners)), rounds=rounds)
    return ratios(times[0], times[1])
