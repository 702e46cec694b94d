"""Copies a backbone's last stage so that it runs at every pixel of the features."""

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
    """Runs a layer of stride (rows, columns) on rows · columns shifted copies of each image.

    See :func:`dense_copy`.

    Args:
        layer: A layer with a stride, or a block that contains a layer with a stride.
        stride: Stride of the layer, as (rows, columns).
        centre: Index (row, column) of the copy that is not shifted. The other copies are shifted to either
            side.
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
        """Kernel size of the layer, for blocks that pad by themselves."""
        return self.layer.kernel_size

    def forward(self, images: Tensor) -> Tensor:
        """Takes images (B, C, H, W). Returns the layer's output for copies (B · rows · columns, C, H, W)."""
        (rows, columns), (top, left) = self.stride, self.centre
        height, width = images.shape[-2:]
        padded = F.pad(images, (left, columns - 1 - left, top, rows - 1 - top))
        copies = [padded[..., i : i + height, j : j + width] for i in range(rows) for j in range(columns)]
        output: Tensor = self.layer(torch.stack(copies, dim=1).flatten(0, 1))
        return output


class Stitch(nn.Module):
    """Puts a stage's outputs for shifted copies together, pixel by pixel.

    Args:
        strides: Strides (rows, columns) of the :class:`ShiftedCopies`, in the order in which they run.
    """

    def __init__(self, strides: Sequence[Pair]) -> None:
        super().__init__()
        self.strides = list(strides)

    def extra_repr(self) -> str:
        return f"strides={self.strides}"

    def forward(self, output: Tensor, features: Tensor) -> Tensor:
        """Takes the output (B · s², C', H / s, W / s) for features (B, C, H, W). Returns (B, C', H, W)."""
        for rows, columns in reversed(self.strides):
            # (B · rows · columns, C', h, w) to (B, C', h, rows, w, columns)
            apart = output.reshape(-1, rows, columns, *output.shape[1:]).permute(0, 3, 4, 1, 5, 2)
            output = apart.flatten(4, 5).flatten(2, 3)
        height, width = features.shape[-2:]
        below, right = height - output.shape[-2], width - output.shape[-1]
        if below > 0 or right > 0:  # a layer without padding leaves out the last pixel of an odd size
            output = F.pad(output, (0, max(right, 0), 0, max(below, 0)), mode="replicate")
        return output[..., :height, :width]


def dense_copy(stage: fx.GraphModule, features: Shape) -> fx.GraphModule | None:
    """Copies the stage, weights included, so that it runs at every pixel of its input.

    The copy computes what the stage was trained to compute. Each layer with a stride s gets s × s copies of
    its input, each shifted by another number of pixels, as if they were separate images
    (:class:`ShiftedCopies`). The layers behind it run on these images unchanged. At the end their outputs are
    put together, pixel by pixel (:class:`Stitch`). So at every s-th pixel, the copy returns what the stage
    itself returns. At the pixels in between, it returns what the stage returns for shifted inputs.

    The method is known as shift-and-stitch (Sermanet et al., "OverFeat", ICLR 2014; Long et al., "Fully
    Convolutional Networks", CVPR 2015, section 3.2). For convolutions, away from the border, it equals
    dilation, *à trous*. Unlike dilation, it changes no layer: pools, windows of attention and
    squeeze-and-excitation stay as they are. Only the inputs of the strided layers are shifted, so that
    nothing is computed twice.

    Args:
        stage: A module that takes features (B, C, H, W).
        features: (C, H, W) of the features.

    Returns:
        The copy, which takes features (B, C, H, W) to (B, C', H, W). None if anything but a layer with a
        stride lowers the resolution, or if the stage cannot run on shifted copies.
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
        if not -total < lacking <= margin:  # not only layers with a stride lower the resolution
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
    """Puts :class:`ShiftedCopies` around the layers that lower the resolution.

    Returns:
        The strides of these layers, and how many pixels of the features are left out at the border by layers
        without padding.
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
        """Returns the name of the outermost block that can be fused, and shrinks its input as the layer does.

        Returns the layer's own name if no block around it meets these conditions.
        """
        parents = [parent for parent in blocks if name.startswith(f"{parent}.") and parent in shapes]
        same = [parent for parent in parents if _resolutions(shapes[parent]) == _resolutions(shapes[name])]
        return next(iter(same), name)

    def resolution(call: tuple[str, Shape, Shape]) -> Pair:
        return call[1][-2:]

    strides: list[Pair] = []
    margin = 0
    for _, calls in groupby(sorted(strided, key=resolution, reverse=True), key=resolution):
        group = list(calls)  # on parallel paths, whose outputs must stay aligned: they share one centre
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
    # A block may store a stride too, but has children. A convolution with children is a parametrized one.
    is_layer = isinstance(layer, nn.Conv2d) or not list(layer.children())
    return is_layer and max(_pair(getattr(layer, "stride", 1))) > 1


def _offset(layer: Any, received: Shape, returned: Shape) -> Pair:
    """Returns how far below and to the right of the first pixel the layer's first window has its middle.

    If the offset is 0, copy (0, 0) is the image without a shift. If a layer does not pad before the first
    pixel, as in TensorFlow, its first window begins at that pixel: its output belongs further down and to
    the right.
    """
    offsets = []
    for i in (0, 1):
        kernel, stride, padding, dilation = (
            _pair(getattr(layer, name, default))[i]
            for name, default in (("kernel_size", 1), ("stride", 1), ("padding", 0), ("dilation", 1))
        )
        extent = dilation * (kernel - 1)
        if padding == 0:  # or it pads by itself: as its output's size needs, an odd pixel at the end
            lacking = (returned[i + 1] - 1) * stride + extent + 1 - received[i + 1]
            padding = max(lacking, 0) // 2
        offsets.append(max(extent // 2 - padding, 0))
    return offsets[0], offsets[1]


def _pair(value: Any) -> Pair:
    """Returns a layer's setting as (rows, columns).

    Returns (0, 0) for padding by a word, ``"same"`` or ``"valid"``: the sizes tell how much is padded.
    """
    if isinstance(value, (tuple, list)):
        return int(value[0]), int(value[-1])
    return (value, value) if isinstance(value, int) else (0, 0)
