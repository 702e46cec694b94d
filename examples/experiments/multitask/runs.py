"""Trains one network of several tasks, and measures each task and its map."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F
from torchcam.methods import GradCAM

from abn import ABN, ABNLoss, metrics, wrap_backbone
from abn.models import cifar_resnet
from abn.saving import replacing
from experiments.common.training import BATCH, train_on_digits
from experiments.tasks.several_digits import CLASSES, TASKS, TENS, Scenes, SeveralDigits

Figures = dict[str, Any]
PICTURED = 4  # test images whose maps are kept


@dataclass(frozen=True, eq=False)  # compared by identity, since a dictionary has no hash
class Kind:
    """A network with a map per task."""

    name: str
    title: str
    verdict: str
    """What the experiment showed."""
    arguments: dict[str, Any] = field(default_factory=dict)
    """Arguments of :func:`abn.wrap_backbone`."""
    sum_from_zero: bool = False
    """Whether the sum begins at 0 where there is no evidence."""

    def network(self) -> ABN:
        backbone = cifar_resnet(20, in_channels=1)
        arguments: dict[str, Any] = {"start": "new", "split": "layer2", "input_size": (1, 48, 48)}
        model = wrap_backbone(backbone, tasks=TASKS, **arguments, **self.arguments)
        if self.sum_from_zero:
            model.attention_branch.classifier.bias.data[-1] = 0
        return model


DEFAULT = Kind(
    "default",
    "class activation (the default)",
    "Answers better than the plain network in every seed, though hardly better on the sum. The map of each "
    "digit points at the digit. The map of the sum is spread widely: the bias of the sum begins below 0, and "
    "evidence from everywhere makes up for it.",
)
FROM_ZERO = Kind(
    "from_zero",
    "class activation, the sum's bias from 0",
    "Where there is no evidence, the sum begins at 0. Now its map, too, lies on the digits. All else is "
    "nearly as good.",
    sum_from_zero=True,
)
PUBLISHED = Kind(
    "published",
    "response, multiplicative, as published",
    "Also answers better than the plain network, and mostly points well. But its maps are wider, and nothing "
    "fixes what they show: in one seed the map of one digit misses the digit more often than not.",
    {"map": "response", "mechanism": "multiplicative"},
)
KINDS = (DEFAULT, FROM_ZERO, PUBLISHED)


def criterion(logits: Tensor, labels: Tensor) -> Tensor:
    """Averages over the tasks: cross-entropy on whether each digit is there, squared error on the sum."""
    presence, total = logits.float().split([CLASSES, 1], dim=1)
    there, expected = labels.split([CLASSES, 1], dim=1)
    of_presence = F.binary_cross_entropy_with_logits(presence, there)
    return (CLASSES * of_presence + F.mse_loss(total, expected)) / TASKS


def loss_of(model: nn.Module) -> Callable[[Scenes], Tensor]:
    """Returns a function from a batch to the training loss."""
    loss = ABNLoss(criterion) if isinstance(model, ABN) else criterion
    return lambda batch: loss(model(batch.images), batch.labels)


def run(kind: Kind | None, seed: int, epochs: int, directory: Path) -> None:
    """Trains and measures one network, if not done before. Without a kind it is the plain network."""
    if file_of(directory, kind, seed).exists():
        return
    torch.manual_seed(seed)
    model: nn.Module = cifar_resnet(20, num_classes=TASKS, in_channels=1) if kind is None else kind.network()
    train_on_digits(model, loss_of(model), SeveralDigits(), seed, epochs)
    model.eval()
    scenes = SeveralDigits().test_scenes()
    logits, maps = grad_cam(model, scenes) if kind is None else predict(model, scenes)
    figures = {**answers(logits, scenes), **places(maps, scenes)}
    with replacing(maps_of(directory, kind, seed)) as file:
        save_file({"maps": maps[:PICTURED].half().contiguous()}, file)
    with replacing(file_of(directory, kind, seed)) as file:  # last, since it marks the run as complete
        file.write_text(json.dumps(figures, indent=2), encoding="utf-8")


def file_of(directory: Path, kind: Kind | None, seed: int) -> Path:
    """Returns the file in which the figures of a run are logged."""
    return directory / f"{'plain' if kind is None else kind.name}_{seed}.json"


def maps_of(directory: Path, kind: Kind | None, seed: int) -> Path:
    """Returns the file with the maps (N, 11, h, w) of the first test images."""
    return file_of(directory, kind, seed).with_suffix(".safetensors")


@torch.no_grad()
def predict(model: nn.Module, scenes: Scenes) -> tuple[Tensor, Tensor]:
    """Computes scores (N, 11) and maps (N, 11, h, w) of a network with a map per task."""
    outputs = [model(images) for images in scenes.images.split(BATCH)]
    return (
        torch.cat([output.perception_logits for output in outputs]),
        torch.cat([output.attention_map for output in outputs]),
    )


def grad_cam(model: nn.Module, scenes: Scenes) -> tuple[Tensor, Tensor]:
    """Computes scores of the plain network, and Grad-CAM of each of its outputs, from its last stage."""
    logits, maps = [], []
    with GradCAM(model, "layer3") as explain:
        for images in scenes.images.split(BATCH):
            scores = model(images)
            of_task = [explain(task, scores, retain_graph=True)[0] for task in range(TASKS)]
            logits.append(scores.detach())
            maps.append(torch.stack(of_task, dim=1).detach())
    return torch.cat(logits), torch.cat(maps)


def answers(logits: Tensor, scenes: Scenes) -> Figures:
    """Computes the share of right answers on each digit, and the mean error of the sum."""
    right = (logits[:, :CLASSES] > 0) == (scenes.labels[:, :CLASSES] > 0)
    error = TENS * (logits[:, -1] - scenes.labels[:, -1]).abs().mean()
    return {"accuracy": right.float().mean(dim=0).tolist(), "error": error.item()}


def places(maps: Tensor, scenes: Scenes) -> Figures:
    """Measures where the map of each task points, in the mean over the images that show its digit."""
    maps = maps.clamp(min=0)  # the part that raises the score
    figures: Figures = {"pointing": [], "energy": []}
    for task in range(TASKS):
        shown = scenes.masks[:, task].flatten(1).any(dim=1)
        some = maps[shown, task], scenes.masks[shown, task]
        figures["pointing"].append(metrics.pointing_game(*some).mean().item())
        figures["energy"].append(metrics.energy_pointing_game(*some).mean().item())
    return figures
