"""The ways to make an attention map that are compared: what becomes of a new network, and of its loss."""

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
    """A network with an attention branch, as this library builds it but for some changes."""

    name: str
    title: str
    verdict: str
    """What came of it."""
    arguments: dict[str, Any] = field(default_factory=dict)
    """Of :func:`abn.wrap_backbone`."""
    changes: tuple[Callable[[ABN], None], ...] = ()
    """Made to the new network."""
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
    """The K→K convolution starts from PyTorch's own small random weights."""
    model.attention_branch.classifier.reset_parameters()


def random_sign(model: ABN) -> None:
    """The convolution that makes the map starts from random weights, as in the official code."""
    nn.init.kaiming_normal_(model.attention_branch.map_conv.weight, mode="fan_out", nonlinearity="relu")


def unsharpened(model: ABN) -> None:
    """The map is the class activation itself, divided by its maximum."""

    def class_activation(branch: nn.Module, responses: Tensor, shares: Tensor) -> Tensor:
        weight = branch.classifier.weight.flatten(1)
        evidence = torch.einsum("bk,bkhw->bhw", shares @ weight, responses)
        evidence = evidence.relu().unsqueeze(1)
        return evidence / evidence.amax(dim=(2, 3), keepdim=True).clamp(min=1e-6)

    model.attention_branch.class_activation = MethodType(class_activation, model.attention_branch)


def against_others(model: ABN) -> None:
    """What speaks for all classes alike is taken out of the map."""
    compare = model.attention_branch.class_activation
    model.attention_branch.class_activation = lambda responses, shares: compare(
        responses, shares - 1 / shares.shape[1]
    )


CONVOLUTION = {"map": "convolution"}
DEFAULT = Candidate(
    "default",
    "class activation (the default)",
    "Points at the digit and holds most of its energy there, also in the worst seed. Where its accuracy or "
    "pointing falls behind the plain network of the same seed, it does by one or two images. Two runs agree "
    "on it (0.7 was hoped for), though less than on CAM, whose spots are larger.",
)
OFFICIAL = Candidate(
    "official",
    "convolution, as in the official code",
    "The loss fixes neither the sign of the map nor its contrast: in some seeds it points away from the "
    "digit.",
    CONVOLUTION,
    (small_start, random_sign),
)
CANDIDATES = (
    DEFAULT,
    OFFICIAL,
    Candidate(
        "positive",
        "convolution, positive start",
        "Mends the sign, but not the contrast: the map stays nearly as high elsewhere.",
        CONVOLUTION,
        (small_start,),
    ),
    Candidate(
        "distilled",
        "the same, self-distilled",
        "Half the cross-entropy between the map and the branch's own class activation: the map becomes "
        "stable, and as vague as that activation is, since the branch lags behind.",
        CONVOLUTION,
        (small_start,),
        distilled=True,
    ),
    Candidate(
        "convolution",
        "convolution, positive start, branch from ten times the identity",
        "A branch that does not lag behind points better, through any map; the contrast is still low.",
        CONVOLUTION,
    ),
    Candidate(
        "small_start",
        "class activation, branch from small random weights",
        "The activation of classes that the branch confuses: it points at clutter. The start is half of the "
        "gain.",
        changes=(small_start,),
    ),
    Candidate(
        "unsharpened",
        "class activation, neither averaged nor sharpened",
        "Points nearly as well, but two runs agree less: its height follows what happens to be most telling.",
        changes=(unsharpened,),
    ),
    Candidate(
        "against_others",
        "class activation, against other classes",
        "Nearly the same; two runs agree less.",
        changes=(against_others,),
    ),
    Candidate(
        "multiplicative",
        "class activation, multiplicative",
        "Points as well; two runs agree less.",
        {"mechanism": "multiplicative"},
    ),
)
