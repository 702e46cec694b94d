"""Where to cut a backbone, and the cut itself."""

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, fx, nn

from abn.dry_run import BATCH, Shape, dry_run, overwrites_input
from abn.operations import first_difference
from abn.trace import CutError, Trace, operations_of_forward, part_of, trace


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

    def __str__(self) -> str:
        column = max(len("split"), *(len(split.name) for split in self))
        lines = [f"{'split':<{column}}  channels  stride  height × width"]
        for split in self:
            line = f"{split.name:<{column}}  {split.channels:>8}  {split.stride:>6}"
            line += f"  {split.height:>6} × {split.width}"
            lines.append(line + "  ← default" if split.default else line)
        return "\n".join(lines)


@dataclass(frozen=True)
class Parts:
    """A backbone in three parts, which run its own submodules and not copies of them."""

    feature_extractor: nn.Module
    """From the images to the split."""
    stage: fx.GraphModule | None
    """From the split to the last feature map, if anything is left between them."""
    tail: nn.Module
    """From the split to the logits."""
    features: Shape
    """(C, H, W) at the split."""
    dtype: torch.dtype
    """Of the features."""
    num_classes: int


@dataclass(frozen=True)
class _Chain:
    """The feature maps that every path from the images to the logits goes through."""

    graph: fx.Graph
    operations: list[str]
    """The tensor operations that running the graph comes to."""
    maps: list[fx.Node]
    """The images, then the feature maps."""
    split: int
    """Index of the map at which the last stage begins, 0 if there is none."""
    end: int
    """Index of the map at which the last stage ends. What follows is pooling."""

    @property
    def names(self) -> list[str]:
        called = [node.target for node in self.graph.nodes if node.op == "call_module"]
        names = []
        for node in self.maps:
            name = f"{node.name}()"  # of a function; the brackets keep it apart from a module of that name
            if node.op == "call_module":
                name = str(node.target) if called.count(node.target) == 1 else f"{node.target} as {node.name}"
            names.append(name)
        return names

    @property
    def shapes(self) -> list[Shape]:
        return [tuple(node.meta["val"].shape[1:]) for node in self.maps]


def splits_of(backbone: nn.Module, shape: Shape) -> Splits:
    """Lists where the backbone can be cut, for images of this shape.

    Raises:
        CutError: If it cannot be traced, or has no feature map to cut at.
    """
    chain = _open(backbone, shape)
    names = chain.names
    return Splits(
        Split(names[i], *features, stride=round(shape[1] / features[1]), default=i == chain.split)
        for i, features in enumerate(chain.shapes)
        if i > 0
    )


def cut(backbone: nn.Module, shape: Shape, split: str | None) -> Parts:
    """Cuts the backbone at the split of this name, or else where its last stage begins.

    Raises:
        CutError: If it cannot be traced, its trace has lost something, it has no feature map to cut at or
            no split of that name, or it ends in something else than logits (B, K).
    """
    chain = _open(backbone, shape, split)
    at = _position(chain, backbone, split)
    images, start, end = chain.maps[0], chain.maps[at], chain.maps[chain.end]
    (logits,) = chain.graph.output_node().all_input_nodes

    feature_extractor = part_of(backbone, chain.graph, images, start, "FeatureExtractor")
    tail = part_of(backbone, chain.graph, start, logits, "Tail")
    stage = part_of(backbone, chain.graph, start, end, "Stage") if at < chain.end else None
    if stage is not None and overwrites_input(stage, chain.shapes[at]):
        _clone_input(stage)
    if _is_channels_last(feature_extractor, shape, chain.shapes[at]):
        raise CutError(
            f"{type(backbone).__name__} has its channels last at {chain.names[at]!r}, (B, H, W, C), but an "
            "attention branch needs (B, C, H, W): build the network by hand, with ABN(feature_extractor, "
            "...), whose first part permutes its features and whose last part permutes them back"
        )
    return Parts(
        feature_extractor=feature_extractor,
        stage=stage,
        tail=tail,
        features=chain.shapes[at],
        dtype=start.meta["val"].dtype,
        num_classes=logits.meta["val"].shape[1],
    )


def _position(chain: _Chain, backbone: nn.Module, split: str | None) -> int:
    """Index of the map to cut at."""
    names = chain.names
    valid = "Valid splits:" + "".join(f"\n    {name}" for name in names[1:])
    if split is None and chain.split == 0:
        raise CutError(
            f"{type(backbone).__name__} has no layer that lowers the resolution of a feature map and has "
            f"weights behind it, so it is not clear where its last stage begins: give split=. {valid}"
        )
    if split is not None and split not in names[1:]:
        raise CutError(f"{type(backbone).__name__} cannot be cut at split={split!r}. {valid}")
    return chain.split if split is None else names.index(split)


def _check(chain: _Chain, backbone: nn.Module, shape: Shape) -> None:
    """Raises a CutError if the graph is not that of a classifier, or does not do what the forward does."""
    name, images = type(backbone).__name__, ("B", *shape)
    if len(chain.maps) == 1:
        values = {node.name: node.meta.get("val") for node in chain.graph.nodes}
        seen = [f"{key} {tuple(value.shape)}" for key, value in values.items() if isinstance(value, Tensor)]
        raise CutError(
            f"{name} has no feature map (B, C, H, W) of more than one pixel that every path from images "
            f"{images} to the logits goes through. Seen: {', '.join(seen)}. Is it a convolutional network, "
            "and input_size= large enough for it? Or does something else, such as images.shape[0], go past "
            "its feature maps?"
        )
    (logits,) = chain.graph.output_node().all_input_nodes
    scores = tuple(logits.meta["val"].shape)
    if len(scores) != 2 or scores[0] != BATCH:
        raise CutError(
            f"{name} returns {('B', *scores[1:])} for images {images}, expected logits (B, K): hand over a "
            "classifier"
        )
    # A trace can lose hooks and instance methods on the backbone, branches on the type of a tensor, and
    # changes in place whose result is not used.
    difference = first_difference(operations_of_forward(backbone, shape), chain.operations)
    if difference is not None:
        raise CutError(
            f"{name}.forward does something that its trace has lost: {difference}. Move it into a submodule "
            "of its own, or build the network by hand with ABN(feature_extractor, ...)"
        )


def _is_channels_last(feature_extractor: nn.Module, shape: Shape, features: Shape) -> bool:
    """Whether images of twice the height change the first dimension of the features, not the second."""
    channels, height, width = shape
    if height == width and features[0] != features[1]:  # (B, H, W, C) of a square image would begin alike
        return False
    try:
        taller = dry_run(feature_extractor, (channels, 2 * height, width))
    except Exception:  # a network for one size of images: height and width alike speak for themselves
        return height == width and features[1] != features[2]
    return bool(taller.shape[1] != features[0])


def _clone_input(part: fx.GraphModule) -> None:
    """Gives an in-place activation at the beginning something of its own to overwrite."""
    (features,) = part.graph.find_nodes(op="placeholder")
    with part.graph.inserting_after(features):
        clone = part.graph.call_method("clone", (features,))
    features.replace_all_uses_with(clone, delete_user_cb=lambda user: user is not clone)
    part.recompile()


def _open(backbone: nn.Module, shape: Shape, split: str | None = None) -> _Chain:
    """Traces the backbone, opening containers until none hides the last stage or the split asked for."""
    names = {name for name, _ in backbone.named_modules()}
    parents = [] if split is None else [split[:i] for i, character in enumerate(split) if character == "."]
    wanted = [name for name in parents if name in names]
    tried: list[str] = []
    opened: set[str] = set()
    chain = _chain(backbone, trace(backbone, opened, shape))
    while candidates := [name for name in (*_hiding(chain, backbone), *wanted) if name not in tried]:
        tried.append(candidates[0])
        try:
            chain = _chain(backbone, trace(backbone, {*opened, candidates[0]}, shape))
            opened.add(candidates[0])
        except CutError:
            pass  # a container that cannot be traced stays whole
    _check(chain, backbone, shape)
    return chain


def _chain(backbone: nn.Module, trace: Trace) -> _Chain:
    maps = [node for node in _cut_points(trace.graph) if _is_feature_map(node)]
    if not maps or maps[0].op != "placeholder":
        maps.insert(0, next(iter(trace.graph.nodes)))
    area = [node.meta["val"].shape[-2:].numel() for node in maps]
    learned = [
        i for i, (a, b) in enumerate(pairwise(maps), 1) if any(_learns(n, backbone) for n in _between(a, b))
    ]
    end = last = learned[-1] if learned else 0
    while end + 1 < len(maps) and area[end + 1] == area[last]:
        end += 1
    split = max((i for i in range(last) if area[i] > area[i + 1]), default=0)
    return _Chain(trace.graph, trace.operations, maps, split, end)


def _cut_points(graph: fx.Graph) -> list[fx.Node]:
    """The nodes that every path from the images to the logits goes through: no edge jumps over them."""
    order: dict[fx.Node, int] = {}
    for node in graph.nodes:  # weights and constants lie on no path from the images
        if node.op == "placeholder" or any(source in order for source in node.all_input_nodes):
            order[node] = len(order)
    points, reach = [], 0
    for node, position in order.items():
        if reach <= position:
            points.append(node)
        reach = max(reach, *(order[user] for user in node.users), 0)
    return points


def _is_feature_map(node: fx.Node) -> bool:
    value = node.meta.get("val")
    return (
        isinstance(value, Tensor)
        and value.ndim == 4
        and value.is_floating_point()
        and value.shape[-2:].numel() > 1
    )


def _between(start: fx.Node, end: fx.Node) -> list[fx.Node]:
    """The nodes behind ``start`` up to and including ``end``, in order."""
    nodes, node = [], start
    while node is not end:
        node = node.next
        nodes.append(node)
    return nodes


def _learns(node: fx.Node, backbone: nn.Module) -> bool:
    """Whether the node has a weight that mixes channels or pixels, as norms and pools have not."""
    if node.op == "call_module":
        return any(parameter.ndim >= 2 for parameter in backbone.get_submodule(str(node.target)).parameters())
    weights = (source.meta.get("val") for source in node.all_input_nodes if source.op == "get_attr")
    return any(isinstance(weight, nn.Parameter) and weight.ndim >= 2 for weight in weights)


def _hiding(chain: _Chain, backbone: nn.Module) -> list[str]:
    """The containers in which the last stage may begin, or in which feature maps may lie unseen."""
    (logits,) = chain.graph.output_node().all_input_nodes
    region = [node for node in _between(chain.maps[-1], logits) if _convolves(node, backbone)]
    if chain.split + 1 < len(chain.maps):
        (_, height, width), (_, next_height, next_width) = chain.shapes[chain.split : chain.split + 2]
        if round(max(height / next_height, width / next_width)) > 2:  # more than one stage's worth
            region += _between(chain.maps[chain.split], chain.maps[chain.split + 1])
    names = [str(node.target) for node in region if node.op == "call_module"]
    return [name for name in names if any(True for _ in backbone.get_submodule(name).children())]


def _convolves(node: fx.Node, backbone: nn.Module) -> bool:
    if node.op != "call_module":
        return False
    weights = backbone.get_submodule(str(node.target)).parameters()
    return any(weight.ndim == 4 and weight.shape[-2:].numel() > 1 for weight in weights)
