"""The ways to make an attention map that are compared: each changes a new network, or its loss."""

from collections.abc import Callable
from dataclasses import dataclass, field
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn

from abn import ABN
from abn.models import abn_cifar_resnet
from experiments.explanations.losses import Distillation, Loss, Scores


@dataclass(frozen=True)
class Candidate:
    """A network with an attention branch, which this library builds and the candidate changes."""

    name: str
    title: str
    verdict: str
    """What the experiment showed."""
    arguments: dict[str, Any] = field(default_factory=dict)
    """Arguments of :func:`abn.wrap_backbone`."""
    changes: tuple[Callable[[ABN], None], ...] = ()
    """Changes that are made to the new network."""
    distilled: bool = False
    """Whether the map also learns from the branch's own class activation."""

    def network(self, channels: int) -> ABN:
        arguments = {"map": "class_activation", **self.arguments}
        model = abn_cifar_resnet(20, in_channels=channels, **arguments)
        for change in self.changes:
            change(model)
        return model

    def loss(self, model: ABN) -> Loss:
        return Distillation(model) if self.distilled else Scores(model)


def small_start(model: ABN) -> None:
    """Makes the K→K convolution start from PyTorch's own small random weights."""
    model.attention_branch.classifier.reset_parameters()


def random_sign(model: ABN) -> None:
    """Makes the convolution of the map start from random weights, as in the official code."""
    nn.init.kaiming_normal_(model.attention_branch.map_conv.weight, mode="fan_out", nonlinearity="relu")


def unsharpened(model: ABN) -> None:
    """Makes the map the class activation itself, divided by its maximum."""

    def class_activation(branch: nn.Module, responses: Tensor, shares: Tensor) -> Tensor:
        weight = branch.classifier.weight.flatten(1)
        evidence = torch.einsum("bk,bkhw->bhw", shares @ weight, responses)
        evidence = evidence.relu().unsqueeze(1)
        return evidence / evidence.amax(dim=(2, 3), keepdim=True).clamp(min=1e-6)

    model.attention_branch.class_activation = MethodType(class_activation, model.attention_branch)


def against_others(model: ABN) -> None:
    """Takes out of the map what speaks for all classes alike."""
    compare = model.attention_branch.class_activation
    model.attention_branch.class_activation = lambda responses, shares: compare(
        responses, shares - 1 / shares.shape[1]
    )


CONVOLUTION = {"map": "convolution"}
DEFAULT = Candidate(
    "default",
    "class activation (the default)",
    "Points at the digit and holds most of its energy there, also in the worst seed. In some seeds its "
    "accuracy or pointing is below the plain network's, by one or two images. The maps of two seeds agree "
    "(an IoU of 0.7 was hoped for), though less than those of CAM, whose spots are larger.",
)
OFFICIAL = Candidate(
    "official",
    "convolution, as in the official code",
    "The loss fixes neither the sign of the map nor its contrast: in some seeds the map points away from "
    "the digit.",
    CONVOLUTION,
    (small_start, random_sign),
)
CANDIDATES = (
    DEFAULT,
    OFFICIAL,
    Candidate(
        "positive",
        "convolution, positive start",
        "Corrects the sign, but not the contrast: beside the digit the map stays nearly as high.",
        CONVOLUTION,
        (small_start,),
    ),
    Candidate(
        "distilled",
        "convolution, positive start, self-distilled",
        "Adds half the cross-entropy between the map and the branch's own class activation to the loss. The "
        "map becomes stable, but as vague as that activation, since the attention branch learns slowly.",
        CONVOLUTION,
        (small_start,),
        distilled=True,
    ),
    Candidate(
        "convolution",
        "convolution, positive start, branch from ten times the identity",
        "A branch that learns faster points better, with any kind of map. The contrast is still low.",
        CONVOLUTION,
    ),
    Candidate(
        "small_start",
        "class activation, branch from small random weights",
        "The branch confuses the classes, and the activation of the wrong ones points at clutter. Half of "
        "the default's gain comes from its start.",
        changes=(small_start,),
    ),
    Candidate(
        "unsharpened",
        "class activation, neither averaged nor sharpened",
        "Points nearly as well as the default, but two seeds agree less: the map is highest at whatever "
        "happens to be most telling.",
        changes=(unsharpened,),
    ),
    Candidate(
        "against_others",
        "class activation, against other classes",
        "Nearly the same as the default, but two seeds agree less.",
        changes=(against_others,),
    ),
    Candidate(
        "multiplicative",
        "class activation, multiplicative",
        "Points as well as the default, but two seeds agree less.",
        {"mechanism": "multiplicative"},
    ),
)
