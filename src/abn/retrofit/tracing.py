"""Traces a backbone's forward into a shallow graph that can be cut."""

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn

from abn.retrofit.dry_run import BATCH, OTHER_BATCH, Shape, rehearse
from abn.retrofit.errors import CutError, cannot_run, not_logits
from abn.retrofit.graphs import Interpreter, subgraph
from abn.retrofit.origins import Origins
from abn.retrofit.shallow_tracer import Learned, trace_forward

TRAINING_FLAG = "abn_training_flag"


class TrainingFlag(nn.Module):
    """Returns whether it is in training mode. Stands in for ``self.training`` in a traced forward."""

    def forward(self) -> bool:
        return self.training


def trace(backbone: nn.Module, opened: set[str], shape: Shape, other: Shape) -> fx.Graph:
    """Traces the backbone's forward.

    Every submodule is one node, which keeps running its own Python, unless ``opened`` names the submodule.
    What does not lead to the logits is left out, such as auxiliary heads. If the forward reads
    ``self.training``, the backbone gets a :class:`TrainingFlag` as a new submodule.

    Args:
        backbone: Any network.
        opened: Names of the submodules that are traced into.
        shape: (C, H, W) of the images.
        other: (C, H, W) of other images.

    Returns:
        The graph. Each node holds what it returned when rehearsed: ``meta["val"]`` for images of ``shape``,
        ``meta["other"]`` for another number of images, of shape ``other``.

    Raises:
        CutError: If the forward cannot be traced or run, does not return one tensor, or takes another
            path in training than in evaluation.
    """
    learned = Learned()
    graph, training_graph = (
        _to_logits(trace_forward(backbone, opened, shape, learned, training), backbone, training)
        for training in (False, True)
    )
    _follow_training_mode(graph, training_graph, backbone)
    _note_values(graph, backbone, "val", shape, BATCH)
    _note_values(graph, backbone, "other", other, OTHER_BATCH)
    _read_batch_size_nearby(graph)
    return graph


def _note_values(graph: fx.Graph, backbone: nn.Module, key: str, shape: Shape, batch_size: int) -> None:
    """Stores in each node's ``meta[key]`` what the node returns for images of this shape (C, H, W)."""
    try:
        rehearse(backbone, shape, lambda copy, batch: _Recorder(copy, graph, key).run(batch), batch_size)
    except Exception as error:  # the forward is the user's own code, and may fail in any way
        raise cannot_run(backbone, shape, error) from error


def note_tokens(graph: fx.Graph, backbone: nn.Module, shape: Shape, other: Shape) -> None:
    """Stores in ``meta["tokens"]`` of each node that returns tokens how they make a map, or None.

    Args:
        graph: The graph of a backbone.
        backbone: The backbone.
        shape: (C, H, W) of its images.
        other: Shape of images that are twice as high, or ``shape`` if the backbone does not take them.
    """

    def note(key: str, shape: Shape) -> None:
        def run(copy: nn.Module, images: Tensor) -> None:
            with Origins(images) as origins:
                _Recorder(copy, graph, key, origins.tokens_in).run(images)

        rehearse(backbone, shape, run, batch_size=1)

    note("tokens", shape)
    if other == shape:
        return
    channels, height, width = shape
    sizes = {"tokens of taller": (2 * height, width), "tokens of wider": (height, 2 * width)}
    try:
        for key, size in sizes.items():
            note(key, (channels, *size))
    except Exception:  # the backbone takes no such images
        return
    for node in graph.nodes:
        if (tokens := node.meta["tokens"]) is not None:
            others = [(node.meta[key], size) for key, size in sizes.items()]
            node.meta["tokens"] = tokens.with_other_sizes((height, width), others)


class _Recorder(Interpreter):
    """Runs a graph, and stores in each node's ``meta[key]`` what the node returns, or a note on it."""

    def __init__(
        self, module: nn.Module, graph: fx.Graph, key: str, note: Callable[[Any], Any] | None = None
    ) -> None:
        super().__init__(module, graph=graph)
        self.key = key
        self.note = note

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        n.meta[self.key] = value if self.note is None else self.note(value)
        return value


def _to_logits(graph: fx.Graph, backbone: nn.Module, training: bool) -> fx.Graph:
    """Returns the part of the graph that leads to the logits."""
    (logits,) = graph.output_node().args
    if isinstance(logits, fx.Node) and isinstance(logits.target, type) and issubclass(logits.target, tuple):
        logits = logits.args  # a named tuple, made in the forward
    if training and isinstance(logits, tuple) and logits:
        logits = logits[0]  # GoogLeNet and Inception also return logits of auxiliary heads
    if not isinstance(logits, fx.Node):
        raise not_logits(backbone, logits)
    (images,) = graph.find_nodes(op="placeholder")
    return subgraph(graph, [images], [logits])


def _follow_training_mode(graph: fx.Graph, training_graph: fx.Graph, backbone: nn.Module) -> None:
    """Makes each argument that is False in evaluation and True in training follow the mode at run time.

    Tracing reads ``self.training`` once, as in ``F.dropout(x, training=self.training)``, and would otherwise
    keep its value for good.
    """
    another_path = CutError(
        f"{type(backbone).__name__}.forward takes another path in training than in evaluation: move the "
        "part that reads self.training into a submodule of its own"
    )

    def merge(evaluating: Any, training: Any) -> Any:
        if evaluating is False and training is True:
            return flag
        if isinstance(evaluating, (tuple, list)) and isinstance(training, (tuple, list)):
            if len(evaluating) == len(training):
                return type(evaluating)(map(merge, evaluating, training))
        elif isinstance(evaluating, dict) and isinstance(training, dict):
            if evaluating.keys() == training.keys():
                return {key: merge(evaluating[key], training[key]) for key in evaluating}
        elif evaluating == training:
            return evaluating
        raise another_path

    def same(node: fx.Node, twin: fx.Node) -> bool:
        if node.op == twin.op == "get_attr":  # a constant of the forward has another name in each trace
            constants: list[Any] = [getattr(backbone, str(n.target), n.target) for n in (node, twin)]
            if constants[0] is constants[1]:
                return True
            if all(isinstance(constant, Tensor) for constant in constants):
                return torch.equal(*constants)
            return bool(constants[0] == constants[1])
        return (node.op, node.target) == (twin.op, twin.target)

    nodes, twins = list(graph.nodes), list(training_graph.nodes)
    if len(nodes) != len(twins) or not all(map(same, nodes, twins)):
        raise another_path
    with graph.inserting_after(nodes[0]):
        flag = graph.call_module(TRAINING_FLAG)
    counterpart = dict(zip(twins, nodes, strict=True))
    for node, twin in zip(nodes, twins, strict=True):
        args, kwargs = fx.node.map_arg((twin.args, twin.kwargs), counterpart.__getitem__)
        node.args, node.kwargs = merge(node.args, args), merge(node.kwargs, kwargs)
    if flag.users:
        backbone.add_module(TRAINING_FLAG, TrainingFlag())
    else:
        graph.erase_node(flag)


def _read_batch_size_nearby(graph: fx.Graph) -> None:
    """Lets each node that needs the batch size read it off another input of the node.

    If a late node read ``images.shape[0]``, an edge from the images to this node would go around every
    feature map in between.
    """
    for node in list(graph.nodes):
        if not _is_batch_size(node):
            continue
        for user in list(node.users):
            near = next((node for node in user.all_input_nodes if leads_with_batch(node)), None)
            if near is not None:
                with graph.inserting_before(user):
                    size = graph.call_method("size", (near, 0))
                size.meta |= {"val": BATCH, "other": OTHER_BATCH}
                user.replace_input_with(node, size)
        for unused in (node, *node.all_input_nodes):  # also the shape that the size is from
            if not unused.users and unused.op != "placeholder":
                graph.erase_node(unused)


def _is_batch_size(node: fx.Node) -> bool:
    source, *index = node.args or (None,)
    if index != [0] or not isinstance(source, fx.Node):
        return False
    of_shape = node.target is operator.getitem and isinstance(source.meta.get("val"), torch.Size)
    sizes = node.meta["val"], node.meta["other"]
    return (of_shape or node.target == "size") and sizes == (BATCH, OTHER_BATCH)


def leads_with_batch(node: fx.Node) -> bool:
    """Whether the node returns a tensor whose first dimension is the batch."""
    value, other = node.meta.get("val"), node.meta.get("other")
    if not isinstance(value, Tensor) or not isinstance(other, Tensor):
        return False
    return value.shape[:1] == (BATCH,) and other.shape[:1] == (OTHER_BATCH,)
