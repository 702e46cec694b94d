"""Creates the optimizer, the schedule of the learning rate, and the loss."""

from argparse import Namespace
from collections.abc import Sequence

import numpy as np
import torch
from sklearn.utils.class_weight import compute_class_weight
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler, MultiStepLRScheduler
from timm.scheduler.scheduler import Scheduler
from torch import nn
from torch.optim import Optimizer


def create_optimizer(model: nn.Module, options: Namespace) -> Optimizer:
    """Creates one of timm's optimizers, with the same settings for all weights, as in the official code."""
    return create_optimizer_v2(
        list(model.parameters()),
        opt=options.optimizer,
        lr=options.learning_rate,
        momentum=options.momentum,
        weight_decay=options.weight_decay,
    )


def create_schedule(optimizer: Optimizer, options: Namespace, steps: int) -> Scheduler:
    """Creates the schedule of the learning rate, which changes step by step. An epoch has ``steps`` steps."""
    warmup = {"warmup_t": options.warmup_epochs * steps, "warmup_lr_init": 0.0, "t_in_epochs": False}
    if options.schedule == "cosine":
        falling = (options.epochs - options.warmup_epochs) * steps
        return CosineLRScheduler(optimizer, t_initial=falling, warmup_prefix=True, **warmup)
    # timm lowers the rate one step before a milestone.
    milestones = [epoch * steps + 1 for epoch in options.milestones]
    return MultiStepLRScheduler(
        optimizer, decay_t=milestones, decay_rate=options.gamma, warmup_prefix=False, **warmup
    )


def create_criterion(options: Namespace, labels: Sequence[int]) -> nn.CrossEntropyLoss:
    """Creates the cross-entropy. Weights of classes, if asked for, come from the labels of the images."""
    weight = None
    if options.class_weights == "balanced":
        balanced = compute_class_weight("balanced", classes=np.unique(labels), y=labels)
        weight = torch.tensor(balanced, dtype=torch.float32)
    return nn.CrossEntropyLoss(weight, label_smoothing=options.label_smoothing)
