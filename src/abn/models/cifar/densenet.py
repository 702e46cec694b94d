"""DenseNet-BC for CIFAR: Huang et al., "Densely Connected Convolutional Networks", CVPR 2017, section 3.

With an attention branch, it is the official code's ``models/cifar/densenet.py``, cut after ``trans2``.
"""

from typing import Any

import torch
from torch import Tensor, nn

from abn.models.cifar.common import blocks_per_stage, init_convolutions, wrap_cifar
from abn.models.registry import register_model
from abn.network import ABN


class DenseLayer(nn.Module):
    """Appends ``growth_rate`` new channels to its input, through a bottleneck of four times as many."""

    def __init__(self, in_channels: int, growth_rate: int, dropout: float) -> None:
        super().__init__()
        bottleneck = 4 * growth_rate
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, bottleneck, kernel_size=1, bias=False)
        self.bn2 = nn.BatchNorm2d(bottleneck)
        self.conv2 = nn.Conv2d(bottleneck, growth_rate, kernel_size=3, padding=1, bias=False)
        self.dropout = nn.Dropout(dropout)

    def forward(self, features: Tensor) -> Tensor:
        new = self.conv1(self.bn1(features).relu())
        new = self.conv2(self.bn2(new).relu())
        return torch.cat([features, self.dropout(new)], dim=1)


class Transition(nn.Module):
    """Reduces the number of channels, and halves the resolution."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, kernel_size=1, bias=False)
        self.pool = nn.AvgPool2d(2)

    def forward(self, features: Tensor) -> Tensor:
        compressed: Tensor = self.pool(self.conv1(self.bn1(features).relu()))
        return compressed


class CifarDenseNet(nn.Module):
    """A DenseNet-BC of three dense blocks with ``layers`` layers each, see :func:`cifar_densenet`."""

    def __init__(
        self,
        layers: int,
        *,
        growth_rate: int,
        compression: float,
        dropout: float,
        num_classes: int,
        in_channels: int,
    ) -> None:
        super().__init__()
        channels = 2 * growth_rate
        self.conv1 = nn.Conv2d(in_channels, channels, kernel_size=3, padding=1, bias=False)
        self.dense1 = _dense_block(channels, layers, growth_rate, dropout)
        channels += layers * growth_rate
        self.trans1 = Transition(channels, compressed := int(channels * compression))
        self.dense2 = _dense_block(compressed, layers, growth_rate, dropout)
        channels = compressed + layers * growth_rate
        self.trans2 = Transition(channels, compressed := int(channels * compression))
        self.dense3 = _dense_block(compressed, layers, growth_rate, dropout)
        channels = compressed + layers * growth_rate
        self.bn = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels, num_classes)
        init_convolutions(self)

    def forward(self, images: Tensor) -> Tensor:
        """Classifies images (B, C, H, W) by logits (B, K)."""
        features = self.conv1(images)
        features = self.trans1(self.dense1(features))
        features = self.trans2(self.dense2(features))
        features = self.relu(self.bn(self.dense3(features)))  # (B, C', H / 4, W / 4)
        logits: Tensor = self.fc(self.avgpool(features).flatten(1))
        return logits


def _dense_block(in_channels: int, layers: int, growth_rate: int, dropout: float) -> nn.Sequential:
    received = (in_channels + i * growth_rate for i in range(layers))
    return nn.Sequential(*(DenseLayer(channels, growth_rate, dropout) for channels in received))


@register_model
def cifar_densenet(
    depth: int,
    growth_rate: int = 12,
    *,
    compression: float = 0.5,
    dropout: float = 0.0,
    num_classes: int = 10,
    in_channels: int = 3,
) -> CifarDenseNet:
    """DenseNet-BC (L = ``depth``, k = ``growth_rate``) for CIFAR.

    Args:
        depth: Number of layers L with weights, 6n + 4.
        growth_rate: Number of channels k that each layer adds.
        compression: Share of its channels that a transition keeps, the paper's θ. The official code's
            ``--compressionRate`` is 1 / θ.
        dropout: Probability of dropping a value that a layer adds.
        num_classes: Number of classes K.
        in_channels: Channels of the images.

    Raises:
        ValueError: If ``depth`` is not 6n + 4, or ``compression`` is not in (0, 1].

    Example:
        >>> import torch
        >>> cifar_densenet(22)(torch.randn(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """
    if not 0 < compression <= 1:
        raise ValueError(f"compression is {compression}, expected a share of the channels, in (0, 1]")
    return CifarDenseNet(
        blocks_per_stage(depth, layers_per_block=2, other_layers=4),
        growth_rate=growth_rate,
        compression=compression,
        dropout=dropout,
        num_classes=num_classes,
        in_channels=in_channels,
    )


@register_model
def abn_cifar_densenet(
    depth: int,
    growth_rate: int = 12,
    *,
    compression: float = 0.5,
    dropout: float = 0.0,
    num_classes: int = 10,
    in_channels: int = 3,
    stage: str | nn.Module = "copy",
    **kwargs: Any,
) -> ABN:
    """DenseNet-BC for CIFAR with an attention branch; arguments as for :func:`cifar_densenet`.

    Args:
        stage: As for :func:`abn.wrap_backbone`, but ``"copy"`` copies the last dense block alone. As in the
            official code, the norm and the ReLU behind the block belong to the perception branch.
        **kwargs: ``map`` and ``mechanism`` of :func:`abn.wrap_backbone`.
    """
    backbone = cifar_densenet(
        depth,
        growth_rate,
        compression=compression,
        dropout=dropout,
        num_classes=num_classes,
        in_channels=in_channels,
    )
    return wrap_cifar(backbone, "trans2", in_channels, stage=stage, copied="dense3", **kwargs)
