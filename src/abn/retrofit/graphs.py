"""Runs a graph of ``torch.fx``, and cuts parts out of it."""

from collections.abc import Sequence
from typing import Any

from torch import fx


class Interpreter(fx.Interpreter):
    """Runs a graph node by node.

    A ``GraphModule`` would compile the graph to Python source, which PyTorch never frees.
    """

    def fetch_args_kwargs_from_env(self, n: fx.Node) -> tuple[Any, Any]:
        args, kwargs = super().fetch_args_kwargs_from_env(n)  # fx's lists cannot be changed, so copy them
        return tuple(list(arg) if isinstance(arg, list) else arg for arg in args), kwargs


def depending_on_images(graph: fx.Graph) -> list[fx.Node]:
    """Returns the nodes that depend on the images, in their order. Weights and constants do not."""
    found: dict[fx.Node, None] = {}
    for node in graph.nodes:
        if node.op == "placeholder" or any(source in found for source in node.all_input_nodes):
            found[node] = None
    return list(found)


def subgraph(graph: fx.Graph, starts: Sequence[fx.Node], ends: Sequence[fx.Node]) -> fx.Graph:
    """Returns a new graph: the part of ``graph`` that computes ``ends`` from ``starts``.

    It has one placeholder for each start, and returns a tuple if there are several ends.
    """
    needed = {*starts, *ends}
    for node in reversed(graph.nodes):
        if node in needed and node not in starts:
            needed.update(node.all_input_nodes)
    part = fx.Graph()
    copies = {start: part.placeholder(start.name) for start in starts}
    for start, copied in copies.items():
        copied.meta = dict(start.meta)
    for node in graph.nodes:
        if node in needed and node not in starts:
            copies[node] = part.node_copy(node, lambda old: copies[old])
    returned = tuple(copies[end] for end in ends)
    part.output(returned if len(returned) > 1 else returned[0])
    return part
