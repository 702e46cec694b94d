"""Lists and builds networks by name, as torchvision and timm do."""

import difflib
import functools
import inspect
from collections.abc import Callable
from fnmatch import filter as matching
from typing import Any, ParamSpec, TypeVar

from torch import nn

from abn.network import ABN
from abn.retrofit.backbones import WEIGHT_SOURCE_ARGUMENTS

Arguments = ParamSpec("Arguments")
Model = TypeVar("Model", bound=nn.Module)

_builders: dict[str, Callable[..., nn.Module]] = {}


def register_model(builder: Callable[Arguments, Model]) -> Callable[Arguments, Model]:
    """Registers a builder under the name of its function. To be used as a decorator.

    An :class:`abn.ABN` that the builder returns remembers the arguments that it was built with, so that
    :meth:`abn.ABN.save_pretrained` can write them down.

    Raises:
        ValueError: If a builder of this name is registered already.
    """
    name = builder.__name__
    if name in _builders:
        raise ValueError(f"a model {name!r} is registered already, expected another name")

    @functools.wraps(builder)
    def build(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Model:
        model = builder(*args, **kwargs)
        if isinstance(model, ABN):
            model.built_with = _config(builder, *args, **kwargs)
        return model

    _builders[name] = build
    return build


def is_of_this_library(name: str) -> bool:
    """Whether the builder of this name is one of :mod:`abn.models`, and not a user's own."""
    return name in _builders and _builders[name].__module__.startswith("abn.models.")


def list_models(pattern: str = "*") -> list[str]:
    """Lists the names that :func:`create_model` knows.

    Names of networks with an attention branch begin with ``abn_``.

    Args:
        pattern: Pattern of the names to list, such as ``"cifar*"``: ``*`` stands for any text.

    Example:
        >>> list_models("cifar*")
        ['cifar_densenet', 'cifar_resnet', 'cifar_resnext', 'cifar_wide_resnet']
    """
    return sorted(matching(_builders, pattern))


def create_model(name: str, **kwargs: Any) -> nn.Module:
    """Builds a network by name, with random weights unless an argument says otherwise.

    Args:
        name: A name that :func:`list_models` lists.
        **kwargs: Arguments of the builder of this name.

    Raises:
        ValueError: If no builder has this name.

    Example:
        >>> model = create_model("abn_cifar_resnet", depth=20, num_classes=100)
    """
    if name not in _builders:
        similar = difflib.get_close_matches(name, _builders)
        hint = f"but {', '.join(similar)}" if similar else "see abn.list_models()"
        raise ValueError(
            f"there is no model {name!r}, {hint}; those of torchvision and timm are built by "
            "abn.wrap_backbone('timm/...'), published weights are loaded by abn.hub.load"
        )
    return _builders[name](**kwargs)


def _config(builder: Callable[..., nn.Module], *args: Any, **kwargs: Any) -> dict[str, Any] | None:
    """Returns the name of a builder and its arguments, or None if an argument is a module.

    Arguments that only fetch weights are left out.
    """
    bound = inspect.signature(builder).bind(*args, **kwargs)
    bound.apply_defaults()
    arguments = bound.arguments
    arguments.update(arguments.pop("kwargs", {}))
    if any(isinstance(value, nn.Module) for value in arguments.values()):
        return None
    return {
        "model": builder.__name__,
        **{key: value for key, value in arguments.items() if key not in WEIGHT_SOURCE_ARGUMENTS},
    }
