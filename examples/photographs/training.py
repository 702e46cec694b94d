"""Trains one network on a task."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from photographs.tasks import Task

BATCH = 32
LEARNING_RATE = 5e-4
WEIGHT_DECAY = 1e-2

Loss = Callable[[Tensor, Tensor], Tensor]
"""Images (B, C, H, W) and labels (B,) to a scalar."""


def train(
    model: nn.Module, loss: Loss, task: Task, seed: int, epochs: int, learning_rate: float = LEARNING_RATE
) -> None:
    """Trains a network in place: AdamW, the learning rate up for a tenth of the steps and then down."""
    generator = torch.Generator().manual_seed(1000 + seed)
    model.to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=WEIGHT_DECAY)
    steps = len(task.train) // BATCH
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, learning_rate, total_steps=epochs * steps, pct_start=0.1
    )
    for epoch in range(epochs):
        order = torch.randperm(len(task.train), generator=generator)
        for chosen in order[: steps * BATCH].split(BATCH):
            batch = task.train[chosen]
            images = task.mirrored(task.prepared(batch), generator)
            value = loss(images, batch.labels)
            if not math.isfinite(value.item()):
                raise ValueError(f"the loss in epoch {epoch + 1} is {value.item()}: lower the learning rate")
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            schedule.step()
