"""Finds the values that every path from the images to the logits goes through."""

import operator
from typing import NamedTuple

from torch import Tensor, fx
from torch.utils._pytree import tree_leaves

from abn.retrofit.dry_run import BATCH, OTHER_BATCH
from abn.retrofit.graphs import depending_on_images
from abn.retrofit.tracing import leads_with_batch


def cut_points(graph: fx.Graph) -> list[fx.Node]:
    """Returns the nodes that every path from the images to the logits goes through."""
    order = {node: position for position, node in enumerate(depending_on_images(graph))}
    points, reach = [], 0
    for node, position in order.items():
        if reach <= position:  # no edge jumps over this node
            points.append(node)
        reach = max(reach, *(order[user] for user in node.users), 0)
    return points


class ValuesBeside(NamedTuple):
    """Values that go past a feature map."""

    per_image: tuple[fx.Node, ...] = ()
    """Tensors with something for each image."""
    shared: tuple[fx.Node, ...] = ()
    """What is equal for all images, such as position embeddings and sizes."""


def values_beside(graph: fx.Graph, node: fx.Node, alone: bool) -> ValuesBeside | None:
    """Returns the other values that what follows a node needs, besides weights and constants.

    Args:
        graph: The graph of a backbone.
        node: A node on a path from the images to the logits.
        alone: Whether the node has to be alone: the other values may depend on the size of the images, as
            position embeddings do, but not on what the images show.

    Returns:
        The other values. None if nothing that follows needs the node, if the images themselves go past it, or
        if it is not alone though it has to be.
    """
    of_images = depending_on_images(graph)
    known = set(of_images[: of_images.index(node) + 1])
    unknown = set(of_images) - known
    for later in of_images:  # reading a value that is known, or its size, is no work
        sources = later.all_input_nodes
        reads_one = later.target is operator.getitem and isinstance(sources[0].meta["val"], (tuple, list))
        if later in unknown and unknown.isdisjoint(sources) and (reads_one or not _has_tensor(later)):
            unknown.remove(later)
            known.add(later)
    needed = [source for source in of_images if source in known and not known.issuperset(source.users)]
    if node not in needed:
        return None
    shown = _of_what_images_show(graph)
    per_image: list[fx.Node] = []
    shared: list[fx.Node] = []
    for other in needed:
        if other is node:
            continue
        if other.op == "placeholder" or (alone and other in shown):
            return None
        value, twin = other.meta["val"], other.meta["other"]
        if isinstance(value, Tensor) and (other in shown or leads_with_batch(other)):
            if len(value) * OTHER_BATCH != len(twin) * BATCH:  # not so many for each image
                return None
            per_image.append(other)
        elif other in shown or _is_batch_size(value, twin) or _holds_tensors(other):
            return None  # a value read off the images, the size of the batch, or several tensors
        else:
            shared.append(other)
    return ValuesBeside(tuple(per_image), tuple(shared))


def _of_what_images_show(graph: fx.Graph) -> set[fx.Node]:
    """Returns the nodes that depend on the values of the images, not on their size alone."""
    found: set[fx.Node] = set()
    for node in graph.nodes:
        depends = node.op == "placeholder" or any(source in found for source in node.all_input_nodes)
        if depends and (_has_tensor(node) or node.target in ("item", "tolist")):
            found.add(node)
    return found


def _has_tensor(node: fx.Node) -> bool:
    return any(isinstance(leaf, Tensor) for leaf in tree_leaves(node.meta.get("val")))


def _holds_tensors(node: fx.Node) -> bool:
    return _has_tensor(node) and not isinstance(node.meta["val"], Tensor)


def _is_batch_size(value: object, twin: object) -> bool:
    return isinstance(value, int) and (value, twin) == (BATCH, OTHER_BATCH)
