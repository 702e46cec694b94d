"""Runs a graph of ``torch.fx``, and cuts parts out of it."""

from typing import Any

from torch import fx


class Interpreter(fx.Interpreter):
    """Runs a graph node by node.

    A ``GraphModule`` would compile the graph to Python source, which PyTorch never frees.
    """

    def fetch_args_kwargs_from_env(self, n: fx.Node) -> tuple[Any, Any]:
        args, kwargs = super().fetch_args_kwargs_from_env(n)  # fx's lists cannot be changed, so copy them
        return tuple(list(arg) if isinstance(arg, list) else arg for arg in args), kwargs


def subgraph(graph: fx.Graph, start: fx.Node, end: fx.Node) -> fx.Graph:
    """Returns a new graph: the part of ``graph`` that computes ``end`` from ``start``."""
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
