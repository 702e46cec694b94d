"""Trains one network on a task of photographs."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from experiments.common import training
from experiments.tasks.images import Task


@dataclass(frozen=True)
class Recipe:
    """The settings of a training."""

    epochs: int
    batch: int = 32
    learning_rate: float = 1e-3
    bfloat16: bool = False


def train(model: nn.Module, criterion: Callable[..., Tensor], task: Task, seed: int, recipe: Recipe) -> None:
    """Trains a network in place.

    Args:
        model: Takes images (B, C, H, W).
        criterion: Takes the output of the model and labels (B,), and returns a scalar.
        task: Task with the images to train on, which are mirrored at random.
        seed: Seed of the order of the images, and of the mirroring.
        recipe: The settings of the training.
    """
    steps = len(task.train) // recipe.batch

    def batches(generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.randperm(len(task.train), generator=generator)
        for chosen in order[: steps * recipe.batch].split(recipe.batch):
            batch = task.train[chosen]
            yield task.mirrored(task.prepared(batch), generator), batch.labels

    training.train(
        model,
        lambda batch: criterion(model(batch[0]), batch[1]),
        batches,
        seed=seed,
        epochs=recipe.epochs,
        steps=steps,
        learning_rate=recipe.learning_rate,
        bfloat16=recipe.bfloat16,
    )
