"""Finds the feature maps of a backbone at which it can be cut, and where its last stage begins."""

import operator
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor, fx, nn
from torch.utils._pytree import tree_leaves

from abn.retrofit.cut_points import ValuesBeside, cut_points, values_beside
from abn.retrofit.dry_run import BATCH, Shape
from abn.retrofit.errors import CutError
from abn.retrofit.layouts import ChannelsFirst, ChannelsLast, Layout
from abn.retrofit.tracing import leads_with_batch, note_tokens, trace


@dataclass(frozen=True)
class FeatureMap:
    """A feature map that every path from the images to the logits goes through. The images count as one."""

    node: fx.Node
    name: str
    """Name of the submodule that returns it, or of a function in the forward, such as ``relu()``."""
    layout: Layout
    """How the backbone keeps it."""
    shape: Shape
    """(C, H, W) of the feature map."""
    layers: int
    """Number of layers that lead to it. Each weight that mixes channels or pixels counts as a layer."""
    beside: ValuesBeside
    """Other values that what follows needs."""

    @property
    def pixels(self) -> int:
        return self.shape[1] * self.shape[2]


@dataclass(frozen=True)
class Chain:
    """The graph of a backbone, and the feature maps at which it can be cut."""

    graph: fx.Graph
    maps: list[FeatureMap]
    """The images, then the feature maps."""
    layers: int
    """Number of layers of the whole network."""
    drop: int
    """Index of the map after which the resolution drops for the last time. Pooling at the end is left out."""
    default_split: int
    """Index of the map at which the last stage begins. 0 if there is no map but the images."""
    end: int
    """Index of the map at which the last stage ends. What follows is pooling."""


_Found = tuple[fx.Node, Layout, ValuesBeside]
"""A feature map: the node that returns it, its layout, and the other values that what follows needs."""


def chain_of(backbone: nn.Module, shape: Shape, other: Shape, split: str | None = None) -> Chain:
    """Traces the backbone, and opens containers until none hides the last stage or the requested split.

    If the backbone works on tokens, as a vision transformer does, its tokens count as feature maps.

    Args:
        backbone: Any network.
        shape: (C, H, W) of its images.
        other: Shape of images that are twice as high, or ``shape`` if the backbone does not take them.
        split: Name of a submodule after which the backbone is to be cut.

    Raises:
        CutError: If the backbone cannot be traced.
    """

    def of_maps(opened: set[str]) -> Chain:
        graph = trace(backbone, opened, shape, other)
        return _chain(backbone, graph, _feature_maps(graph, resized=other != shape))

    def of_tokens(opened: set[str]) -> Chain:
        graph = trace(backbone, opened, shape, other)
        note_tokens(graph, backbone, shape, other)
        chain = _chain(backbone, graph, _token_maps(graph, other != shape, alone=True))
        has_stage = chain.maps[chain.end].layers > chain.maps[chain.default_split].layers
        if not has_stage:  # several streams of tokens run side by side, so that no map is alone
            chain = _chain(backbone, graph, _token_maps(graph, other != shape, alone=False))
        return chain

    chain = _opened_chain(backbone, of_maps, split)
    return _opened_chain(backbone, of_tokens, split) if works_on_tokens(chain) else chain


def works_on_tokens(chain: Chain) -> bool:
    """Whether more than three quarters of the layers lie between two feature maps, and work on tokens."""
    nodes = list(chain.graph.nodes)
    places = [(nodes.index(feature_map.node), feature_map.layers) for feature_map in chain.maps]
    for (start, before), (end, behind) in pairwise([*places, (len(nodes), chain.layers)]):
        if behind - before > 0.75 * chain.layers:
            values = [value for node in nodes[start + 1 : end] for value in _tensors(node)]
            # Feature maps that some path goes around are no tokens.
            around = start > 0 and any(value.ndim == 4 and value.shape[2:].numel() > 1 for value in values)
            return not around and any(value.ndim == 3 and value.shape[1] > 1 for value in values)
    return False


def _tensors(node: fx.Node) -> list[Tensor]:
    """Returns the tensors in what the node returns whose first or second dimension is the batch."""
    values = tree_leaves(node.meta.get("val"))
    return [value for value in values if isinstance(value, Tensor) and BATCH in value.shape[:2]]


def _feature_maps(graph: fx.Graph, resized: bool) -> list[_Found]:
    """Returns the cut points that are feature maps of four dimensions."""
    maps: list[_Found] = []
    for node in cut_points(graph):
        value = node.meta["val"]
        if leads_with_batch(node) and value.ndim == 4 and value.is_floating_point():
            last = bool(maps) and _is_channels_last(node, maps[0][0], maps[-1][1], resized)
            maps.append((node, ChannelsLast() if last else ChannelsFirst(), ValuesBeside()))
    return maps


def _token_maps(graph: fx.Graph, resized: bool, alone: bool) -> list[_Found]:
    """Returns the cut points that are feature maps or tokens. Other values may go past them.

    With ``alone``, what goes past depends on the size of the images, but not on what they show.
    """
    before_tokens = {node: layout for node, layout, _ in _feature_maps(graph, resized)}
    maps = []
    for node in graph.nodes:
        layout = before_tokens.get(node, node.meta.get("tokens"))
        if layout is not None and leads_with_batch(node):
            beside = ValuesBeside() if node.op == "placeholder" else values_beside(graph, node, alone)
            if beside is not None:
                maps.append((node, layout, beside))
    return maps


def _chain(backbone: nn.Module, graph: fx.Graph, found: list[_Found]) -> Chain:
    called = [node.target for node in graph.nodes if node.op == "call_module"]
    layers = 0
    layers_at: dict[fx.Node, int] = {}
    for node in graph.nodes:
        layers += layers_of(node, backbone)
        layers_at[node] = layers

    maps: list[FeatureMap] = []
    for node, layout, beside in found:
        shape = layout.shape(node.meta["val"])
        if maps and shape[1] * shape[2] == 1:
            continue
        name = _name(node, called)
        if name in (feature_map.name for feature_map in maps):  # another value of the same submodule
            name = f"{name} as {node.name}"
        maps.append(FeatureMap(node, name, layout, shape, layers_at[node], beside))

    last = max((i for i, (a, b) in enumerate(pairwise(maps), 1) if a.layers < b.layers), default=0)
    drop = max((i for i in range(last) if maps[i].pixels > maps[i + 1].pixels), default=0)
    end = last
    while end + 1 < len(maps) and maps[end + 1].pixels == maps[last].pixels:
        end += 1
    return Chain(graph, maps, layers, drop, _default_split(maps, layers, drop, end), end)


def _name(node: fx.Node, called: list[object]) -> str:
    """Returns the name of the submodule that returns the node's value, or of a function in the forward."""
    source = node
    while source.target is operator.getitem and isinstance(source.args[1], int):
        (source,) = source.all_input_nodes  # one of several values that a submodule returns
    if source.op != "call_module" or (source is not node and isinstance(source.meta["val"], Tensor)):
        return f"{node.name}()"  # a function: the brackets tell it apart from a module with its name
    return str(source.target) if called.count(source.target) == 1 else f"{source.target} as {node.name}"


def _default_split(maps: list[FeatureMap], layers: int, drop: int, end: int) -> int:
    """Returns the index of the map at which the last stage begins.

    Usually that is where the resolution drops for the last time. In some networks, more than three quarters
    of the layers follow there: all blocks have one resolution, or each block reads the outputs of the two
    blocks before it, so that no map lies between blocks. In these networks, the last stage is the last
    quarter of the layers.
    """
    if drop > 0 and maps[end].layers - maps[drop].layers <= 0.75 * layers:
        return drop

    def distance(i: int) -> float:
        return abs(maps[end].layers - maps[i].layers - 0.25 * layers)

    return min(reversed(range(1, end + 1)), key=distance, default=0)


def _is_channels_last(node: fx.Node, images: fx.Node, before: Layout, resized: bool) -> bool:
    """Whether a 4-D tensor is (B, H, W, C) instead of (B, C, H, W)."""
    first, second, third = node.meta["val"].shape[1:]
    if resized:  # the other images are taller, so the dimension that differs is the height
        leading, trailing = (node.meta["other"].shape[i] != node.meta["val"].shape[i] for i in (1, 2))
    else:  # height and width have the image's proportions, up to one pixel: odd sizes are rounded
        height, width = images.meta["val"].shape[2:]
        leading, trailing = (
            abs(rows * width - columns * height) < max(height, width)
            for rows, columns in ((first, second), (second, third))
        )
    return isinstance(before, ChannelsLast) if leading == trailing else leading


def _opened_chain(backbone: nn.Module, chain_with: Callable[[set[str]], Chain], split: str | None) -> Chain:
    names = {name for name, _ in backbone.named_modules()}
    parents = [] if split is None else [split[:i] for i, character in enumerate(split) if character == "."]
    wanted = [name for name in parents if name in names]
    tried: list[str] = []
    opened: set[str] = set()
    chain = chain_with(opened)
    while candidates := [name for name in (*_hiding(chain, backbone), *wanted) if name not in tried]:
        tried.append(candidates[0])
        try:
            chain = chain_with({*opened, candidates[0]})
            opened.add(candidates[0])
        except CutError:
            pass  # a container that cannot be traced stays whole
    return chain


def layers_of(node: fx.Node, backbone: nn.Module) -> int:
    """Counts the weights of a node that mix channels or pixels."""
    if node.op == "call_module":
        weights = list(backbone.get_submodule(str(node.target)).parameters())
    else:
        values = (source.meta.get("val") for source in node.all_input_nodes if source.op == "get_attr")
        weights = [value for value in values if isinstance(value, nn.Parameter)]
    return sum(weight.ndim >= 2 for weight in weights)  # weights of norms have one dimension


def _hiding(chain: Chain, backbone: nn.Module) -> list[str]:
    """Returns the names of containers in which the last stage may begin, or which may hide feature maps."""
    maps, drop = chain.maps, chain.drop
    nodes = [node for node in chain.graph.nodes if layers_of(node, backbone)]
    order = {node: i for i, node in enumerate(chain.graph.nodes)}
    hiding = [node for node in nodes if order[node] > order[maps[-1].node] and _convolves(node, backbone)]
    if drop + 1 < len(maps):
        before, after = maps[drop], maps[drop + 1]
        between = [node for node in nodes if order[before.node] < order[node] <= order[after.node]]
        step = max(before.shape[1] / after.shape[1], before.shape[2] / after.shape[2])
        if len(between) == 1 and round(step) > 2:  # a single stage halves the resolution
            hiding += between
    if chain.default_split != drop:
        hiding += [node for node in nodes if layers_of(node, backbone) > 0.25 * chain.layers]
    names = [str(node.target) for node in hiding if node.op == "call_module"]
    return [name for name in names if any(True for _ in backbone.get_submodule(name).children())]


def _convolves(node: fx.Node, backbone: nn.Module) -> bool:
    """Whether the node calls a module with convolutions, larger than 1×1, on a feature map."""
    values = (source.meta.get("val") for source in node.all_input_nodes)
    if node.op != "call_module" or not any(isinstance(value, Tensor) and value.ndim == 4 for value in values):
        return False
    weights = backbone.get_submodule(str(node.target)).parameters()
    return any(weight.ndim == 4 and weight.shape[-2:].numel() > 1 for weight in weights)
