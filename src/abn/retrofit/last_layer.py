"""Finds the layer that makes the logits of a backbone, and replaces it."""

from itertools import chain
from typing import Any, NamedTuple, cast

from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from abn.retrofit.dry_run import BATCH, Shape, dry_run, rehearse
from abn.retrofit.errors import cannot_run, not_logits
from abn.retrofit.operations import ACTIVATING, POOLING, RESHAPING, SCALING, name_of


def replace_classifier(backbone: nn.Module, num_classes: int, shape: Shape) -> nn.Module:
    """Gives the backbone a new classifier, on the device and in the dtype of the old one.

    Calls timm's method ``reset_classifier`` if the backbone has it. Otherwise replaces the linear layer or
    1×1 convolution that makes the logits, see :func:`ending_of`. An encoder of timm that would read its class
    token gets a classifier that reads the mean of the patch tokens, which can be read pixel by pixel.

    Returns:
        The backbone, changed in place. If it returned a feature map or tokens, a new :class:`PooledEncoder`.

    Raises:
        CutError: If the backbone does not run on images of this shape, or does not return one tensor.
        ValueError: If no linear layer or 1×1 convolution makes the logits.
    """
    known, training = {*backbone.modules(), *backbone.parameters()}, backbone.training
    old: Any = backbone
    reset = getattr(backbone, "reset_classifier", None)
    pools = is_encoder(backbone) and getattr(backbone, "global_pool", None) in ("token", "")
    if callable(reset) and pools:
        reset(num_classes, global_pool="avg")
    elif is_encoder(backbone) and isinstance(output := dry_run(backbone, shape), Tensor) and output.ndim > 2:
        backbone = PooledEncoder(backbone, output, num_classes)
    elif callable(reset):
        old = cast(Any, backbone).get_classifier()
        reset(num_classes)
    else:
        names, old = _classifier(backbone, shape)
        bias = old.bias is not None
        if isinstance(old, nn.Linear):
            new: nn.Module = nn.Linear(old.in_features, num_classes, bias)
        else:
            new = nn.Conv2d(old.in_channels, num_classes, 1, bias=bias)
        for name in names:
            backbone.set_submodule(name, new)
    replaced = old if isinstance(old, nn.Module) else backbone  # timm may return several layers, or none
    like = next(chain(replaced.parameters(), backbone.parameters()))
    for module in set(backbone.modules()) - known:
        module.training = training
        module.to(like.device, like.dtype)
    for parameter in set(backbone.parameters()) - known:
        parameter.data = parameter.data.to(like)
    return backbone


def is_encoder(backbone: nn.Module) -> bool:
    """Whether the backbone has no classifier, as timm tells it."""
    return getattr(backbone, "num_classes", None) == 0


class PooledEncoder(nn.Module):
    """Classifies what an encoder returns, averaged over the pixels.

    Args:
        encoder: Takes images (B, C, H, W). Returns a feature map, or tokens (B, N, C). A map has its channels
            last if its last dimension alone is ``encoder.num_features``.
        output: An output of the encoder. Its values do not matter.
        num_classes: Number of classes K.
    """

    def __init__(self, encoder: nn.Module, output: Tensor, num_classes: int) -> None:
        super().__init__()
        self.encoder = encoder
        width = getattr(encoder, "num_features", None)
        last = output.ndim == 3 or (output.shape[-1] == width != output.shape[1])
        self.pixels = tuple(range(1, output.ndim - 1)) if last else tuple(range(2, output.ndim))
        self.head = nn.Linear(output.shape[-1 if last else 1], num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Takes images (B, C, H, W). Returns logits (B, K)."""
        logits: Tensor = self.head(self.encoder(images).mean(dim=self.pixels))
        return logits


def _classifier(backbone: nn.Module, shape: Shape) -> tuple[list[str], nn.Linear | nn.Conv2d]:
    """Returns all names of the layer that makes the logits, and the layer."""
    name = ending_of(backbone, shape).layer
    if not name:
        raise ValueError(
            f"no linear layer or 1×1 convolution makes the outputs of {type(backbone).__name__}, so "
            "num_classes= has nothing to replace: give the backbone its new classifier before wrapping, such "
            "as backbone.fc = nn.Linear(512, num_classes)"
        )
    layer = cast(Any, backbone.get_submodule(name))
    names = [name for name, module in backbone.named_modules(remove_duplicate=False) if module is layer]
    return names, layer


class Ending(NamedTuple):
    """Describes what makes the outputs of a backbone."""

    layer: str | None
    """Name of the linear layer or 1×1 convolution that makes the outputs. Empty if another linear operation
    makes them, such as a 3×3 convolution, two layers, or a product with a weight of the backbone itself. None
    if no linear operation makes them.
    """
    probabilities: bool
    """Whether the outputs have gone through a softmax or a sigmoid."""


def ending_of(backbone: nn.Module, shape: Shape) -> Ending:
    """Finds what makes the outputs of a backbone.

    A layer also makes the outputs if its result is pooled or scaled afterwards. The result of a 1×1
    convolution may go through an activation before it is pooled. Any other layer with an activation behind it
    is a hidden layer: the backbone's classifier was taken away.

    Raises:
        CutError: If the backbone does not run on images of this shape, or does not return one tensor.
    """

    def run(rehearsed: nn.Module, images: Tensor) -> tuple[Any, Ending]:
        outputs = _OutputsOfLayers()
        for name, layer in rehearsed.named_modules():
            pointwise = isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1)
            if isinstance(layer, nn.Linear) or pointwise:
                layer.register_forward_hook(lambda _, args, output, name=name: outputs.note(output, name))
        with outputs:
            logits = rehearsed(images)
        return logits, outputs.ending_in(logits)

    try:
        logits, ending = rehearse(backbone, shape, run)
    except Exception as error:  # the forward is the user's own code, and may fail in any way
        raise cannot_run(backbone, shape, error) from error
    if not isinstance(logits, Tensor):
        raise not_logits(backbone, logits)
    return ending


# PyTorch leaves TorchDispatchMode untyped, hence the two ignores.
class _OutputsOfLayers(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While active, follows the outputs of layers through operations that keep one value for each class."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        # Both keep the tensors alive, so that no other tensor gets one of their ids.
        self._layers: dict[int, tuple[Tensor, str]] = {}
        self._probabilities: dict[int, Tensor] = {}

    def note(self, output: Tensor, layer: str) -> None:
        self._layers[id(output)] = output, layer

    def ending_in(self, output: object) -> Ending:
        _, layer = self._layers.get(id(output), (None, None))
        return Ending(layer, id(output) in self._probabilities)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        inputs = [value for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)]
        layers = {self._layers[id(value)][1] for value in inputs if id(value) in self._layers}
        others = any(id(value) not in self._layers and value.shape[:1] == (BATCH,) for value in inputs)
        result = func(*args, **(kwargs or {}))
        name = name_of(func)
        for value in tree_leaves(result):
            if not isinstance(value, Tensor):
                continue
            before_pooling = value.ndim == 4 and value.shape[2:].numel() > 1
            keeps = name in _KEEPING or (name in ACTIVATING and before_pooling and "" not in layers)
            if name in _LINEAR:
                self.note(value, "")  # then a layer's hook replaces this by the layer's name
            elif keeps and not others and len(layers) == 1:
                self.note(value, *layers)
            elif keeps and not others and layers and not before_pooling:  # outputs of two heads
                self.note(value, "")
            else:  # if it works in place, its result may be a tensor that was followed so far
                self._layers.pop(id(value), None)
            if name in _NORMALISING or (name in RESHAPING and id(inputs[0]) in self._probabilities):
                self._probabilities[id(value)] = value
        return result


_LINEAR = frozenset({"addmm", "mm", "bmm", "baddbmm", "linear", "convolution", "_cdist_forward"})
_NORMALISING = frozenset({"_softmax", "sigmoid"})
_KEEPING = (
    RESHAPING
    | POOLING
    | SCALING
    | _NORMALISING
    | {"max_pool2d_with_indices", "adaptive_max_pool2d", "amax", "max", "sum", "logsumexp"}
    | {"_log_softmax", "neg", "rsub", "cat", "stack", "select", "slice"}
    | {"clamp", "tanh"}  # networks use these to bound logits, not as activations of a hidden layer
)
"""Operations after which the outputs of a layer still have one value for each class."""
