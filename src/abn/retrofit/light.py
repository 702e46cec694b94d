"""A light stage for the attention branch, where a copy of the backbone's last stage costs too much."""

from torch import nn
from torchvision.ops import Conv2dNormActivation


def light_stage(in_channels: int) -> nn.Module:
    """A 1×1 convolution to an eighth of the channels, but 32 at least; batch norm, ReLU.

    It keeps the resolution. docs/performance.md has what it costs, and docs/stages.md what its maps are worth
    beside those of a copy, of no stage, and of stages with a 3×3 convolution.

    Args:
        in_channels: Channels C of the features (B, C, H, W).
    """
    stage: nn.Module = Conv2dNormActivation(in_channels, max(in_channels // 8, 32), kernel_size=1)
    return stage
