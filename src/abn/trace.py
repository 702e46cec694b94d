"""Tracing a backbone: from its forward to a shallow graph that can be cut."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from abn.dry_run import Shape, rehearse, training_mode
from abn.operations import OperationLog

TRAINING_FLAG = "training_flag"


class CutError(ValueError):
    """The backbone cannot be cut; the message says what was seen and what to do."""


class TrainingFlag(nn.Module):
    """Returns whether it is in training mode: stands in for ``self.training`` in a traced forward."""

    def forward(self) -> bool:
        return self.training


@dataclass(frozen=True)
class Trace:
    """What the backbone's forward does."""

    graph: fx.Graph
    """Each node holds what it returned when rehearsed in ``meta["val"]``."""
    operations: list[str]
    """The tensor operations that running the graph comes to."""


def trace(backbone: nn.Module, opened: set[str], shape: Shape) -> Trace:
    """Traces the backbone's forward.

    Every submodule is one node, which keeps running its own Python, but for those named in ``opened``.
    What cannot lead to the logits is left out: auxiliary heads, above all. The backbone gets a submodule
    ``training_flag`` if its forward reads ``self.training``.

    Raises:
        CutError: If the forward cannot be traced or run, does not return one tensor, or takes another
            path in training than in evaluation.
    """
    graph = _to_logits(_trace(backbone, opened, training=False), backbone, training=False)
    training_graph = _to_logits(_trace(backbone, opened, training=True), backbone, training=True)
    _follow_training_mode(graph, training_graph, backbone)

    def run(copy: nn.Module, images: Tensor) -> list[str]:
        log = OperationLog(copy, images)
        with log:
            _ValueRecorder(fx.GraphModule(copy, graph)).run(images)
        return log.names

    try:
        operations = rehearse(backbone, shape, run)
    except Exception as error:  # as in _trace
        raise cannot_run(backbone, shape, error) from error
    return Trace(graph, operations)


def operations_of_forward(backbone: nn.Module, shape: Shape) -> list[str]:
    """The tensor operations of the backbone's own forward, to hold against those of its trace."""

    def run(copy: nn.Module, images: Tensor) -> list[str]:
        log = OperationLog(copy, images)
        with log:
            copy(images)
        return log.names

    return rehearse(backbone, shape, run)


def cannot_run(backbone: nn.Module, shape: Shape, error: Exception) -> CutError:
    """The error for images that the backbone does not take."""
    return CutError(
        f"{type(backbone).__name__} does not run on images {('B', *shape)}: {str(error).splitlines()[0]}\n"
        "Give input_size=, one number of pixels or (C, H, W), as it expects"
    )


def subgraph(graph: fx.Graph, start: fx.Node, end: fx.Node) -> fx.Graph:
    """The part of the graph that computes ``end`` from ``start``."""
    needed = {start, end}
    for node in reversed(graph.nodes):
        if node in needed and node is not start:
            needed.update(node.all_input_nodes)
    part = fx.Graph()
    copies = {start: part.placeholder(start.name)}
    copies[start].meta = dict(start.meta)
    for node in graph.nodes:
        if node in needed and node is not start:
            copies[node] = part.node_copy(node, lambda old: copies[old])
    part.output(copies[end])
    return part


def part_of(backbone: nn.Module, graph: fx.Graph, start: fx.Node, end: fx.Node, name: str) -> fx.GraphModule:
    """A module that computes ``end`` from ``start`` with the backbone's submodules, under their own names."""
    part = fx.GraphModule(backbone, subgraph(graph, start, end), class_name=name)
    if hasattr(part, TRAINING_FLAG):  # one per part, or freezing one part would switch the dropout of another
        setattr(part, TRAINING_FLAG, TrainingFlag().train(backbone.training))
    for module in part.modules():
        if type(module) is nn.Module:  # stands in for a container whose forward is now in the graph
            module.training = backbone.training
    return part


class _ValueRecorder(fx.Interpreter):
    def run_node(self, n: fx.Node) -> Any:
        n.meta["val"] = super().run_node(n)
        return n.meta["val"]


class _ShallowTracer(fx.Tracer):
    proxy_buffer_attributes = True  # or an expression on a buffer would become a constant

    def __init__(self, opened: set[str]) -> None:
        super().__init__()
        self.opened = opened
        self.context = _context()

    def create_node(self, *args: Any, **kwargs: Any) -> fx.Node:
        if _context() != self.context:
            raise RuntimeError("a graph does not record torch.no_grad(), torch.autocast() or their kind")
        return super().create_node(*args, **kwargs)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return module_qualified_name not in self.opened

    def create_args_for_root(
        self, root_fn: Callable[..., Any], is_module: bool, concrete_args: Any = None
    ) -> tuple[Callable[..., Any], list[Any]]:
        # Only the images are symbolic; every other argument takes its default. With symbols for all of
        # them, `if mask is not None` would take the wrong path without a word.
        return root_fn, [self.root, self.create_proxy("placeholder", "images", (), {})]


def _context() -> tuple[bool, ...]:
    return torch.is_grad_enabled(), *(torch.is_autocast_enabled(device) for device in ("cpu", "cuda"))


def _trace(backbone: nn.Module, opened: set[str], training: bool) -> fx.Graph:
    try:
        with training_mode(backbone, training):
            return _ShallowTracer(opened).trace(backbone)
    except Exception as error:  # the forward is the user's own code, and may fail in any way
        raise CutError(
            f"{type(backbone).__name__}.forward cannot be traced: {error}\n"
            "Move what stands in the way, such as a branch on a tensor's values or shape, into a submodule "
            "of its own, or build the network from three modules by hand:\n"
            "    branch = AttentionBranch(in_channels, num_classes, stage)\n"
            "    model = ABN(feature_extractor, branch, PerceptionBranch(tail))"
        ) from error


def _to_logits(graph: fx.Graph, backbone: nn.Module, training: bool) -> fx.Graph:
    """The part of the graph that leads to the logits."""
    (logits,) = graph.output_node().args
    if isinstance(logits, fx.Node) and isinstance(logits.target, type) and issubclass(logits.target, tuple):
        logits = logits.args  # a named tuple, made in the forward
    if training and isinstance(logits, tuple) and logits:
        logits = logits[0]  # GoogLeNet and Inception return those of their auxiliary heads behind it
    if not isinstance(logits, fx.Node):
        raise CutError(
            f"{type(backbone).__name__}.forward returns a {type(logits).__name__}, expected one tensor of "
            "logits: hand over a module that returns the logits alone"
        )
    (images,) = graph.find_nodes(op="placeholder")
    return subgraph(graph, images, logits)


def _follow_training_mode(graph: fx.Graph, training_graph: fx.Graph, backbone: nn.Module) -> None:
    """Makes a flag that is false in evaluation and true in training follow the module's mode at run time.

    Tracing evaluates ``F.dropout(x, training=self.training)`` once and would freeze it.
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
