"""Copies a stage at stride 1, so that the attention map keeps the resolution of the features."""

import copy
import inspect
import warnings
from typing import Any

from torch import nn

from abn.lock import PROCESS_LOCK
from abn.retrofit.dry_run import Shape, dry_run, input_shapes

FUSING = ("fuse", "reparameterize", "switch_to_deploy")
"""Methods that turn a block into fewer layers. ``timm.utils.reparameterize_model`` calls these methods."""


def stride_one_copy(stage: nn.Module, features: Shape) -> nn.Module | None:
    """Copies the stage, weights included, so that it keeps the resolution of its input.

    Convolutions and pools with an odd kernel get stride 1 and 'same' padding. Pools with an even kernel are
    removed. The paper makes its attention branch in this way from the backbone's last stage (Fukui et al.,
    CVPR 2019, section 3.1).

    Args:
        stage: A module that takes features (B, C, H, W).
        features: (C, H, W) of the features.

    Returns:
        The copy. None if it does not keep the resolution: the code between the layers, a window of fixed
        size or a functional pool may decide the resolution.
    """
    stage = copy.deepcopy(stage)
    strided = {name: layer for name, layer in stage.named_modules() if _is_strided(layer)}
    try:
        for name, received in input_shapes(stage, strided, features).items():
            layer = strided[name]
            if isinstance(layer, nn.Conv2d):
                _remove_stride(layer, received)
            elif not list(layer.parameters()):
                stage.set_submodule(name, _stride_one_pool(layer, received).train(layer.training))
        for block in stage.modules():
            if can_fuse(block) and hasattr(block, "stride"):
                # When the block turns into one layer, the layer gets this stride.
                setattr(block, "stride", 1)  # noqa: B010 - unknown to the type of a module
        with PROCESS_LOCK, warnings.catch_warnings():
            # PyTorch says, once per process, that 'same' padding of an even kernel copies its input.
            warnings.simplefilter("ignore")
            output = dry_run(stage, features)
    except Exception:  # the stage's own code may rely on its stride in any way
        return None
    return stage if output.shape[-2:] == features[-2:] else None


def can_fuse(block: nn.Module) -> bool:
    """Whether the block can turn into fewer layers."""
    return any(inspect.ismethod(getattr(block, method, None)) for method in FUSING)


def _is_strided(layer: nn.Module) -> bool:
    stride = getattr(layer, "stride", 1)
    steps = stride if isinstance(stride, (tuple, list)) else (stride,)
    # A block may store a stride too, but has children. A convolution with children is a parametrized one.
    is_layer = isinstance(layer, nn.Conv2d) or not list(layer.children())
    return is_layer and any(step != 1 for step in steps)


def _remove_stride(convolution: nn.Conv2d, received: Shape) -> None:
    convolution.stride = (1, 1)
    if not _keeps_size(convolution, received):
        convolution.padding = "same"


def _stride_one_pool(pool: Any, received: Shape) -> nn.Module:
    if isinstance(pool, (nn.MaxPool2d, nn.AvgPool2d)):
        height, width = nn.modules.utils._pair(pool.kernel_size)
        if height % 2 == 0 or width % 2 == 0:
            return nn.Identity()
        pool.stride = 1
        if not _keeps_size(pool, received):
            pool.padding = (height // 2, width // 2)
        return pool
    pool.stride = 1  # a blur-pool, or a pool that pads by itself
    return pool if _keeps_size(pool, received) else nn.Identity()


def _keeps_size(layer: nn.Module, received: Shape) -> bool:
    return bool(dry_run(layer, received).shape[-2:] == received[-2:])
