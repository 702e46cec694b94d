"""The kinds of stages. A stage is the part of an attention branch before its heads."""

import copy
from collections.abc import Callable

from torch import Tensor, fx, nn
from torchvision.ops import Conv2dNormActivation

from abn.modules.features import Features
from abn.retrofit.cut import Parts
from abn.retrofit.dense import dense_copy
from abn.retrofit.dry_run import Shape, device_of, dry_run, overwrites_input
from abn.retrofit.packing import keep_input
from abn.retrofit.stride_one import stride_one_copy


def _dense(parts: Parts) -> nn.Module | None:
    return _copied(parts, dense_copy)


def _stride_one(parts: Parts) -> nn.Module | None:
    return _copied(parts, stride_one_copy)


def _copied(parts: Parts, make_copy: Callable[[fx.GraphModule, Shape], nn.Module | None]) -> nn.Module | None:
    """Copies the backbone's stage with ``make_copy``, which keeps the resolution of the features.

    If that fails, or the stage takes more than a feature map, makes a plain copy, which keeps its stride.
    Returns None if there is no stage to copy.
    """
    if parts.stage is None:
        return None
    keep_input(parts.stage, parts.received)
    # The two kinds of copies take a feature map alone. Blocks of tokens have no stride to remove.
    copied = None if isinstance(parts.received, Features) else make_copy(parts.stage, parts.received)
    return (copied or copy.deepcopy(parts.stage)).requires_grad_(True)


def _light(parts: Parts) -> nn.Module:
    """Builds a 1×1 convolution to an eighth of the channels, but at least 32, with batch norm and ReLU.

    docs/performance.md has its cost. docs/stages.md compares its maps with the maps of a copy, of no stage,
    and of stages with a 3×3 convolution.
    """
    channels, *_ = parts.features
    stage: nn.Module = _on_map(Conv2dNormActivation(channels, max(channels // 8, 32), kernel_size=1), parts)
    return stage.to(device_of(parts.tail), parts.dtype).train(parts.tail.training)


STAGES: dict[str, Callable[[Parts], nn.Module | None]] = {
    "dense": _dense,
    "copy": _stride_one,
    "light": _light,
    "none": lambda parts: None,
}
"""Functions that make each kind of stage from a backbone's parts, by name. A new kind is one more entry."""

KEEPING_WHAT_IT_LEARNED = frozenset({"dense"})
"""Kinds of stages whose output the backbone's own classifier can read without new training."""


def check_stage(stage: object) -> None:
    """Raises a ValueError if ``stage`` is neither the name of a kind nor a module."""
    if not isinstance(stage, nn.Module) and stage not in list(STAGES):
        raise ValueError(f"stage is {stage!r}, expected {', '.join(map(repr, STAGES))} or a module")


def make_stage(stage: str | nn.Module, parts: Parts) -> nn.Module | None:
    """Returns the attention branch's stage, or None if it has no stage.

    Raises:
        CutError: If the stage is to be a copy, and the backbone's part does not run on its own.
        ValueError: If the stage is a module that does not take the features, does not return a feature map,
            or changes the features in place: the perception branch reads them too.
    """
    if not isinstance(stage, nn.Module):
        return STAGES[stage](parts)
    expected = f"expected a module that takes features {('B', *parts.features)} to (B, C', h, w)"
    try:
        output = dry_run(stage, parts.features)
        overwrites = overwrites_input(stage, parts.features)
    except Exception as error:  # the stage is the user's own code, and may fail in any way
        raise ValueError(f"stage does not run, {expected}: {error}") from error
    if not isinstance(output, Tensor) or output.ndim != 4:
        shape = ("B", *output.shape[1:]) if isinstance(output, Tensor) else f"a {type(output).__name__}"
        raise ValueError(f"stage returns {shape}, {expected}")
    if overwrites:
        raise ValueError("stage changes the features in place, expected it to leave them: clone them first")
    return _on_map(stage, parts)


def _on_map(stage: nn.Module, parts: Parts) -> nn.Module:
    return OnFeatureMap(stage) if isinstance(parts.received, Features) else stage


class OnFeatureMap(nn.Module):
    """Runs a module on the feature map of :class:`Features`."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, features: Features) -> Tensor:
        """Takes features. Returns what the module returns for their feature map (B, C, H, W)."""
        output: Tensor = self.module(features.feature_map)
        return output
