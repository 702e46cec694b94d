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

_logger = logging.getLogger("abn.hub")  # its documented name


def available() -> Published:
    """Lists the published weights that :func:`load` knows by name.

    Returns:
        A tuple with one :class:`abn.hub.published.Weights` per entry. It prints as a table.

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

    The configuration that this library saves beside the weights tells how to build the network. Without a
    configuration, the network is derived from the names and shapes of the weights. These do not tell the
    attention mechanism, strides, pools and activations, which are then assumed to be as in the published
    networks. Nothing is unpickled. A file that does not fit in full is refused.

    Args:
        source: One of

            - the name of published weights, see :func:`available`; they are fetched once, into
              ``torch.hub.get_dir()/abn``,
            - the path of a checkpoint, ``.pth.tar``, ``.pth`` or ``.safetensors``: of the official code, as
              its trainer wrote it or its state dict alone, or of a network that :func:`abn.create_model`
              builds,
            - a directory that :meth:`abn.ABN.save_pretrained` wrote,
            - the address of a checkpoint, ``https://...``; it is fetched once, into the same folder as
              published weights,
            - ``hf-hub:owner/name`` or ``hf-hub:owner/name@revision``, a repository of the Hugging Face Hub
              that :meth:`abn.ABN.push_to_hub` made.
        num_classes: New number of classes, if the weights are for another. Weights that depend on the number
            start anew, and a warning of the logger ``abn.hub`` names them. All other weights are kept.
        tasks: New number of tasks, for a network of several tasks. Weights start anew as for ``num_classes``.
        mechanism: The attention mechanism. Default: the saved one. Official checkpoints do not tell it. With
            one task, it is taken to be residual, the only mechanism of the official code. With several tasks,
            it is read from the ``args.json`` that the trainer wrote beside the checkpoint. Without that file,
            it is taken to be multiplicative, as in the published weights, and the logger ``abn.hub`` warns.
        map: The kind of map. Default: the saved one. If a bare state dict of a network of this library does
            not tell it, the kind is taken to be ``"class_activation"``, the default of version 0.1, with a
            warning.
        progress: Whether to show a progress bar during a download.
        **arguments: Arguments of the network's builder. They replace saved arguments, or add what weights do
            not tell, such as ``dropout=0.3``, or ``drop_rate`` and ``drop_path_rate`` of timm, to fine-tune.

    Returns:
        The network in evaluation mode, on the CPU, in the default floating-point type. Its ``preprocessing``
        and its ``classes`` are set if they are known.

    Raises:
        CheckpointError: If a file is no checkpoint, or its weights do not fit its network. Names the first
            weights that are missing, left over or of another shape. A ``ValueError``.
        DownloadError: If a file cannot be fetched. Says where to get it, and where to put it by hand. An
            ``OSError``.
        FileNotFoundError: If the source does not exist, or a directory lacks one of its files.
        TypeError: If the source is no name, path or address, or if ``model``, ``backbone``, ``preprocessing``
            or ``classes`` is given.
        ValueError: If a number of classes or tasks, the mechanism or the kind of map is not valid, if
            ``tasks`` is given for a network of one task, or if the installed versions of torchvision and timm
            cannot build the network.

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
