"""Training losses of the candidates."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from abn import ABN, ABNLoss
from experiments.tasks.located_digits import Scenes

Loss = Callable[[Scenes], Tensor]
"""Takes a batch, and returns the training loss."""


class Scores:
    """Computes the loss of the paper."""

    def __init__(self, model: ABN) -> None:
        self.model = model

    def __call__(self, batch: Scenes) -> Tensor:
        return ABNLoss()(self.model(batch.images), batch.labels)


class Distillation:
    """Adds half the cross-entropy between the map and the branch's class activation for the true class."""

    def __init__(self, model: ABN) -> None:
        self.model = model
        model.attention_branch.response_norm.register_forward_hook(self.keep)

    def keep(self, norm: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        self.responses = output.detach().relu().float()

    def __call__(self, batch: Scenes) -> Tensor:
        output = self.model(batch.images)
        weight = self.model.attention_branch.classifier.weight.detach()[batch.labels]  # (B, K, 1, 1)
        activation = (weight * self.responses).sum(dim=1, keepdim=True).relu()
        target = activation / activation.amax(dim=(2, 3), keepdim=True).clamp(min=1e-6)
        with torch.autocast(batch.images.device.type, enabled=False):
            distance = F.binary_cross_entropy(output.attention_map.float(), target)
        return ABNLoss()(output, batch.labels) + 0.5 * distance
