"""Loads networks: published ones by name, all others from files, directories and addresses."""

import logging
from pathlib import Path

from abn.hub.building import (
    NOT_ARGUMENTS,
    build_for_other_counts,
    build_network,
    check_fit,
    checked_arguments,
)
from abn.hub.configuration import read_network
from abn.hub.published import PUBLISHED, Published
from abn.hub.sources import locate, published_entry
from abn.modules.inputs import check_counts
from abn.modules.maps import check_map
from abn.modules.mechanisms import check_mechanism
from abn.network import ABN

_logger = logging.getLogger("abn.hub")  # which is documented


def available() -> Published:
    """Lists the published weights that :func:`load` knows by name.

    Returns:
        One :class:`abn.hub.published.Weights` per entry. Prints as a table.

    Example:
        >>> [entry.name for entry in available() if entry.dataset == "ImageNet"]
        ['abn_resnet50', 'abn_resnet101', 'abn_resnet152', 'abn_resnet50_mirror']
    """
    return PUBLISHED


def load(
    source: str | Path,
    *,
    num_classes: int | None = None,
    tasks: int | None = None,
    mechanism: str | None = None,
    map: str | None = None,
    progress: bool = True,
    **arguments: object,
) -> ABN:
    """Loads a network with its weights.

    The configuration that this library saves beside the weights tells how to build the network. Without one,
    the names and shapes of the weights tell it, but not the attention mechanism, strides, pools and
    activations: these are then taken to be those of the published networks. Nothing is unpickled, and a
    file either fits in full or is refused.

    Args:
        source: One of

            - the name of published weights, see :func:`available`; they are fetched once, into
              ``torch.hub.get_dir()/abn``,
            - the path of a checkpoint of the official code, as its trainer wrote it or its state dict
              alone, or of a network that :func:`abn.create_model` builds: ``.pth.tar``, ``.pth``,
              ``.safetensors``,
            - a directory that :meth:`abn.ABN.save_pretrained` wrote,
            - the address of such a file, ``https://...``, fetched once like those by name,
            - ``hf-hub:owner/name`` or ``hf-hub:owner/name@revision``, a repository of the Hugging Face Hub
              that :meth:`abn.ABN.push_to_hub` made.
        num_classes: Another number of classes than the weights are for. The weights as wide as that number
            start anew, and are named in a warning of the logger ``abn.hub``; all others are kept.
        tasks: Likewise another number of tasks, of a network of several.
        mechanism: The attention mechanism. Default: the one that was saved. Official checkpoints do not tell.
            Theirs is taken for residual, the only one of that code; where there are several tasks, it is read
            from the ``args.json`` that the trainer wrote beside them, or else taken for multiplicative, as
            that of the published weights is, with a warning of the logger ``abn.hub``.
        map: The kind of map. Default: the one that was saved; a bare state dict of a network of this library
            does not tell, and is then taken for ``"class_activation"``, the default of version 0.1, with a
            warning.
        progress: Shows a bar during a download.
        **arguments: Of the builder of the network, in place of those that were saved, or that weights do not
            tell: to fine-tune with ``dropout=0.3``, or ``drop_rate`` and ``drop_path_rate`` of timm.

    Returns:
        The network in evaluation mode, on the CPU, in the default floating-point type. Its ``preprocessing``
        and the names of its ``classes`` are set where they are known.

    Raises:
        CheckpointError: If a file is no checkpoint, or its weights are not those of its network; the first
            that are missing, left over or of another shape are named. A ``ValueError``.
        DownloadError: If a file cannot be fetched. Says where to get and put it by hand. An ``OSError``.
        FileNotFoundError: If there is no such file, or a directory lacks one.
        TypeError: If the source is none of these.
        ValueError: If a number or the mechanism is not one, tasks are asked of a network of one, or a
            configuration builds no network with the versions of torchvision and timm at hand.

    Example:
        >>> import tempfile
        >>> from abn import abn_resnet18
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     abn_resnet18(num_classes=10).save_pretrained(directory)
        ...     model = load(directory)
        >>> model.built_with["model"], model.built_with["num_classes"]
        ('abn_resnet18', 10)
    """
    check_counts(num_classes=num_classes, tasks=tasks)
    if mechanism is not None:
        check_mechanism(mechanism)
    if map is not None:
        check_map(map)
    entry = published_entry(source)
    path = locate(source, progress)
    if mechanism is None and entry is not None:
        mechanism = entry.mechanism
    config, weights = read_network(path, mechanism, map)
    if others := sorted({"model", "backbone", *NOT_ARGUMENTS}.intersection(arguments)):
        raise TypeError(f"unexpected arguments {others}: set them on the network that is loaded")
    config |= checked_arguments(arguments, "hub.load")
    if tasks is not None and config.get("tasks") is None:
        raise ValueError(f"tasks is {tasks}, but {source} is a network of one task: leave it out")
    asked = {"num_classes": num_classes, "tasks": tasks}
    counts = {name: count for name, count in asked.items() if count is not None}
    if counts:
        model, anew = build_for_other_counts(config, weights, counts, path)
    else:
        model, anew = build_network(config, path), []
    weights |= {key: model.state_dict()[key] for key in anew}
    check_fit(weights, model, path)
    model.load_state_dict(weights)
    if entry is not None and entry.preprocessing is not None:
        model.preprocessing = entry.preprocessing
    if anew:
        wanted = ", ".join(f"{name}={count}" for name, count in counts.items())
        _logger.warning("%s: started anew for %s: %s", path, wanted, ", ".join(anew))
    return model.eval()
