"""Turns state dicts of the official code into ours, and back. :func:`abn.hub.convert` does so with files.

The official code is ``machine-perception-robotics-group/attention_branch_network``, whose networks
:mod:`abn.models` builds, and ``machine-perception-robotics-group/ABN_CelebA_PyTorch``, whose networks are the
ResNets of :mod:`abn.models` with ``tasks=`` and ``map="response"`` or ``"scaled_response"``.
"""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from abn.checkpoint import rekeyed, unwrapped
from abn.hub.layouts import LAYOUTS, Layout


def from_reference(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Renames the entries of an official checkpoint for ``load_state_dict``.

    The prefixes ``module.`` and ``_orig_mod.`` are removed, and the entries ``num_batches_tracked``, which
    PyTorch 0.4 did not write, are added. No other entry is added or left out: ``load_state_dict`` reports
    missing and unknown entries.

    Args:
        state_dict: The entry ``"state_dict"`` of an official checkpoint.

    Raises:
        ValueError: If the state dict is not of an attention branch network of the official code, or two of
            its entries stand for one weight.

    Example:
        >>> from abn import abn_resnet18
        >>> model = abn_resnet18(map="convolution")
        >>> official = to_reference(model.state_dict())
        >>> model.load_state_dict(from_reference(official))
        <All keys matched successfully>
    """
    plain = unwrapped(state_dict)
    layout = _official_layout(plain)
    for key in list(plain):
        if key.endswith(".running_var"):
            plain.setdefault(key.replace("running_var", "num_batches_tracked"), torch.tensor(0))
    if layout.heads is not None:
        plain = _join_heads(plain, layout.heads)
    ours = _renamed(plain, layout.prefixes, layout.inner)
    for key, value in ours.items():
        if re.fullmatch(layout.pointwise, key) and value.ndim == 2:
            ours[key] = value[:, :, None, None]
    return ours


def to_reference(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Renames the entries of our networks for the official code. The inverse of :func:`from_reference`.

    Raises:
        ValueError: If the official code lacks the network of this state dict. It has the networks that
            :mod:`abn.models` builds with a copied stage.
    """
    plain = unwrapped(state_dict)
    layout = next((layout for layout in LAYOUTS if layout.mark in plain), None)
    beginnings = () if layout is None else tuple(layout.prefixes.values())
    unknown = [key for key in plain if not key.startswith(beginnings)]
    if layout is None or unknown:
        raise ValueError(
            f"unknown entries {unknown[:5]}, expected the state dict of a network that the official code "
            "has, such as an abn_resnet50"
        )
    for key, value in plain.items():
        if re.fullmatch(layout.pointwise, key) and value.shape[2:] == (1, 1):
            plain[key] = value.flatten(1)
    official = _renamed(plain, _inverse(layout.prefixes), _inverse(layout.inner))
    if layout.heads is None:
        return official
    (tasks,) = plain[layout.mark].shape[:1] or (1,)
    return _split_heads(official, layout.heads, tasks)


def architecture(state_dict: Mapping[str, Tensor]) -> tuple[str, dict[str, Any]]:
    """Finds the network of an official checkpoint by the names and shapes of its weights.

    Args:
        state_dict: As for :func:`from_reference`.

    Returns:
        Name and arguments for :func:`abn.create_model`.

    Raises:
        ValueError: If the state dict is not of an attention branch network of the official code.

    Example:
        >>> from abn import create_model
        >>> model = create_model("abn_cifar_wide_resnet", depth=10, widen_factor=2, map="convolution")
        >>> architecture(to_reference(model.state_dict()))[1]
        {'depth': 10, 'widen_factor': 2, 'num_classes': 10, 'in_channels': 3, 'map': 'convolution'}
    """
    shapes = {key: tuple(value.shape) for key, value in unwrapped(state_dict).items()}
    try:
        name, arguments = _official_layout(shapes).architecture(shapes)
    except (KeyError, IndexError, ZeroDivisionError) as error:
        raise ValueError(
            f"the state dict is not complete, expected that of a network of the official code: {error!r}"
        ) from error
    # The official SE-ResNets make their map without weights, other networks of one task by a convolution.
    arguments.setdefault("map", "log_sum" if "_se_" in name else "convolution")
    return name, arguments


def _official_layout(state_dict: Mapping[str, object]) -> Layout:
    layout = next((layout for layout in LAYOUTS if layout.official_mark in state_dict), None)
    if layout is None or not {"att_conv.weight", "conv_att.weight"}.intersection(state_dict):
        raise ValueError(
            f"the state dict holds {list(state_dict)[:5]}, ..., expected that of an attention branch network "
            "of the official code: 'att_conv.weight' and, by family, 'att_layer4...', 'att_layer3...', "
            "'att_dense3...', 'att_block3...', 'stage_att...' or 'depth_conv...'; or 'conv_att.weight'"
        )
    return layout


def _join_heads(state_dict: Mapping[str, Tensor], heads: str) -> dict[str, Tensor]:
    """Joins the linear layers (K, C) of T tasks into one (K·T, C), the first class of each task first."""
    joined = dict(state_dict)
    for kind, ndim in (("weight", 2), ("bias", 1)):
        found = {key for key in state_dict if key.startswith(heads) and key.endswith(f".{kind}")}
        names = [f"{heads}{task}.{kind}" for task in range(len(found))]
        shapes = {state_dict[name].shape for name in names if name in found}
        if found != set(names) or [len(shape) for shape in shapes] != [ndim] or f"fc.{kind}" in state_dict:
            raise ValueError(
                f"the state dict holds {sorted(found)[:5]}, ..., expected one {heads}N.{kind} for each task, "
                f"of {ndim} dimensions and all of the same shape, and no fc.{kind}"
            )
        joined[f"fc.{kind}"] = torch.stack([joined.pop(name) for name in names], dim=1).flatten(0, 1)
    return joined


def _split_heads(state_dict: Mapping[str, Tensor], heads: str, tasks: int) -> dict[str, Tensor]:
    """Splits the joined linear layer again: the inverse of :func:`_join_heads`."""
    parts: dict[str, Tensor] = {}
    for key, value in state_dict.items():
        if key.startswith("fc.") and value.ndim:
            parts |= {f"{heads}{task}.{key.removeprefix('fc.')}": value[task::tasks] for task in range(tasks)}
        else:
            parts[key] = value
    return parts


def _renamed(
    state_dict: Mapping[str, Tensor], prefixes: Mapping[str, str], inner: Mapping[str, str]
) -> dict[str, Tensor]:
    names = re.compile(rf"(?<=\d\.)({'|'.join(map(re.escape, inner))})(?=\.)")  # after the number of a block

    def rename(key: str) -> str:
        prefix = max((p for p in prefixes if key.startswith(p)), key=len)
        key = prefixes[prefix] + key.removeprefix(prefix)
        return names.sub(lambda match: inner[match[1]], key) if inner else key

    return rekeyed(state_dict, rename)


def _inverse(names: Mapping[str, str]) -> dict[str, str]:
    return {ours: theirs for theirs, ours in names.items()}
