"""The backbone's last stage, run at every pixel of the features."""

import copy
import math
from collections.abc import Sequence
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from abn.retrofit.dry_run import BATCH, Shape, call_shapes, dry_run
from abn.retrofit.stride_one import can_fuse

Pair = tuple[int, int]

_STITCH = "abn_stitch"  # a name that no backbone has


class ShiftedCopies(nn.Module):
    """Makes of each image as many as the stride of a layer has pixels, and runs the layer on all of them.

    See :func:`dense_copy`.

    Args:
        layer: With a stride.
        stride: Rows and columns.
        centre: Which copy, by rows and columns, is the image as it is. The others are shifted to either side.
    """

    def __init__(self, layer: nn.Module, stride: Pair, centre: Pair) -> None:
        super().__init__()
        self.layer = layer
        self.stride = stride
        self.centre = centre

    def extra_repr(self) -> str:
        return f"stride={self.stride}, centre={self.centre}"

    @property
    def kernel_size(self) -> Any:
        """Of the layer, for blocks that pad by themselves."""
        return self.layer.kernel_size

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) to what the layer returns of (B · rows · columns, C, H, W)."""
        (rows, columns), (top, left) = self.stride, self.centre
        height, width = images.shape[-2:]
        padded = F.pad(images, (left, columns - 1 - left, top, rows - 1 - top))
        copies = [padded[..., i : i + height, j : j + width] for i in range(rows) for j in range(columns)]
        output: Tensor = self.layer(torch.stack(copies, dim=1).flatten(0, 1))
        return output


class Stitch(nn.Module):
    """Puts what a stage made of shifted copies together, pixel by pixel.

    Args:
        strides: Of the layers behind :class:`ShiftedCopies`, from the first on, rows and columns.
    """

    def __init__(self, strides: Sequence[Pair]) -> None:
        super().__init__()
        self.strides = list(strides)

    def extra_repr(self) -> str:
        return f"strides={self.strides}"

    def forward(self, output: Tensor, features: Tensor) -> Tensor:
        """(B · s², C', H / s, W / s) of features (B, C, H, W) to (B, C', H, W)."""
        for rows, columns in reversed(self.strides):
            # (B · rows · columns, C', h, w) to (B, C', h, rows, w, columns)
            apart = output.reshape(-1, rows, columns, *output.shape[1:]).permute(0, 3, 4, 1, 5, 2)
            output = apart.flatten(4, 5).flatten(2, 3)
        height, width = features.shape[-2:]
        below, right = height - output.shape[-2], width - output.shape[-1]
        if below > 0 or right > 0:  # a layer without padding has left out the last pixel of an odd number
            output = F.pad(output, (0, max(right, 0), 0, max(below, 0)), mode="replicate")
        return output[..., :height, :width]


def dense_copy(stage: fx.GraphModule, features: Shape) -> fx.GraphModule | None:
    """A copy of the stage, weights included, that runs at every pixel of its input.

    The stage computes what it was trained to compute: each layer with a stride s sees s × s copies of its
    input, each shifted by another number of pixels, as if they were so many images (:class:`ShiftedCopies`).
    The layers behind it run on these as they are, and at the end their outputs are put together, pixel by
    pixel (:class:`Stitch`). So the copy returns at every s-th pixel what the stage itself returns, and
    between these what the stage returns of shifted inputs.

    Known as shift-and-stitch (Sermanet et al., "OverFeat", ICLR 2014; Long et al., "Fully Convolutional
    Networks", CVPR 2015, section 3.2). Away from the border it equals dilation, *à trous*, for convolutions.
    Unlike dilation it changes no layer, be it a pool, a window of attention or a squeeze-and-excitation. Only
    the inputs of the strided layers are shifted, so that nothing is computed twice.

    Args:
        stage: Takes features (B, C, H, W).
        features: (C, H, W).

    Returns:
        The copy, features (B, C, H, W) to (B, C', H, W); or none where something else than a layer with a
        stride lowers the resolution.
    """
    stage = copy.deepcopy(stage)
    try:
        strides, margin = _shift_inputs(stage, features)
        output = dry_run(stage, features)
    except Exception:  # the stage's own code may rely on its stride, or on the size of the batch, in any way
        return None
    for i in (0, 1):
        total = math.prod(stride[i] for stride in strides)
        lacking = features[i + 1] - total * output.shape[i + 2]
        if not -total < lacking <= margin:  # something else lowers the resolution too
            return None
    if len(output) != BATCH * math.prod(map(math.prod, strides)):
        return None
    if strides:
        _append_stitch(stage, strides)
    return stage


def _append_stitch(stage: fx.GraphModule, strides: Sequence[Pair]) -> None:
    stage.add_module(_STITCH, Stitch(strides).train(stage.training))
    (features,) = stage.graph.find_nodes(op="placeholder")
    output = stage.graph.output_node()
    (returned,) = output.all_input_nodes
    with stage.graph.inserting_before(output):
        output.args = (stage.graph.call_module(_STITCH, (returned, features)),)
    stage.recompile()


def _shift_inputs(stage: fx.GraphModule, features: Shape) -> tuple[list[Pair], int]:
    """Puts :class:`ShiftedCopies` before the layers that lower the resolution.

    Returns:
        Their strides, and how many pixels of the features they leave out at the border, without padding.
    """
    layers = {name: layer for name, layer in stage.named_modules() if _has_stride(layer)}
    blocks = [name for name, block in stage.named_modules() if can_fuse(block)]
    shapes = call_shapes(stage, dict.fromkeys([*layers, *blocks]), features)
    strided = [
        (name, received, returned)
        for name, (received, returned) in shapes.items()
        if name in layers and received[-2:] != returned[-2:]
    ]

    def outermost(name: str) -> str:
        """The layer, or the block around it that lowers the resolution as much and may become one layer."""
        parents = [parent for parent in blocks if name.startswith(f"{parent}.") and parent in shapes]
        same = [parent for parent in parents if _resolutions(shapes[parent]) == _resolutions(shapes[name])]
        return next(iter(same), name)

    def resolution(call: tuple[str, Shape, Shape]) -> Pair:
        return call[1][-2:]

    strides: list[Pair] = []
    margin = 0
    for _, calls in groupby(sorted(strided, key=resolution, reverse=True), key=resolution):
        group = list(calls)  # layers of parallel paths, which must stay aligned
        (stride,) = {_pair(layers[name].stride) for name, *_ in group}
        offsets = [_offset(layers[name], received, returned) for name, received, returned in group]
        rows, columns = (max(offset[i] for offset in offsets) for i in (0, 1))
        centre = min(rows, stride[0] - 1), min(columns, stride[1] - 1)
        for name in dict.fromkeys(outermost(name) for name, *_ in group):
            layer = stage.get_submodule(name)
            stage.set_submodule(name, ShiftedCopies(layer, stride, centre).train(layer.training))
        left_out = max(
            received[i + 1] - stride[i] * returned[i + 1] for _, received, returned in group for i in (0, 1)
        )
        margin += math.prod(map(max, strides)) * max(left_out, 0)
        strides.append(stride)
    return strides, margin


def _resolutions(call: tuple[Any, Any]) -> list[Any]:
    return [shape and shape[-2:] for shape in call]


def _has_stride(layer: nn.Module) -> bool:
    # Layers alone, not the blocks that remember a stride; a parametrized convolution has a child.
    is_layer = isinstance(layer, nn.Conv2d) or not list(layer.children())
    return is_layer and max(_pair(getattr(layer, "stride", 1))) > 1


def _offset(layer: Any, received: Shape, returned: Shape) -> Pair:
    """How far the middle of what the layer sees lies from the pixel at which its stride begins.

    Without an offset, copy (0, 0) is the image as it is. A layer that pads nothing before the first pixel, as
    TensorFlow's do, sees that pixel at its edge: its output belongs further to the right and down.
    """
    offsets = []
    for i in (0, 1):
        kernel, stride, padding, dilation = (
            _pair(getattr(layer, name, default))[i]
            for name, default in (("kernel_size", 1), ("stride", 1), ("padding", 0), ("dilation", 1))
        )
        extent = dilation * (kernel - 1)
        if padding == 0:  # or it pads by itself, as much as its output's size needs, rather at the end
            lacking = (returned[i + 1] - 1) * stride + extent + 1 - received[i + 1]
            padding = max(lacking, 0) // 2
        offsets.append(max(extent // 2 - padding, 0))
    return offsets[0], offsets[1]


def _pair(value: Any) -> Pair:
    """Rows and columns of a layer's setting.

    0 for one that is said in words: how much is padded, ``"same"`` or ``"valid"``, is then seen by the sizes.
    """
    if isinstance(value, (tuple, list)):
        return int(value[0]), int(value[-1])
    return (value, value) if isinstance(value, int) else (0, 0)
