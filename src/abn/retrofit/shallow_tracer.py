"""Traces a forward into a shallow graph: each submodule is one node, and keeps running its own Python."""

import inspect
import math
import operator
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import Any, cast

import torch
from torch import Tensor, fx, nn
from torch.fx import _symbolic_trace

from abn.lock import PROCESS_LOCK
from abn.retrofit.dry_run import Shape, rehearse, training_mode
from abn.retrofit.errors import CutError, cannot_run
from abn.retrofit.graphs import Interpreter, depending_on_images, subgraph


@dataclass
class Learned:
    """What failed attempts to trace a forward have shown. The next attempt needs it."""

    lengths: dict[str, int | None] = field(default_factory=dict)
    """Number of values that a node stands for, by the node's name. None if it stands for a single value."""
    conditions: dict[tuple[bool, str], bool] = field(default_factory=dict)
    """Conditions on the shape of weights, by the mode (whether training) and the node's name."""
    branching: dict[int, Callable[..., Any]] = field(default_factory=dict)
    """Functions that branch on the size of the images, by id. Each of their calls becomes one node."""


def trace_forward(
    backbone: nn.Module, opened: set[str], shape: Shape, learned: Learned, training: bool
) -> fx.Graph:
    """Traces the backbone's forward on images.

    Args:
        backbone: Any network.
        opened: Names of the submodules that are traced into.
        shape: (C, H, W) of the images.
        learned: What earlier attempts have shown. More is added here.
        training: Whether to trace the forward in training mode or in evaluation mode.

    Raises:
        CutError: If the forward cannot be traced.
    """

    def traced(context: AbstractContextManager[None]) -> fx.Graph:
        # Autocast is on in training and off in evaluation, so that one of the two traces shows a forward that
        # switches it on or off.
        autocast = torch.autocast("cpu", enabled=training)
        with context, training_mode(backbone, training), torch.enable_grad(), autocast:
            return _ShallowTracer(opened, learned).trace(backbone)

    try:
        try:
            return traced(nullcontext())
        except _UnknownError:
            raise
        except Exception:  # perhaps a function of math, or one that is not to be traced, got a symbol
            return traced(_functions_recorded(backbone, opened, learned))
    except _UnknownError as request:
        value, read = _value_of(backbone, request.node, shape)
        if request.of_length:
            known = len(value) if isinstance(value, (tuple, list)) else None
            learned.lengths[request.node.name] = known
        elif read or isinstance(value, Tensor):  # training may change it
            raise _cannot_trace(backbone, "a weight's value serves as a condition") from request
        else:
            learned.conditions[training, request.node.name] = bool(value)
        return trace_forward(backbone, opened, shape, learned, training)
    except Exception as error:  # the forward is the user's own code, and may fail in any way
        function = _branching_function(error)
        if function is not None and id(function) not in learned.branching:
            learned.branching[id(function)] = function
            return trace_forward(backbone, opened, shape, learned, training)
        raise _cannot_trace(backbone, error) from error


def _cannot_trace(backbone: nn.Module, reason: object) -> CutError:
    return CutError(
        f"{type(backbone).__name__}.forward cannot be traced: {reason}\n"
        "Move what stands in the way, such as a branch on a tensor's values or shape, into a submodule "
        "of its own, or build the network from three modules by hand:\n"
        "    branch = AttentionBranch(in_channels, num_classes, stage)\n"
        "    model = ABN(feature_extractor, branch, PerceptionBranch(tail))"
    )


def _value_of(backbone: nn.Module, node: fx.Node, shape: Shape) -> tuple[Any, bool]:
    """Returns what a node returns when the part of the graph that leads to it is rehearsed.

    Also returns whether it was read off a tensor's values.
    """
    so_far = subgraph(node.graph, [next(iter(node.graph.nodes))], [node])
    try:
        value = rehearse(backbone, shape, lambda copy, images: Interpreter(copy, graph=so_far).run(images))
    except Exception as error:  # the forward is the user's own code, and may fail in any way
        raise cannot_run(backbone, shape, error) from error
    return value, any(node.target in ("item", "tolist") for node in so_far.nodes)


def _branching_function(error: Exception) -> Callable[..., Any] | None:
    """Returns the function, outside any class, in which a symbol served as a condition. None if no such."""
    if not isinstance(error, fx.proxy.TraceError):
        return None
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    for caller, called in reversed(list(pairwise(frames))):
        function = caller.f_globals.get(called.f_code.co_name)
        from_fx = called.f_globals["__name__"].startswith("torch.fx")
        if from_fx or not callable(function):
            continue
        if getattr(inspect.unwrap(function), "__code__", None) is called.f_code:
            return cast(Callable[..., Any], function)
    return None


class _UnknownError(Exception):
    """The forward asks for something that is known only once the graph so far has been rehearsed.

    Either how many values a submodule returned, as ``x.reshape(B, *size)`` does, or whether a condition on
    weights holds.
    """

    def __init__(self, node: fx.Node, of_length: bool) -> None:
        super().__init__(f"the {'length' if of_length else 'value'} of {node} is not known")
        self.node = node
        self.of_length = of_length


class _SizedProxy(fx.Proxy):
    def __len__(self) -> int:
        lengths = cast(_ShallowTracer, self.tracer).learned.lengths
        if self.node.name not in lengths:
            raise _UnknownError(self.node, of_length=True)
        length = lengths[self.node.name]
        return super().__len__() if length is None else length


class _ShallowTracer(fx.Tracer):
    proxy_buffer_attributes = True  # otherwise, an expression on a buffer would become a constant

    def __init__(self, opened: set[str], learned: Learned) -> None:
        super().__init__()
        self.opened = opened
        self.learned = learned
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

    def to_bool(self, obj: fx.Proxy) -> bool:
        if obj.node in depending_on_images(self.graph):
            return super().to_bool(obj)  # raises an error
        asked = self.root.training, obj.node.name
        if asked not in self.learned.conditions:
            raise _UnknownError(obj.node, of_length=False)
        return self.learned.conditions[asked]

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
def _functions_recorded(backbone: nn.Module, opened: set[str], learned: Learned) -> Iterator[None]:
    """While active, records calls of functions that are not to be traced as one node each.

    These are the functions of ``math``, functions marked by ``torch.fx.wrap``, and functions that were found
    to branch on the size of the images. They are replaced in their modules, for all threads. A replacement
    does what the original function does if no argument is a symbol.
    """
    marked = [names.get(name) for (_, name), names in _symbolic_trace._wrapped_fns_to_patch.copy().items()]
    functions = {id(f) for f in (*vars(math).values(), *marked) if callable(f)} | set(learned.branching)
    traced = [backbone, *map(backbone.get_submodule, opened)]
    with PROCESS_LOCK, _symbolic_trace._Patcher() as patcher:
        _symbolic_trace._patch_wrapped_functions(patcher)
        for names in (vars(math), *(type(module).forward.__globals__ for module in traced)):
            _symbolic_trace._autowrap_check(patcher, names, functions)
        yield


def _context() -> tuple[bool, ...]:
    return torch.is_grad_enabled(), *(torch.is_autocast_enabled(device) for device in ("cpu", "cuda"))
