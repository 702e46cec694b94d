"""Trains one network on a task."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from experiments.tasks.images import Task

WEIGHT_DECAY = 1e-2

Loss = Callable[[Tensor, Tensor], Tensor]
"""Images (B, C, H, W) and labels (B,) to a scalar."""


@dataclass(frozen=True)
class Recipe:
    """How long and how fast."""

    epochs: int
    batch: int = 32
    learning_rate: float = 1e-3
    bfloat16: bool = False


def train(model: nn.Module, loss: Loss, task: Task, seed: int, recipe: Recipe) -> None:
    """Trains a network in place: AdamW, the learning rate up for a tenth of the steps and then down."""
    generator = torch.Generator().manual_seed(1000 + seed)
    model.to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.learning_rate, weight_decay=WEIGHT_DECAY)
    steps = len(task.train) // recipe.batch
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, recipe.learning_rate, total_steps=recipe.epochs * steps, pct_start=0.1
    )
    for epoch in range(recipe.epochs):
        order = torch.randperm(len(task.train), generator=generator)
        for chosen in order[: steps * recipe.batch].split(recipe.batch):
            batch = task.train[chosen]
            images = task.mirrored(task.prepared(batch), generator)
            with torch.autocast("cpu", torch.bfloat16, enabled=recipe.bfloat16):
                value = loss(images, batch.labels)
            if not math.isfinite(value.item()):
                raise ValueError(f"the loss in epoch {epoch + 1} is {value.item()}: lower the learning rate")
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            schedule.step()
