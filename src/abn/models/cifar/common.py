"""Shared by the CIFAR networks: wrapping, the number of blocks for a depth, and random weights."""

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
    """Adds an attention branch to a CIFAR network, as in the official code unless an argument says otherwise.

    Args:
        backbone: CIFAR network, for the right number of classes.
        split: Name of the submodule after which the backbone is cut.
        in_channels: Channels of the images.
        stage: As for :func:`abn.wrap_backbone`.
        copied: Name of the submodule that ``stage="copy"`` copies. Default: everything from the split to the
            last feature map.
        **kwargs: Other arguments of :func:`abn.wrap_backbone`.

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
        made = stride_one_copy(backbone.get_submodule(copied), received)
        assert made is not None  # the blocks of these families have strided convolutions alone
        stage = made
    kwargs = {"start": "new", **kwargs}  # nothing is pretrained
    return wrap_backbone(backbone, split=split, stage=stage, input_size=shape, **kwargs)


def blocks_per_stage(depth: int, layers_per_block: int, other_layers: int) -> int:
    """Returns the number of blocks in each of the three stages of a network with ``depth`` layers.

    Args:
        depth: Number of layers with weights, as in the network's name.
        layers_per_block: Number of layers with weights in one block.
        other_layers: Number of layers with weights outside the stages.

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
    """Gives every convolution the random weights of He et al. (2015), scaled by the number of its outputs.

    The official code does so too. Its norms start as PyTorch's own do, so they are left as they are.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
