"""Lets the parts of a backbone hand features on, whatever values the backbone has at that place."""

import operator
from functools import partial
from itertools import compress

from torch import Tensor, fx

from abn.modules.features import Features
from abn.retrofit.chain import FeatureMap
from abn.retrofit.cut_points import ValuesBeside
from abn.retrofit.dry_run import BATCH, Example, overwrites_input
from abn.retrofit.errors import CutError
from abn.retrofit.layouts import Tokens, other_tokens


def unpack(part: fx.GraphModule, start: FeatureMap) -> fx.Node:
    """Lets a part take features instead of the values that the backbone has there. Returns their map."""
    graph = part.graph
    others = 1 if start.layout.other_count else 0  # tensors in which the other tokens are
    value, *beside = received = graph.find_nodes(op="placeholder")
    if others or beside:
        with graph.inserting_before(value):
            features = graph.placeholder("features")
            feature_map, *sources = (graph.call_function(operator.getitem, (features, i)) for i in range(3))
            counts = others + len(start.beside.per_image), len(start.beside.shared)
            values = [
                graph.call_function(operator.getitem, (source, i))
                for source, count in zip(sources, counts, strict=True)
                for i in range(count)
            ]
            packed = start.layout.from_map(part, feature_map, values[:others])
        for node, replacement in zip(received, [packed, *values[others:]], strict=True):
            node.replace_all_uses_with(replacement)
            graph.erase_node(node)
        return feature_map
    with graph.inserting_after(value):
        packed = start.layout.from_map(part, value, [])
    if packed is not value:
        value.replace_all_uses_with(packed, delete_user_cb=lambda user: user is not packed)
    assert isinstance(value, fx.Node)
    return value


def pack(part: fx.GraphModule, end: FeatureMap, like: fx.Node, size: tuple[int, int], whole: bool) -> None:
    """Lets a part return features, or their map alone, instead of the values that the backbone has there."""
    output = part.graph.output_node()
    value, *beside = output.all_input_nodes
    with part.graph.inserting_before(output):
        result = end.layout.to_map(part, value, like, size)
        count = len(end.beside.per_image)
        per_image, shared = beside[:count], beside[count:]
        if whole and isinstance(end.layout, Tokens) and end.layout.other_count:
            per_image = [other_tokens(part, end.layout, value), *per_image]
        if per_image or shared:
            result = part.graph.call_function(Features, (result, tuple(per_image), tuple(shared)))
    output.args = (result,)


def example_of(feature_map: FeatureMap) -> Example:
    """Returns an example of the features at a feature map."""
    count = feature_map.layout.other_count
    if not count and feature_map.beside == ValuesBeside():
        return feature_map.shape
    value = feature_map.node.meta["val"]
    others = [value.new_empty(BATCH, count, value.shape[2], device="meta")] if count else []
    return Features(
        value.new_empty(BATCH, *feature_map.shape, device="meta"),
        (*others, *(node.meta["val"] for node in feature_map.beside.per_image)),
        tuple(node.meta["val"] for node in feature_map.beside.shared),
    )


def keep_input(part: fx.GraphModule, example: Example) -> None:
    """Makes a part copy its input first, if the part would overwrite it, as an activation in place does.

    Raises:
        CutError: If the part does not run on its own.
    """
    try:
        overwrites = overwrites_input(part, example)
    except Exception as error:  # the part runs the user's own code, and may fail in any way
        raise CutError(
            f"what follows the split does not run on its own, so it cannot serve as a stage: {error}\n"
            "Does it read what the part before it has stored? Give stage='none', a stage of your own, or "
            "another split="
        ) from error
    if overwrites:
        (received,) = part.graph.find_nodes(op="placeholder")
        for value in _tensors_of(received, example):
            with part.graph.inserting_after(value):
                clone = part.graph.call_method("clone", (value,))
            value.replace_all_uses_with(clone, delete_user_cb=partial(operator.is_not, clone))
        part.recompile()


def _tensors_of(received: fx.Node, example: Example) -> list[fx.Node]:
    """Returns the nodes of the tensors in the features that a part receives."""
    if not isinstance(example, Features):
        return [received]
    feature_map, per_image, shared = received.users  # in the order of the fields
    shared_tensors = compress(shared.users, (isinstance(value, Tensor) for value in example.shared))
    return [feature_map, *per_image.users, *shared_tensors]
