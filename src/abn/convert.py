"""State dicts of the official code and ours, one into the other.

The official code is ``machine-perception-robotics-group/attention_branch_network``; here its ImageNet
ResNets, which :func:`abn.abn_resnet18` and its siblings build.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

_PREFIXES = {  # theirs -> ours; of several that fit the longest counts
    "": "feature_extractor.",
    "att_layer4.": "attention_branch.stage.layer4.",
    "bn_att.": "attention_branch.norm.",
    "att_conv.": "attention_branch.response_conv.",
    "bn_att2.": "attention_branch.response_norm.",
    "att_conv2.": "attention_branch.classifier.",
    "att_conv3.": "attention_branch.map_conv.",
    "bn_att3.": "attention_branch.map_norm.",
    "layer4.": "perception_branch.tail.layer4.",
    "fc.": "perception_branch.tail.fc.",
}
_WRAPPERS = ("module.", "_orig_mod.")  # of DataParallel and of torch.compile


def from_reference(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Renames the entries of an official ResNet checkpoint for ``load_state_dict``.

    The prefixes ``module.`` and ``_orig_mod.`` are taken off, and the ``num_batches_tracked`` that
    PyTorch 0.4 did not write are added. Nothing else is made up or left out: a missing or unknown entry
    is for ``load_state_dict`` to report.

    Args:
        state_dict: The entry ``"state_dict"`` of an official checkpoint.

    Raises:
        ValueError: If it is not one of an attention branch network of the official code.

    Example:
        >>> from abn import abn_resnet18
        >>> model = abn_resnet18()
        >>> official = to_reference(model.state_dict())
        >>> model.load_state_dict(from_reference(official))
        <All keys matched successfully>
    """
    plain = {_unwrapped(key): value for key, value in state_dict.items()}
    if "att_conv.weight" not in plain:
        raise ValueError(
            f"the state dict has no 'att_conv.weight', but {list(state_dict)[:5]}, ...: expected the entry "
            "'state_dict' of a checkpoint of the official code"
        )
    for key in list(plain):
        if key.endswith(".running_var"):
            plain.setdefault(key.replace("running_var", "num_batches_tracked"), torch.tensor(0))
    return {_renamed(key, _PREFIXES): value for key, value in plain.items()}


def to_reference(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Renames the entries of our ResNets for the official code. The inverse of :func:`from_reference`.

    Raises:
        ValueError: If an entry is not one of an ``abn_resnet*``.
    """
    back = {ours: theirs for theirs, ours in _PREFIXES.items()}
    plain = {_unwrapped(key): value for key, value in state_dict.items()}
    unknown = [key for key in plain if not key.startswith(tuple(back))]
    if unknown:
        raise ValueError(f"unknown entries {unknown[:5]}, expected the state dict of an abn_resnet*")
    return {_renamed(key, back): value for key, value in plain.items()}


def _unwrapped(key: str) -> str:
    while key.startswith(_WRAPPERS):
        key = key.split(".", 1)[1]
    return key


def _renamed(key: str, prefixes: Mapping[str, str]) -> str:
    prefix = max((p for p in prefixes if key.startswith(p)), key=len)
    return prefixes[prefix] + key.removeprefix(prefix)
