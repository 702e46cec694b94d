"""Trains one small vision transformer, and measures its maps, or the maps that other methods make of it."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from timm.models import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from abn import ABN, ABNLoss, metrics, wrap_backbone
from experiments.common.runs import write_text
from experiments.common.training import train
from experiments.tasks.located_fashion import CANVAS, LocatedFashion, Scenes
from experiments.transformers.methods import attention_rollout, class_token_evidence, grad_cam

BATCH, LEARNING_RATE = 128, 2e-3
MEASURED = 2000
"""Test images whose maps are measured. The accuracy is that of all test images."""

POOLS = ("avg", "token")
"""What the classifier reads, as timm names it: the mean of the patch tokens, or the class token."""
KINDS: dict[str, dict[str, Any]] = {
    "light": {},
    "copy": {"stage": "copy"},
    "early": {"split": "blocks.1"},
}
"""Arguments of the networks with an attention branch."""


def network(pool: str) -> VisionTransformer:
    """Builds a vision transformer of 64 patch tokens, without weights from elsewhere."""
    return VisionTransformer(
        img_size=CANVAS,
        patch_size=7,
        in_chans=1,
        num_classes=10,
        embed_dim=64,
        depth=6,
        num_heads=2,
        mlp_ratio=2,
        global_pool=pool,
        class_token=pool == "token",
    )


def directory_of(root: Path, pool: str, kind: str, seed: int) -> Path:
    return root / f"{pool}_{kind}_{seed}"


def run(pool: str, kind: str, seed: int, epochs: int, directory: Path) -> None:
    """Trains and measures one network, if not done before."""
    file = directory / "figures.json"
    if file.exists():
        return
    torch.manual_seed(seed)
    task = LocatedFashion()
    plain = network(pool)
    model: nn.Module = plain if kind == "plain" else wrap_backbone(plain, start="new", **KINDS[kind])
    train_on(model, task, seed, epochs)
    scenes = task.scenes(False, torch.Generator().manual_seed(0))
    figures = measure_abn(model, scenes) if isinstance(model, ABN) else measure_plain(model, pool, scenes)
    directory.mkdir(parents=True, exist_ok=True)
    write_text(file, json.dumps(figures, indent=2))


def train_on(model: nn.Module, task: LocatedFashion, seed: int, epochs: int) -> None:
    """Trains a network in place. The products are placed anew in every epoch."""
    of_branches = ABNLoss()

    def loss(batch: Scenes) -> Tensor:
        output = model(batch.images)
        if isinstance(model, ABN):
            return of_branches(output, batch.labels)
        return F.cross_entropy(output, batch.labels)

    def batches(generator: torch.Generator) -> Iterator[Scenes]:
        scenes = task.scenes(True, generator)
        order = torch.randperm(len(scenes.labels), generator=generator)
        for chosen in order[: task.count // BATCH * BATCH].split(BATCH):
            yield scenes[chosen]

    steps = task.count // BATCH
    options = {"epochs": epochs, "steps": steps, "learning_rate": LEARNING_RATE, "bfloat16": False}
    train(model, loss, batches, seed=seed, **options)


@torch.no_grad()
def outputs_of(model: nn.Module, images: Tensor) -> list[Tensor]:
    """Runs a network on all images. Returns logits, or of an ABN all three outputs."""
    model.eval()
    parts = [model(batch) for batch in images.split(BATCH)]
    return (
        [torch.cat(parts)] if isinstance(parts[0], Tensor) else list(map(torch.cat, zip(*parts, strict=True)))
    )


def measure_abn(model: ABN, scenes: Scenes) -> dict[str, object]:
    attention, perception, maps = outputs_of(model, scenes.images)
    return {
        "accuracy": accuracy(perception, scenes),
        "attention accuracy": accuracy(attention, scenes),
        "maps": {"ABN": place(scenes, maps)},
    }


def measure_plain(model: VisionTransformer, pool: str, scenes: Scenes) -> dict[str, object]:
    """Measures a plain network, and the maps that other methods make of it."""
    (logits,) = outputs_of(model, scenes.images)
    images = scenes.images[:MEASURED]
    predicted = logits[:MEASURED].argmax(dim=1)
    methods: dict[str, Callable[[], Tensor]] = {
        "Grad-CAM": lambda: grad_cam(model, images, predicted),
        "attention rollout": lambda: attention_rollout(model, images),
    }
    figures: dict[str, object] = {"accuracy": accuracy(logits, scenes)}
    if pool == "token":
        scores, evidence = class_token_evidence(model, images, predicted)
        figures["class token's weights on other tokens"] = accuracy(scores, scenes[slice(MEASURED)])
        methods["class token's weights on other tokens"] = lambda: evidence
    else:
        wrapped = wrap_backbone(model)  # which has not been trained
        attention, perception, maps = outputs_of(wrapped, scenes.images)
        figures["wrapped"] = accuracy(perception, scenes)
        figures["wrapped attention"] = accuracy(attention, scenes)
        methods["ABN before its training"] = lambda: maps
    figures["maps"] = {name: place(scenes, maps()) for name, maps in methods.items()}
    return figures


def accuracy(logits: Tensor, scenes: Scenes) -> float:
    return (logits.argmax(dim=1) == scenes.labels).float().mean().item()


def place(scenes: Scenes, maps: Tensor) -> dict[str, float]:
    """Measures where maps (N, 1, h, w) point, in the mean over the first scenes."""
    some = scenes[slice(MEASURED)]
    masks = metrics.box_masks(some.boxes, some.images.shape[-2:])
    return {
        "pointing": metrics.pointing_game(maps[:MEASURED], masks).mean().item(),
        "energy": metrics.energy_pointing_game(maps[:MEASURED], masks).mean().item(),
    }
