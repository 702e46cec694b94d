"""Traces a forward into a shallow graph: each submodule is one node, and keeps running its own Python."""

import math
import operator
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any, cast

import torch
from torch import fx, nn
from torch.fx import _symbolic_trace

from abn.lock import PROCESS_LOCK
from abn.retrofit.dry_run import Shape, rehearse, training_mode
from abn.retrofit.errors import CutError, cannot_run
from abn.retrofit.graphs import Interpreter, subgraph


def trace_forward(
    backbone: nn.Module, opened: set[str], shape: Shape, lengths: dict[str, int | None], training: bool
) -> fx.Graph:
    """Traces the backbone's forward on images.

    Args:
        backbone: Any network.
        opened: Names of the submodules that are traced into.
        shape: (C, H, W) of the images.
        lengths: Number of values that a node stands for, by the node's name. None if it stands for a single
            value. An entry is added here whenever the forward asks for a length.
        training: Whether to trace the forward in training mode or in evaluation mode.

    Raises:
        CutError: If the forward cannot be traced.
    """

    def traced(context: AbstractContextManager[None]) -> fx.Graph:
        # Autocast is on in training and off in evaluation, so that one of the two traces shows a forward that
        # switches it on or off.
        autocast = torch.autocast("cpu", enabled=training)
        with context, training_mode(backbone, training), torch.enable_grad(), autocast:
            return _ShallowTracer(opened, lengths).trace(backbone)

    try:
        try:
            return traced(nullcontext())
        except _LengthUnknownError:
            raise
        except Exception:  # perhaps a function of math, or one marked by torch.fx.wrap, got a symbol
            return traced(_functions_recorded(backbone, opened))
    except _LengthUnknownError as request:
        lengths[request.node.name] = _length(backbone, request.node.graph, request.node, shape)
        return trace_forward(backbone, opened, shape, lengths, training)
    except Exception as error:  # the forward is the user's own code, and may fail in any way
        raise CutError(
            f"{type(backbone).__name__}.forward cannot be traced: {error}\n"
            "Move what stands in the way, such as a branch on a tensor's values or shape, into a submodule "
            "of its own, or build the network from three modules by hand:\n"
            "    branch = AttentionBranch(in_channels, num_classes, stage)\n"
            "    model = ABN(feature_extractor, branch, PerceptionBranch(tail))"
        ) from error


def _length(backbone: nn.Module, graph: fx.Graph, node: fx.Node, shape: Shape) -> int | None:
    """Returns the length of the tuple or list that the node stands for, or None for any other value."""
    so_far = subgraph(graph, next(iter(graph.nodes)), node)
    try:
        value = rehearse(backbone, shape, lambda copy, images: Interpreter(copy, graph=so_far).run(images))
    except Exception as error:  # the forward is the user's own code, and may fail in any way
        raise cannot_run(backbone, shape, error) from error
    return len(value) if isinstance(value, (tuple, list)) else None


class _LengthUnknownError(Exception):
    """The forward asks how many values a submodule returned, as `x.reshape(B, *size)` does."""

    def __init__(self, node: fx.Node) -> None:
        super().__init__(f"the length of {node} is not known")
        self.node = node


class _SizedProxy(fx.Proxy):
    def __len__(self) -> int:
        lengths = cast(_ShallowTracer, self.tracer).lengths
        if self.node.name not in lengths:
            raise _LengthUnknownError(self.node)
        length = lengths[self.node.name]
        return super().__len__() if length is None else length


class _ShallowTracer(fx.Tracer):
    proxy_buffer_attributes = True  # otherwise, an expression on a buffer would become a constant

    def __init__(self, opened: set[str], lengths: dict[str, int | None]) -> None:
        super().__init__()
        self.opened = opened
        self.lengths = lengths
        self.context = _context()

    def create_node(self, *args: Any, **kwargs: Any) -> fx.Node:
        if _context() != self.context:
            raise RuntimeError("a graph does not record torch.no_grad(), torch.autocast() or their kind")
        return super().create_node(*args, **kwargs)

    def trace(self, root: Any, concrete_args: dict[str, Any] | None = None) -> fx.Graph:
        """Returns the graph of the root's forward on images.

        Replaces :meth:`torch.fx.Tracer.trace`, which patches ``nn.Module`` while it traces, and so changes
        every network that another thread runs.
        """
        self.root = root
        self.graph = fx.Graph(tracer_cls=type(self))
        self.submodule_paths = {module: name for name, module in root.named_modules()}
        self.tensor_attrs = {  # tensors that are neither weights nor buffers
            value: f"{path}.{name}".lstrip(".")
            for module, path in self.submodule_paths.items()
            for name, value in vars(module).items()
            if isinstance(value, (torch.Tensor, torch.ScriptObject))
        }
        # Only the images are symbolic; every other argument takes its default. If all arguments were
        # symbols, `if mask is not None` would silently take the wrong path.
        images = self.create_proxy("placeholder", "images", (), {})
        with self._modules_recorded():
            output = type(root).forward(root, images)
            self.create_node("output", "output", (self.create_arg(output),), {})
        return self.graph

    @contextmanager
    def _modules_recorded(self) -> Iterator[None]:
        """While active, records each call of the root's submodules, and each reading of weights and buffers.

        Meanwhile the attribute in which PyTorch keeps a module's compiled call holds a call that is recorded,
        and the module's weights and buffers are symbols.
        """
        proxies: dict[str, fx.Proxy] = {}

        def read(name: str, value: Any) -> Any:
            return self.getattr(name, value, proxies)

        replaced = ("_compiled_call_impl", "_parameters", "_buffers")
        before = {
            module: {name: vars(module)[name] for name in replaced if name in vars(module)}
            for module in self.root.modules()
        }
        try:
            for module, attributes in before.items():
                vars(module)["_compiled_call_impl"] = partial(self._call, module)
                for name in replaced[1:]:
                    if name in attributes:  # TorchScript keeps weights elsewhere
                        vars(module)[name] = _Symbols(attributes[name], read)
            yield
        finally:
            for module, attributes in before.items():
                vars(module).pop("_compiled_call_impl")
                vars(module).update(attributes)

    def _call(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        name = self.path_of_module(module)
        if name in self.opened:
            return cast(Any, module)._call_impl(*args, **kwargs)
        return self.create_proxy("call_module", name, args, kwargs)

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _SizedProxy(node, self)

    def iter(self, obj: fx.Proxy) -> Iterator[Any]:
        parts = (self.create_proxy("call_function", operator.getitem, (obj, i), {}) for i in range(len(obj)))
        return iter(list(parts))


class _Symbols(dict[str, Any]):
    """Weights or buffers by name. Reading one returns a symbol in its place."""

    def __init__(self, values: dict[str, Any], read: Callable[[str, Any], Any]) -> None:
        super().__init__(values)
        self._read = read

    def __getitem__(self, name: str) -> Any:
        return self._read(name, super().__getitem__(name))


@contextmanager
def _functions_recorded(backbone: nn.Module, opened: set[str]) -> Iterator[None]:
    """While active, records calls of functions of ``math`` and of functions marked by ``torch.fx.wrap``.

    The functions are replaced in their modules, for all threads. A replacement does what the original
    function does if no argument is a symbol.
    """
    of_math = {id(value) for value in vars(math).values() if callable(value)}
    traced = [backbone, *map(backbone.get_submodule, opened)]
    with PROCESS_LOCK, _symbolic_trace._Patcher() as patcher:
        _symbolic_trace._patch_wrapped_functions(patcher)
        for names in (vars(math), *(type(module).forward.__globals__ for module in traced)):
            _symbolic_trace._autowrap_check(patcher, names, of_math)
        yield


def _context() -> tuple[bool, ...]:
    return torch.is_grad_enabled(), *(torch.is_autocast_enabled(device) for device in ("cpu", "cuda"))
