"""Loading networks: published ones by name, and all others from files, directories and addresses."""

import difflib
import functools
import hashlib
import json
import logging
from pathlib import Path
from urllib.parse import urlsplit

import torch
from safetensors.torch import save_file

from abn.checkpoint import CheckpointError
from abn.hub.configuration import BESIDE, built, check_fit, checked_arguments, contents, rebuilt
from abn.hub.conversion import official_checkpoint, write_options
from abn.hub.download import DownloadError, cached
from abn.hub.published import PUBLISHED, Published, Weights
from abn.modules.attention import check_counts
from abn.modules.maps import check_map
from abn.modules.mechanisms import check_mechanism
from abn.network import ABN
from abn.saving import CONFIG, WEIGHTS, replacing

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

    Which network it is, is read from its configuration, if this library wrote it, and off the names and
    shapes of the weights otherwise. These do not tell what has no weights: the attention mechanism,
    strides, pools and activations are then those of the published networks. Nothing is unpickled, and a
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
    entry = _published(source)
    path = _located(source, progress)
    config, weights = contents(path, _mechanism(mechanism, entry), map)
    if beside := sorted({"model", "backbone", *BESIDE}.intersection(arguments)):
        raise TypeError(f"unexpected arguments {beside}: set them on the network that is loaded")
    config |= checked_arguments(arguments, "hub.load")
    if tasks is not None and config.get("tasks") is None:
        raise ValueError(f"tasks is {tasks}, but {source} is a network of one task: leave it out")
    asked = {"num_classes": num_classes, "tasks": tasks}
    counts = {name: count for name, count in asked.items() if count is not None}
    model, anew = rebuilt(config, weights, counts, path) if counts else (built(config, path), [])
    weights |= {key: model.state_dict()[key] for key in anew}
    check_fit(weights, model, path)
    model.load_state_dict(weights)
    if entry is not None and entry.preprocessing is not None:
        model.preprocessing = entry.preprocessing
    if anew:
        wanted = ", ".join(f"{name}={count}" for name, count in counts.items())
        _logger.warning("%s: started anew for %s: %s", path, wanted, ", ".join(anew))
    return model.eval()


def convert(
    source: str | Path,
    destination: str | Path,
    *,
    mechanism: str | None = None,
    map: str | None = None,
) -> None:
    """Rewrites a file of weights: from the official code's to this library's, and back.

    Also as ``python -m abn convert SOURCE DESTINATION``. A conversion there and back changes no weight.

    Args:
        source: As for :func:`load`.
        destination: ``.safetensors`` writes our names, and beside the weights how to build the network;
            ``.pth.tar``, ``.pth`` or ``.pt`` writes a checkpoint that the official code resumes from, in
            epoch 0, in the format that PyTorch 0.4 read. Of several tasks, an ``args.json`` is written beside
            it, if there is none, from which the official trainer takes its options when it resumes.
        mechanism: As for :func:`load`; a ``.safetensors`` file tells it.
        map: Likewise.

    Raises:
        CheckpointError, DownloadError, TypeError: As in :func:`load`.
        FileNotFoundError: If there is no such source, or no directory for the destination.
        ValueError: If there is no such mechanism, the destination's name ends otherwise, or the official code
            has no such network, with its kind of map, the residual mechanism and a copied stage.
    """
    destination = Path(destination).expanduser()
    if destination.suffix not in (".safetensors", ".tar", ".pth", ".pt") or destination.is_dir():
        raise ValueError(
            f"destination is {destination}, expected a file in .safetensors, .pth.tar, .pth or .pt"
        )
    if not destination.parent.is_dir():
        raise FileNotFoundError(f"there is no directory {destination.parent} for {destination.name}: make it")
    if mechanism is not None:
        check_mechanism(mechanism)
    if map is not None:
        check_map(map)
    path = _located(source)
    config, weights = contents(path, _mechanism(mechanism, _published(source)), map)
    if destination.suffix == ".safetensors":
        check_fit(weights, built(config, path), path)
        metadata = {"format": "pt", "config": json.dumps(config)}
        with replacing(destination) as file:
            save_file({key: value.contiguous().clone() for key, value in weights.items()}, file, metadata)
    else:
        checkpoint = official_checkpoint(config, weights, path)
        with replacing(destination) as file:  # in the format that PyTorch 0.4 read
            torch.save(checkpoint, file, _use_new_zipfile_serialization=False)
        if config.get("tasks"):
            write_options(config, destination.with_name("args.json"))


def _located(source: str | Path, progress: bool = True) -> Path:
    """The file or directory on this machine, fetched if need be."""
    if not isinstance(source, (str, Path)) or not str(source):
        raise TypeError(f"source is {source!r}, expected a name, a path or an address")
    if isinstance(source, str):
        entry = _published(source)
        if entry is not None and Path(source).exists():
            raise ValueError(
                f"{source} is the name of published weights and of a file: write ./{source} for the file"
            )
        if entry is not None:
            check = functools.partial(_check_published, entry)
            name = f"{entry.name}.pth.tar"
            return cached(entry.page, name, check=check, sha256=entry.sha256, progress=progress)
        if source.lower().startswith(("https://", "http://")):
            digest = hashlib.sha256(source.encode()).hexdigest()[:16]
            # There may be files of one name at two addresses, and names too long for a file.
            name = f"{digest}-{Path(urlsplit(source).path).name[-100:]}"
            return cached(source, name, check=contents, progress=progress)
        if source.startswith("hf-hub:"):
            return _snapshot(source)
    path = Path(source).expanduser()
    if not path.exists():
        similar = difflib.get_close_matches(str(source), [entry.name for entry in PUBLISHED])
        hint = f"similar: {', '.join(similar)}" if similar else "see abn.hub.available()"
        raise FileNotFoundError(f"there is no file {path}, and no published weights of this name; {hint}")
    return path


def _published(source: str | Path) -> Weights | None:
    return next((entry for entry in PUBLISHED if entry.name == source), None)


def _mechanism(mechanism: str | None, entry: Weights | None) -> str | None:
    """What the caller says of the mechanism, or else the table."""
    return entry.mechanism if mechanism is None and entry is not None else mechanism


def _snapshot(source: str) -> Path:
    from huggingface_hub import snapshot_download  # needed by few, and slow to import

    repo_id, _, revision = source.removeprefix("hf-hub:").partition("@")
    if revision.startswith("/") or ".." in revision:
        raise ValueError(f"revision is {revision!r}, expected a branch, a tag or a commit")
    try:
        return Path(snapshot_download(repo_id, revision=revision or None, allow_patterns=[CONFIG, WEIGHTS]))
    except Exception as error:  # huggingface_hub raises errors of many kinds
        raise DownloadError(f"{source} could not be fetched: {error}") from error


def _check_published(entry: Weights, path: Path) -> None:
    config, _ = contents(path, entry.mechanism)
    if (config.get("model"), config.get("tasks")) != (entry.model, entry.tasks):
        several = f" with {entry.tasks} tasks" if entry.tasks else ""
        raise CheckpointError(
            f"{path} holds the weights of {config}, expected those of {entry.model}{several}"
        )
