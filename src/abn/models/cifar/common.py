"""What the CIFAR networks share: how they are wrapped, their depth, and their random weights."""

from typing import Any

from torch import nn

from abn.network import ABN
from abn.retrofit.dry_run import input_shapes
from abn.retrofit.stride_one import stride_one_copy
from abn.retrofit.wrap import wrap_backbone


def wrap_cifar(
    backbone: nn.Module,
    split: str,
    in_channels: int,
    *,
    stage: str | nn.Module = "copy",
    copied: str | None = None,
    **kwargs: Any,
) -> ABN:
    """Retrofits a network of these families, as the official code does unless an argument says otherwise.

    Args:
        backbone: Already for the right number of classes.
        split: Name of the submodule after which it is cut.
        in_channels: Channels of the images.
        stage: As for :func:`abn.wrap_backbone`.
        copied: Name of the submodule that ``stage="copy"`` copies, where the official code does not copy all
            up to the last feature map.
        **kwargs: Of :func:`abn.wrap_backbone`.

    Raises:
        TypeError: If ``tasks`` is among the arguments.
    """
    if (tasks := kwargs.pop("tasks", None)) is not None:
        raise TypeError(
            f"tasks is {tasks!r}, expected none, as in the official code: for several tasks hand the "
            f"backbone to wrap_backbone(abn.models.cifar_...(...), split={split!r}, tasks=...), and save the "
            "state_dict() of what comes back"
        )
    shape = in_channels, 32, 32
    if stage == "copy" and copied is not None:
        received = input_shapes(backbone, [copied], shape)[copied]
        stage = stride_one_copy(backbone.get_submodule(copied), received) or stage
    kwargs = {"start": "new", **kwargs}  # nothing is pretrained
    return wrap_backbone(backbone, split=split, stage=stage, input_size=shape, **kwargs)


def blocks_per_stage(depth: int, layers_per_block: int, other_layers: int) -> int:
    """Number of blocks in each of the three stages of a network of so many layers.

    Args:
        depth: Layers with weights, as in the network's name.
        layers_per_block: Of these, in one block.
        other_layers: Of these, outside the stages.

    Raises:
        ValueError: If no number of blocks makes this depth.
    """
    per_stage = 3 * layers_per_block
    blocks, remainder = divmod(depth - other_layers, per_stage)
    if blocks < 1 or remainder:
        examples = ", ".join(str(per_stage * n + other_layers) for n in (1, 2, 3))
        raise ValueError(f"depth is {depth}, expected {per_stage}n + {other_layers}: {examples}, ...")
    return blocks


def init_convolutions(network: nn.Module) -> None:
    """Gives every convolution random weights of He et al. (2015), by the number of its outputs.

    As in the official code; PyTorch's own norms start as they do there.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
