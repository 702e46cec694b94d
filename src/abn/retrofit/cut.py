"""Where to cut a backbone, and the cut itself."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from abn.retrofit.dry_run import BATCH, Shape, input_shapes, overwrites_input
from abn.retrofit.operations import first_difference
from abn.retrofit.read_classifier import read_classifier
from abn.retrofit.shallow_tracer import CutError, check_arguments, subgraph
from abn.retrofit.splits import Chain, FeatureMap, chain_of
from abn.retrofit.tracing import part_of
from abn.retrofit.verify import forward_of, graph_operations


@dataclass(frozen=True)
class Split:
    """A place where a backbone can be cut."""

    name: str
    """The submodule after which it is cut; or a function in the forward, such as ``relu()``."""
    channels: int
    height: int
    width: int
    stride: int
    """Pixels of the image per pixel of the features, along the height."""
    default: bool
    """Whether :func:`abn.wrap_backbone` cuts here unless told otherwise."""


class Splits(tuple[Split, ...]):
    """The places where a backbone can be cut, from the images to the logits. Prints as a table."""

    image_size: tuple[int, int]
    """Height and width of the images for which the sizes of the features are given."""
    classifier: str
    """What the backbone's classifier is made of, if an attention branch can start from it; else empty."""

    def __str__(self) -> str:
        column = max(len("split"), *(len(split.name) for split in self))
        lines = [f"{'split':<{column}}  channels  stride  height × width"]
        for split in self:
            line = f"{split.name:<{column}}  {split.channels:>8}  {split.stride:>6}"
            line += f"  {split.height:>6} × {split.width}"
            lines.append(line + "  ← default" if split.default else line)
        start = f"the classifier: {self.classifier}" if self.classifier else "new heads, which need training"
        height, width = self.image_size
        where = f"for images of {height} × {width}"
        lines.append(f"{where}; maps are as fine, or coarser where a stage keeps its stride")
        return "\n".join([*lines, f"attention branch starts from {start}"])

    __repr__ = __str__


@dataclass(frozen=True)
class Parts:
    """A backbone in parts, which run its own submodules and not copies of them."""

    feature_extractor: fx.GraphModule
    """From the images to the split."""
    stage: fx.GraphModule | None
    """From the split to the last feature map, if anything is left between them."""
    tail: fx.GraphModule
    """From the split to the logits."""
    head: fx.GraphModule
    """From the last feature map to the logits."""
    end: Shape
    """(C, H, W) of the last feature map."""
    split: str
    """Name of the split."""
    features: Shape
    """(C, H, W) at the split."""
    dtype: torch.dtype
    """Of the features."""
    num_classes: int


def splits_of(backbone: nn.Module, shape: Shape) -> Splits:
    """Lists where the backbone can be cut, for images of this shape.

    Raises:
        CutError: If it cannot be traced, its trace has lost something, it has no feature map to cut at, or
            it ends in something else than logits (B, K).
    """
    chain = _checked_chain(backbone, shape)
    default = None if _on_tokens(chain) else chain.split
    splits = Splits(
        Split(split.name, *split.shape, stride=round(shape[1] / split.shape[1]), default=i == default)
        for i, split in enumerate(chain.maps)
        if i > 0
    )
    splits.image_size = shape[1], shape[2]
    classifier = read_classifier(_head(backbone, chain), chain.maps[chain.end].shape)
    splits.classifier = "" if classifier is None else classifier.summary()
    return splits


def cut(backbone: nn.Module, shape: Shape, split: str | None) -> Parts:
    """Cuts the backbone at the split of this name, or else where its last stage begins.

    Raises:
        CutError: If it cannot be traced, its trace has lost something, it has no feature map to cut at or
            no split of that name, or it ends in something else than logits (B, K).
    """
    chain = _checked_chain(backbone, shape, split)
    at = _position(chain, backbone, split)
    images, features, end = chain.maps[0], chain.maps[at], chain.maps[chain.end]
    (logits,) = chain.graph.output_node().all_input_nodes
    return Parts(
        feature_extractor=_part(backbone, chain, images, features, "FeatureExtractor"),
        stage=_part(backbone, chain, features, end, "Stage") if at < chain.end else None,
        tail=_part(backbone, chain, features, logits, "Tail"),
        head=_head(backbone, chain),
        end=end.shape,
        split=features.name,
        features=features.shape,
        dtype=features.node.meta["val"].dtype,
        num_classes=logits.meta["val"].shape[1],
    )


def _head(backbone: nn.Module, chain: Chain) -> fx.GraphModule:
    """From the last feature map to the logits."""
    (logits,) = chain.graph.output_node().all_input_nodes
    return _part(backbone, chain, chain.maps[chain.end], logits, "Head")


def _part(
    backbone: nn.Module, chain: Chain, start: FeatureMap, end: FeatureMap | fx.Node, name: str
) -> fx.GraphModule:
    """From one feature map to another, or to the logits; feature maps come and go as (B, C, H, W)."""
    node = end.node if isinstance(end, FeatureMap) else end
    graph = subgraph(chain.graph, start.node, node)
    if start.channels_last:
        (given,) = graph.find_nodes(op="placeholder")
        with graph.inserting_after(given):
            permuted = graph.call_method("permute", (given, 0, 2, 3, 1))
        given.replace_all_uses_with(permuted, delete_user_cb=lambda user: user is not permuted)
    if isinstance(end, FeatureMap) and end.channels_last:
        output = graph.output_node()
        (returned,) = output.all_input_nodes
        with graph.inserting_before(output):
            output.args = (graph.call_method("permute", (returned, 0, 3, 1, 2)),)
    return part_of(backbone, graph, name)


def _position(chain: Chain, backbone: nn.Module, split: str | None) -> int:
    """Index of the map to cut at."""
    names = [feature_map.name for feature_map in chain.maps]
    valid = "Valid splits:" + "".join(f"\n    {name}" for name in names[1:])
    if split is None and (tokens := _on_tokens(chain)) is not None:
        raise CutError(
            f"{_about_tokens(backbone, tokens)}, or attend to a feature map before them, with split=. {valid}"
        )
    if split is not None and split not in names[1:]:
        raise CutError(f"{type(backbone).__name__} cannot be cut at split={split!r}. {valid}")
    return chain.split if split is None else names.index(split)


def _checked_chain(backbone: nn.Module, shape: Shape, split: str | None = None) -> Chain:
    check_arguments(backbone)
    try:
        forward = forward_of(backbone, shape)
        chain = chain_of(backbone, forward, split)
    except CutError as error:
        if (tokens := _tokens_received(backbone, shape)) is not None:
            raise CutError(_about_tokens(backbone, tokens)) from error
        raise
    difference = first_difference(forward.operations, graph_operations(backbone, chain.graph, forward.other))
    _check(chain, backbone, shape, difference)
    return chain


def _check(chain: Chain, backbone: nn.Module, shape: Shape, difference: str | None) -> None:
    """Raises a CutError if the graph is not that of a classifier, or does not do what the forward does."""
    name, images = type(backbone).__name__, ("B", *shape)
    if len(chain.maps) == 1:
        if (tokens := _on_tokens(chain)) is not None:
            raise CutError(_about_tokens(backbone, tokens))
        values = {node.name: node.meta.get("val") for node in chain.graph.nodes}
        seen = [f"{key} {tuple(value.shape)}" for key, value in values.items() if isinstance(value, Tensor)]
        raise CutError(
            f"{name} has no feature map (B, C, H, W) of more than one pixel that every path from images "
            f"{images} to the logits goes through. Seen: {', '.join(seen)}. Is it a convolutional network, "
            "and input_size= large enough for it? Or does something else go past its feature maps?"
        )
    (logits,) = chain.graph.output_node().all_input_nodes
    scores = tuple(logits.meta["val"].shape)
    if len(scores) != 2 or scores[0] != BATCH:
        raise CutError(
            f"{name} returns {('B', *scores[1:])} for images {images}, expected logits (B, K): hand over a "
            "classifier"
        )
    # Such as hooks and instance methods on the backbone, or a branch on the type of a tensor.
    if difference is not None:
        raise CutError(
            f"{name}.forward does something that its trace has lost: {difference}. Move it into a submodule "
            "of its own, or build the network by hand with ABN(feature_extractor, ...)"
        )


def _on_tokens(chain: Chain) -> tuple[int, int] | None:
    """(N, C) of the tokens on which the network works almost from the beginning, if it does."""
    last = chain.maps[chain.end]
    if chain.layers - last.layers <= 0.75 * chain.layers:
        return None
    nodes = list(chain.graph.nodes)
    values = (node.meta.get("val") for node in nodes[nodes.index(last.node) + 1 :])
    shapes = [value.shape for value in values if isinstance(value, Tensor) and value.shape[:1] == (BATCH,)]
    if chain.end > 0 and any(len(shape) == 4 and shape[2] * shape[3] > 1 for shape in shapes):
        return None  # there are more feature maps, but something goes past them
    tokens = [(shape[1], shape[2]) for shape in shapes if len(shape) == 3 and shape[1] > 1]
    return max(tokens, key=math.prod, default=None)


def _tokens_received(backbone: nn.Module, shape: Shape) -> tuple[int, int] | None:
    """The same of a backbone that cannot be traced, judged by what its layers receive."""
    layers = [name for name, layer in backbone.named_modules() if isinstance(layer, (nn.Linear, nn.Conv2d))]
    try:
        received = input_shapes(backbone, layers, shape).values()
    except Exception:  # nor can it be run
        return None
    tokens = [sizes for sizes in received if len(sizes) == 2]
    return max(tokens, key=math.prod) if len(tokens) > 0.75 * len(received) else None


def _about_tokens(backbone: nn.Module, tokens: tuple[int, int]) -> str:
    return (
        f"{type(backbone).__name__} is a network of tokens {('B', *tokens)}, but an attention branch needs "
        "feature maps (B, C, H, W). Build the network by hand, with ABN(feature_extractor, ...), whose first "
        "part ends by folding its tokens into a feature map (without a class token: "
        "transpose(1, 2).unflatten(2, (H, W))) and whose tail begins by flattening it "
        "(flatten(2).transpose(1, 2))"
    )


def keep_input(part: fx.GraphModule, features: Shape) -> None:
    """Gives a part that begins in place, with an activation above all, something of its own to overwrite.

    Raises:
        CutError: If the part does not run on its own.
    """
    try:
        overwrites = overwrites_input(part, features)
    except Exception as error:  # its submodules are the user's own code, and may fail in any way
        raise CutError(
            f"what follows the split does not run on its own, so it cannot serve as a stage: {error}\n"
            "Does it read what the part before it has stored? Give stage='none', a stage of your own, or "
            "another split="
        ) from error
    if overwrites:
        (given,) = part.graph.find_nodes(op="placeholder")
        with part.graph.inserting_after(given):
            clone = part.graph.call_method("clone", (given,))
        given.replace_all_uses_with(clone, delete_user_cb=lambda user: user is not clone)
        part.recompile()
