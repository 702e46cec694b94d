"""Trains one network, for all experiments."""

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

import torch
from digits import TRAINING_DIGITS
from torch import Tensor, nn

BATCH = 64
"""Digits in a batch."""
LEARNING_RATE = 3e-3
"""Highest learning rate, for digits."""


def train(
    model: nn.Module,
    loss: Callable[[Any], Tensor],
    batches: Callable[[torch.Generator], Iterable[Any]],
    *,
    seed: int,
    epochs: int,
    steps: int,
    learning_rate: float,
    bfloat16: bool,
) -> None:
    """Trains a network in place by AdamW. The learning rate rises for a tenth of the steps, then it falls.

    Args:
        model: Any network.
        loss: Takes a batch, and returns its loss.
        batches: Returns the batches of an epoch. The generator is the source of all random numbers in them.
        seed: Seed of the generator.
        epochs: Number of epochs.
        steps: Number of batches in an epoch.
        learning_rate: Highest learning rate.
        bfloat16: Whether the network runs under autocast to bfloat16.

    Raises:
        ValueError: If the loss is not finite.
    """
    generator = torch.Generator().manual_seed(1000 + seed)
    model.to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, learning_rate, total_steps=epochs * steps, pct_start=0.1
    )
    for epoch in range(epochs):
        for batch in batches(generator):
            step(optimizer, loss, batch, bfloat16, epoch)
            schedule.step()


def step(
    optimizer: torch.optim.Optimizer,
    loss: Callable[[Any], Tensor],
    batch: Any,
    bfloat16: bool = True,
    epoch: int = 0,
) -> None:
    """Makes one step of the optimizer."""
    with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
        value = loss(batch)
    if not math.isfinite(value.item()):
        raise ValueError(f"the loss in epoch {epoch + 1} is {value.item()}: lower the learning rate")
    optimizer.zero_grad()
    value.backward()
    optimizer.step()


class Scenes(Protocol):
    """Images of digits with their labels."""

    labels: Tensor

    def __getitem__(self, chosen: Tensor) -> Any: ...


class DigitTask(Protocol):
    """A task of digits that are placed at random."""

    def scenes(self, train: bool, generator: torch.Generator) -> Scenes: ...


def train_on_digits(
    model: nn.Module,
    loss: Callable[[Any], Tensor],
    task: DigitTask,
    seed: int,
    epochs: int,
) -> None:
    """Trains a network in place on digits, which are placed anew in every epoch."""
    steps = TRAINING_DIGITS // BATCH

    def batches(generator: torch.Generator) -> Iterator[Any]:
        scenes = task.scenes(True, generator)
        order = torch.randperm(len(scenes.labels), generator=generator)
        for chosen in order[: steps * BATCH].split(BATCH):
            yield scenes[chosen]

    train(
        model,
        loss,
        batches,
        seed=seed,
        epochs=epochs,
        steps=steps,
        learning_rate=LEARNING_RATE,
        bfloat16=True,
    )
