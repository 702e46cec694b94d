"""ResNets for CIFAR: He et al., "Deep Residual Learning", CVPR 2016, section 4.2.

With an attention branch, it is the official code's ``models/cifar/resnet.py``, cut after ``layer2``.
"""

from typing import Any

from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck, conv1x1

from abn.models.cifar.common import blocks_per_stage, init_convolutions, wrap_cifar
from abn.models.registry import register_model
from abn.network import ABN


class CifarResNet(nn.Module):
    """A residual network of three stages for small images, on torchvision's blocks.

    Args:
        block: Class of the blocks, with two convolutions, or with three that form a bottleneck.
        blocks: Number of blocks per stage.
        num_classes: Number of classes K.
        in_channels: Channels of the images.
        width: Channels of the stem and of the first stage's blocks. Each further stage doubles this number.
            A bottleneck has four times as many output channels.
        groups: Number of groups of the bottlenecks' 3×3 convolutions (ResNeXt's cardinality).
        base_width: Channels of each group in the first stage, if ``width`` is 64.
    """

    def __init__(
        self,
        block: type[BasicBlock | Bottleneck],
        blocks: int,
        *,
        num_classes: int,
        in_channels: int,
        width: int = 16,
        groups: int = 1,
        base_width: int = 64,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, kernel_size=3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)

        def stage(received: int, planes: int, stride: int) -> nn.Sequential:
            channels = planes * block.expansion
            shortcut = None
            if stride != 1 or received != channels:
                shortcut = nn.Sequential(conv1x1(received, channels, stride), nn.BatchNorm2d(channels))
            first = block(received, planes, stride, shortcut, groups, base_width)
            rest = (block(channels, planes, groups=groups, base_width=base_width) for _ in range(blocks - 1))
            return nn.Sequential(first, *rest)

        self.layer1 = stage(width, width, stride=1)
        self.layer2 = stage(width * block.expansion, 2 * width, stride=2)
        self.layer3 = stage(2 * width * block.expansion, 4 * width, stride=2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(4 * width * block.expansion, num_classes)
        init_convolutions(self)

    def forward(self, images: Tensor) -> Tensor:
        """Classifies images (B, C, H, W) by logits (B, K)."""
        features = self.relu(self.bn1(self.conv1(images)))
        features = self.layer3(self.layer2(self.layer1(features)))  # (B, C', H / 4, W / 4)
        logits: Tensor = self.fc(self.avgpool(features).flatten(1))
        return logits


@register_model
def cifar_resnet(depth: int, *, num_classes: int = 10, in_channels: int = 3) -> CifarResNet:
    """ResNet-``depth`` for CIFAR.

    Args:
        depth: Depth in the network's name, 6n + 2. From 44 on, the blocks are bottlenecks, as in the official
            code and in the code that it descends from. The official "ResNet-110" therefore has 164 layers.
        num_classes: Number of classes K.
        in_channels: Channels of the images.

    Raises:
        ValueError: If ``depth`` is not 6n + 2.

    Example:
        >>> import torch
        >>> cifar_resnet(20)(torch.randn(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """
    blocks = blocks_per_stage(depth, layers_per_block=2, other_layers=2)
    block = Bottleneck if depth >= 44 else BasicBlock
    return CifarResNet(block, blocks, num_classes=num_classes, in_channels=in_channels)


@register_model
def abn_cifar_resnet(depth: int, *, num_classes: int = 10, in_channels: int = 3, **kwargs: Any) -> ABN:
    """ResNet-``depth`` for CIFAR with an attention branch; arguments as for :func:`cifar_resnet`.

    Args:
        **kwargs: ``stage``, ``map`` and ``mechanism`` of :func:`abn.wrap_backbone`.
    """
    backbone = cifar_resnet(depth, num_classes=num_classes, in_channels=in_channels)
    return wrap_cifar(backbone, "layer2", in_channels, **kwargs)
