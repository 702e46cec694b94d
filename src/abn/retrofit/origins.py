"""Follows pixels through a forward: tells which token of a sequence stands for which place of the image."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from abn.retrofit.layouts import Tokens
from abn.retrofit.operations import ACTIVATING, name_of

_ROW = 1 << 16
"""The place (row, column) is written as the number row · 65536 + column. -1: no place of the image."""


# PyTorch leaves TorchDispatchMode untyped, hence the two ignores.
class Origins(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While active, knows for each value of a tensor which place of the image the value stands for.

    A tensor gets places by these rules:

    - Images, and the outputs of 2-D convolutions and pools, are grids: each pixel is its own place. If a
      convolution runs on pieces of the image, each output has the place of its piece. If its input is not in
      the order of the image, its output has no places.
    - Views, permutations and concatenations move places as they move values.
    - A matrix product takes the places of the left factor's rows or, if these are all alike or absent, of the
      right factor's columns. So the output of attention has the places of the queries.
    - A norm, an activation, a sum and the like keep the places of their first input that has any. So the sum
      of a residual block has the places of the shortcut.
    - What is made of several places has the first row and the first column of them.
    - The results of all other operations have no places.

    Tensors that the image does not lead to have no places: class tokens, registers, position embeddings.
    """

    def __init__(self, images: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        # Keeps the tensors alive, so that no other tensor gets one of their ids.
        self._places: dict[int, tuple[Tensor, Tensor]] = {id(images): (images, _grid(images.shape))}

    def tokens_in(self, value: object) -> Tokens | None:
        """Returns how tokens (B, N, C) make a map. None for other values, and if some place has no token."""
        places = self._of(value)
        if not isinstance(value, Tensor) or value.ndim != 3 or places is None:
            return None
        places = _first(places[:1], dim=2).flatten()
        (found,) = torch.nonzero(places >= 0, as_tuple=True)
        if not len(found) or found[-1] - found[0] + 1 != len(found):
            return None
        start, end = int(found[0]), int(found[-1]) + 1
        rows, row = torch.unique(places[start:end] // _ROW, return_inverse=True)
        columns, column = torch.unique(places[start:end] % _ROW, return_inverse=True)
        index = row * len(columns) + column
        if len(rows) * len(columns) != end - start or len(index.unique()) != end - start:
            return None
        order = torch.argsort(index).tolist()
        return Tokens(
            grid=(len(rows), len(columns)),
            before=start,
            after=len(places) - end,
            order=None if order == sorted(order) else tuple(order),
        )

    def _of(self, value: object) -> Tensor | None:
        _, places = self._places.get(id(value), (None, None))
        return places

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        inputs = [value for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)]
        if any(id(value) in self._places for value in inputs):
            places = self._follow(func, inputs, args, kwargs, result)
            if any(value is args[0] for value in tree_leaves(result)):  # an operation in place
                self._forget_others_in_memory_of(args[0])
            for value, place in zip(tree_leaves(result), tree_leaves(places), strict=False):
                if isinstance(value, Tensor) and isinstance(place, Tensor) and place.shape == value.shape:
                    self._places[id(value)] = value, place
                else:  # an operation in place may return a tensor that had places
                    self._places.pop(id(value), None)
        return result

    def _forget_others_in_memory_of(self, changed: Tensor) -> None:
        """Takes the places away from tensors whose memory an operation in place has changed."""
        memory = changed.untyped_storage()._cdata
        for key, (value, _) in list(self._places.items()):
            if value is not changed and value.untyped_storage()._cdata == memory:
                del self._places[key]

    def _follow(self, func: Any, inputs: list[Tensor], args: Any, kwargs: Any, result: Any) -> Any:
        """Returns the places of an operation's results, or None for results without places."""
        name = name_of(func)
        first = tree_leaves(result)[0]
        if not isinstance(first, Tensor):
            return None
        if name in _VIEWING:
            return torch.reshape(self._or_none(inputs[0]), first.shape)
        if name == "expand":
            return self._or_none(inputs[0]).expand(first.shape)
        if name == "constant_pad_nd":
            padded = self._of_map(inputs[0], first.shape) if first.ndim == 4 else None
            return F.pad(self._or_none(inputs[0]), args[1], value=-1) if padded is None else padded
        if name in _MOVING:
            moved = tree_map(lambda v: self._or_none(v) if isinstance(v, Tensor) else v, (args, kwargs))
            return func(*moved[0], **moved[1])
        if name == "im2col":
            return func(self._or_none(inputs[0]).float(), *args[1:], **kwargs).long()
        if first.ndim == 4 and any(word in name for word in ("conv", "pool", "upsample")):
            return self._of_map(inputs[0], first.shape)
        if name in _REDUCING and isinstance(dim := args[1] if len(args) > 1 else None, (int, list)):
            (dim,) = dim if isinstance(dim, list) and len(dim) == 1 else (dim,)
            places = self._of(inputs[0])
            if isinstance(dim, int) and places is not None:
                return _first(places, dim).reshape(first.shape)
        if name in _MULTIPLYING:
            return self._of_product(inputs[-2], inputs[-1], first.shape)
        if torch.Tag.pointwise in func.tags or name in _KEEPING:
            alike = (value for value in inputs if value.shape == first.shape and id(value) in self._places)
            return next((self._of(value) for value in alike), None)
        return None

    def _or_none(self, value: Tensor) -> Tensor:
        places = self._of(value)
        return (
            torch.full((1,) * value.ndim, -1, device="cpu").expand(value.shape) if places is None else places
        )

    def _of_map(self, value: Tensor, shape: torch.Size) -> Tensor | None:
        """Returns the places of a convolution's or a pool's result for maps (n, C, H, W) of one image."""
        places = self._of(value)
        if places is None or places.ndim != 4:
            return None
        if bool((places == places[:1]).all()):
            rows, columns = places[0, 0] // _ROW, places[0, 0] % _ROW
            in_order = bool((rows == rows[:, :1]).all() and (columns == columns[:1]).all())
            forward = bool((rows[:, 0].diff() > 0).all() and (columns[0].diff() > 0).all())
            return _grid(shape) if in_order and forward else None
        for dim in (1, 2, 3):  # the maps are pieces of the image
            places = _first(places, dim)
        return places.expand(shape)

    def _of_product(self, left: Tensor, right: Tensor, shape: torch.Size) -> Tensor | None:
        for value, dim in ((left, -1), (right, -2)):
            places = self._of(value)
            if places is not None:
                places = _first(places, dim)
                if not bool((places == places[..., :1, :1]).all()):
                    return places.expand(shape)
        return None


_VIEWING = frozenset({"view", "_unsafe_view", "reshape", "_reshape_alias"})
_MOVING = frozenset(
    {
        *("permute", "transpose", "t", "squeeze", "unsqueeze", "slice", "select", "unfold", "diagonal"),
        *("split", "split_with_sizes", "chunk", "unbind", "cat", "stack", "flip", "roll", "pixel_unshuffle"),
    }
)
_KEEPING = ACTIVATING | frozenset(
    {
        *("clone", "_to_copy", "detach", "alias", "contiguous", "lift_fresh", "native_dropout", "_softmax"),
        *("native_layer_norm", "native_batch_norm", "native_group_norm", "_fused_rms_norm", "rms_norm"),
    }
)
"""Operations that keep the places, besides those with the tag ``pointwise``."""
_REDUCING = frozenset({"mean", "sum", "max", "amax"})
_MULTIPLYING = frozenset({"mm", "addmm", "bmm", "baddbmm"})


def _grid(shape: torch.Size) -> Tensor:
    """Returns the places of a feature map (B, C, H, W)."""
    height, width = shape[-2:]
    rows, columns = torch.arange(height, device="cpu"), torch.arange(width, device="cpu")
    return (rows[:, None] * _ROW + columns).expand(shape)


def _first(places: Tensor, dim: int) -> Tensor:
    """Returns the first row and the first column of the places along a dimension, which becomes 1."""
    if places.stride(dim) == 0 or places.shape[dim] == 1:  # all alike
        return places.narrow(dim, 0, 1)
    none = places.amax(dim, keepdim=True) < 0
    far = torch.where(places < 0, _ROW * _ROW - 1, places)
    first = (far // _ROW).amin(dim, keepdim=True) * _ROW + (far % _ROW).amin(dim, keepdim=True)
    return torch.where(none, -1, first)
