"""ResNeXt for CIFAR: Xie et al., "Aggregated Residual Transformations", CVPR 2017, section 5.3.

With an attention branch, it is the official code's ``models/cifar/resnext.py``, cut after its ``stage_2``.
"""

from typing import Any

from torch import Tensor, nn
from torchvision.models.resnet import Bottleneck

from abn.models.cifar.common import blocks_per_stage, wrap_cifar
from abn.models.cifar.resnet import CifarResNet
from abn.models.registry import register_model
from abn.network import ABN


@register_model
def cifar_resnext(
    depth: int = 29,
    cardinality: int = 8,
    base_width: int = 64,
    *,
    num_classes: int = 10,
    in_channels: int = 3,
) -> CifarResNet:
    """ResNeXt-``depth``, ``cardinality`` × ``base_width`` d, for CIFAR.

    Args:
        depth: Number of layers with weights, 9n + 2.
        cardinality: Number of groups of the 3×3 convolutions.
        base_width: Channels of each group in the first stage. Each further stage doubles this number.
        num_classes: Number of classes K.
        in_channels: Channels of the images.

    Raises:
        ValueError: If ``depth`` is not 9n + 2.

    Example:
        >>> import torch
        >>> cifar_resnext(29, cardinality=2, base_width=16)(torch.randn(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """
    return CifarResNet(
        Bottleneck,
        blocks_per_stage(depth, layers_per_block=3, other_layers=2),
        num_classes=num_classes,
        in_channels=in_channels,
        width=64,
        groups=cardinality,
        base_width=base_width,
    )


@register_model
def abn_cifar_resnext(
    depth: int = 29,
    cardinality: int = 8,
    base_width: int = 64,
    *,
    num_classes: int = 10,
    in_channels: int = 3,
    **kwargs: Any,
) -> ABN:
    """ResNeXt for CIFAR with an attention branch; arguments as for :func:`cifar_resnext`.

    Unlike in the other CIFAR networks, no norm is applied behind the attention branch's stage: see
    :class:`UnappliedNorm`.

    Args:
        **kwargs: ``stage``, ``map`` and ``mechanism`` of :func:`abn.wrap_backbone`.
    """
    backbone = cifar_resnext(depth, cardinality, base_width, num_classes=num_classes, in_channels=in_channels)
    model = wrap_cifar(backbone, "layer2", in_channels, **kwargs)
    branch: Any = model.attention_branch
    branch.norm = UnappliedNorm(branch.norm.num_features).to(branch.norm.weight)
    return model


class UnappliedNorm(nn.Module):
    """A norm that the official ResNeXt has behind its attention branch's stage, but never applies.

    Its weights are in the official checkpoints. They are kept here, without gradients, so that checkpoints
    can be converted there and back unchanged.
    """

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.unapplied = nn.BatchNorm2d(num_features).requires_grad_(False)

    def forward(self, features: Tensor) -> Tensor:
        return features
