"""Wide ResNets for CIFAR: Zagoruyko and Komodakis, "Wide Residual Networks", BMVC 2016, section 2.

With an attention branch, it is the official code's ``models/cifar/wrn.py``, cut after ``block2``.
"""

from typing import Any

from torch import Tensor, nn

from abn.models.cifar.common import blocks_per_stage, init_convolutions, wrap_cifar
from abn.models.registry import register_model
from abn.network import ABN


class PreActivationBlock(nn.Module):
    """A residual block of two 3×3 convolutions, each behind a norm and a ReLU, with dropout between them."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, dropout: float) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.shortcut = None
        if in_channels != out_channels:
            self.shortcut = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        activated = self.bn1(features).relu()
        shortcut = features if self.shortcut is None else self.shortcut(activated)
        residual = self.conv2(self.dropout(self.bn2(self.conv1(activated)).relu()))
        total: Tensor = shortcut + residual
        return total


class CifarWideResNet(nn.Module):
    """A wide residual network of three stages of ``blocks`` blocks each, see :func:`cifar_wide_resnet`."""

    def __init__(
        self, blocks: int, widen_factor: int, *, dropout: float, num_classes: int, in_channels: int
    ) -> None:
        super().__init__()

        def stage(received: int, channels: int, stride: int) -> nn.Sequential:
            first = PreActivationBlock(received, channels, stride, dropout)
            rest = (PreActivationBlock(channels, channels, 1, dropout) for _ in range(blocks - 1))
            return nn.Sequential(first, *rest)

        widths = [16 * widen_factor, 32 * widen_factor, 64 * widen_factor]
        self.conv1 = nn.Conv2d(in_channels, 16, kernel_size=3, padding=1, bias=False)
        self.block1 = stage(16, widths[0], stride=1)
        self.block2 = stage(widths[0], widths[1], stride=2)
        self.block3 = stage(widths[1], widths[2], stride=2)
        self.bn1 = nn.BatchNorm2d(widths[2])
        self.relu = nn.ReLU(inplace=True)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(widths[2], num_classes)
        init_convolutions(self)

    def forward(self, images: Tensor) -> Tensor:
        """Classifies images (B, C, H, W) by logits (B, K)."""
        features = self.block3(self.block2(self.block1(self.conv1(images))))
        features = self.relu(self.bn1(features))  # (B, C', H / 4, W / 4)
        logits: Tensor = self.fc(self.avgpool(features).flatten(1))
        return logits


@register_model
def cifar_wide_resnet(
    depth: int,
    widen_factor: int,
    *,
    dropout: float = 0.0,
    num_classes: int = 10,
    in_channels: int = 3,
) -> CifarWideResNet:
    """WRN-``depth``-``widen_factor`` for CIFAR.

    Args:
        depth: Depth in the network's name, 6n + 4.
        widen_factor: Factor for the numbers of channels, which are 16, 32 and 64 in a ResNet for CIFAR.
        dropout: Probability of dropping a value between the two convolutions of a block.
        num_classes: Number of classes K.
        in_channels: Channels of the images.

    Raises:
        ValueError: If ``depth`` is not 6n + 4.

    Example:
        >>> import torch
        >>> cifar_wide_resnet(10, 2)(torch.randn(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """
    return CifarWideResNet(
        blocks_per_stage(depth, layers_per_block=2, other_layers=4),
        widen_factor,
        dropout=dropout,
        num_classes=num_classes,
        in_channels=in_channels,
    )


@register_model
def abn_cifar_wide_resnet(
    depth: int,
    widen_factor: int,
    *,
    dropout: float = 0.0,
    num_classes: int = 10,
    in_channels: int = 3,
    stage: str | nn.Module = "copy",
    **kwargs: Any,
) -> ABN:
    """Wide ResNet for CIFAR with an attention branch; arguments as for :func:`cifar_wide_resnet`.

    Args:
        stage: As for :func:`abn.wrap_backbone`, but ``"copy"`` copies ``block3`` alone. As in the official
            code, the norm and the ReLU behind ``block3`` belong to the perception branch.
        **kwargs: ``map`` and ``mechanism`` of :func:`abn.wrap_backbone`.
    """
    backbone = cifar_wide_resnet(
        depth, widen_factor, dropout=dropout, num_classes=num_classes, in_channels=in_channels
    )
    return wrap_cifar(backbone, "block2", in_channels, stage=stage, copied="block3", **kwargs)
