"""Finds where a backbone can be cut, and where its last stage begins: the default split."""

from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor, fx, nn

from abn.retrofit.dry_run import Shape
from abn.retrofit.errors import CutError
from abn.retrofit.tracing import leads_with_batch, trace


@dataclass(frozen=True)
class Split:
    """A place where a backbone can be cut."""

    name: str
    """Name of the submodule after which to cut, or of a function in the forward, such as ``relu()``."""
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
    """Height and width of the images. The sizes of the features are for these images."""
    classifier: str
    """The layers of the backbone's classifier, if an attention branch can start from it. Otherwise empty."""

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
class FeatureMap:
    """A feature map that every path from the images to the logits goes through. The images count as one."""

    node: fx.Node
    name: str
    """Name of the submodule that returns it, or of a function in the forward, such as ``relu()``."""
    channels_last: bool
    """Whether it is (B, H, W, C) instead of (B, C, H, W)."""
    shape: Shape
    """(C, H, W) of the feature map."""
    layers: int
    """Number of layers that lead to it. Each weight that mixes channels or pixels counts as a layer."""

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


def chain_of(backbone: nn.Module, shape: Shape, other: Shape, split: str | None = None) -> Chain:
    """Traces the backbone, and opens containers until none hides the last stage or the requested split.

    Args:
        backbone: Any network.
        shape: (C, H, W) of its images.
        other: Shape of images that are twice as high, or ``shape`` if the backbone does not take them.
        split: Name of a submodule after which the backbone is to be cut.

    Raises:
        CutError: If the backbone cannot be traced.
    """
    names = {name for name, _ in backbone.named_modules()}
    parents = [] if split is None else [split[:i] for i, character in enumerate(split) if character == "."]
    wanted = [name for name in parents if name in names]
    tried: list[str] = []
    opened: set[str] = set()
    resized = other != shape
    chain = _chain(backbone, trace(backbone, opened, shape, other), resized)
    while candidates := [name for name in (*_hiding(chain, backbone), *wanted) if name not in tried]:
        tried.append(candidates[0])
        try:
            chain = _chain(backbone, trace(backbone, {*opened, candidates[0]}, shape, other), resized)
            opened.add(candidates[0])
        except CutError:
            pass  # a container that cannot be traced stays whole
    return chain


def _chain(backbone: nn.Module, graph: fx.Graph, resized: bool) -> Chain:
    called = [node.target for node in graph.nodes if node.op == "call_module"]
    layers = 0
    layers_at: dict[fx.Node, int] = {}
    for node in graph.nodes:
        layers += _layers(node, backbone)
        layers_at[node] = layers

    maps: list[FeatureMap] = []
    for node in _cut_points(graph):
        if not leads_with_batch(node):
            continue
        value = node.meta["val"]
        if value.ndim != 4 or not value.is_floating_point():
            continue
        channels_last = bool(maps) and _is_channels_last(node, maps, resized)
        _, *sizes = value.shape
        channels, height, width = (sizes[2], *sizes[:2]) if channels_last else sizes
        if maps and height * width == 1:
            continue
        name = f"{node.name}()"  # a function: the brackets tell it apart from a module with its name
        if node.op == "call_module":
            name = str(node.target) if called.count(node.target) == 1 else f"{node.target} as {node.name}"
        maps.append(FeatureMap(node, name, channels_last, (channels, height, width), layers_at[node]))

    last = max((i for i, (a, b) in enumerate(pairwise(maps), 1) if a.layers < b.layers), default=0)
    drop = max((i for i in range(last) if maps[i].pixels > maps[i + 1].pixels), default=0)
    end = last
    while end + 1 < len(maps) and maps[end + 1].pixels == maps[last].pixels:
        end += 1
    return Chain(graph, maps, layers, drop, _default_split(maps, layers, drop, end), end)


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


def _is_channels_last(node: fx.Node, before: list[FeatureMap], resized: bool) -> bool:
    """Whether a 4-D tensor is (B, H, W, C) instead of (B, C, H, W)."""
    first, second, third = node.meta["val"].shape[1:]
    if resized:  # the other images are taller, so the dimension that differs is the height
        leading, trailing = (node.meta["other"].shape[i] != node.meta["val"].shape[i] for i in (1, 2))
    else:  # height and width have the image's proportions, up to one pixel: odd sizes are rounded
        _, height, width = before[0].shape
        leading, trailing = (
            abs(rows * width - columns * height) < max(height, width)
            for rows, columns in ((first, second), (second, third))
        )
    return before[-1].channels_last if leading == trailing else leading


def _cut_points(graph: fx.Graph) -> list[fx.Node]:
    """Returns the nodes that every path from the images to the logits goes through."""
    order: dict[fx.Node, int] = {}
    for node in graph.nodes:  # weights and constants lie on no path from the images
        if node.op == "placeholder" or any(source in order for source in node.all_input_nodes):
            order[node] = len(order)
    points, reach = [], 0
    for node, position in order.items():
        if reach <= position:  # no edge jumps over this node
            points.append(node)
        reach = max(reach, *(order[user] for user in node.users), 0)
    return points


def _layers(node: fx.Node, backbone: nn.Module) -> int:
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
    nodes = [node for node in chain.graph.nodes if _layers(node, backbone)]
    order = {node: i for i, node in enumerate(chain.graph.nodes)}
    hiding = [node for node in nodes if order[node] > order[maps[-1].node] and _convolves(node, backbone)]
    if drop + 1 < len(maps):
        before, after = maps[drop], maps[drop + 1]
        between = [node for node in nodes if order[before.node] < order[node] <= order[after.node]]
        step = max(before.shape[1] / after.shape[1], before.shape[2] / after.shape[2])
        if len(between) == 1 and round(step) > 2:  # a single stage halves the resolution
            hiding += between
    if chain.default_split != drop:
        hiding += [node for node in nodes if _layers(node, backbone) > 0.25 * chain.layers]
    names = [str(node.target) for node in hiding if node.op == "call_module"]
    return [name for name in names if any(True for _ in backbone.get_submodule(name).children())]


def _convolves(node: fx.Node, backbone: nn.Module) -> bool:
    """Whether the node calls a module with convolutions, larger than 1×1, on a feature map."""
    values = (source.meta.get("val") for source in node.all_input_nodes)
    if node.op != "call_module" or not any(isinstance(value, Tensor) and value.ndim == 4 for value in values):
        return False
    weights = backbone.get_submodule(str(node.target)).parameters()
    return any(weight.ndim == 4 and weight.shape[-2:].numel() > 1 for weight in weights)
