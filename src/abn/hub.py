"""Loading networks that were saved by name."""

import json
from pathlib import Path

from safetensors.torch import load_model

from abn.backbone import FETCHING
from abn.network import ABN
from abn.saving import CONFIG, UNSAVED, WEIGHTS
from abn.wrap import wrap_backbone


def load(directory: str | Path) -> ABN:
    """Loads a network from a directory that :meth:`abn.ABN.save_pretrained` wrote.

    Nothing is unpickled, and nothing is downloaded: the backbone is built with random weights, all of which
    are replaced by those of the directory.

    Returns:
        The network in evaluation mode, on the CPU, in the default floating-point type.

    Raises:
        FileNotFoundError: If the directory does not hold ``config.json`` and ``model.safetensors``.
        ValueError: If the configuration is not one that ``save_pretrained`` writes, or does not build a
            network with the versions of torchvision and timm at hand.
        RuntimeError: If a weight is missing, left over, or of another shape; all such are named.

    Example:
        >>> import tempfile
        >>> from abn import abn_resnet18
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     abn_resnet18(num_classes=10).save_pretrained(directory)
        ...     model = load(directory)
        >>> model.config["backbone"], model.config["split"]
        ('torchvision/resnet18', 'layer3')
    """
    directory = Path(directory)
    missing = [name for name in (CONFIG, WEIGHTS) if not (directory / name).is_file()]
    if missing:
        raise FileNotFoundError(
            f"{directory} holds no {' and no '.join(missing)}, expected what save_pretrained() writes"
        )
    config = json.loads((directory / CONFIG).read_text())
    if not isinstance(config, dict) or not isinstance(config.get("backbone"), str):
        raise ValueError(
            f"{directory / CONFIG} names no backbone, expected what save_pretrained() writes: "
            '{"backbone": "timm/...", ...}'
        )
    if refused := (FETCHING | UNSAVED).intersection(config):
        raise ValueError(
            f"{directory / CONFIG} asks for {sorted(refused)}, but all weights are in {WEIGHTS}: remove them"
        )
    if isinstance(config.get("input_size"), list):
        config["input_size"] = tuple(config["input_size"])  # JSON knows no tuples
    try:
        model = wrap_backbone(**config)
    except Exception as error:  # the library that builds the backbone may fail in any way
        raise ValueError(f"{directory / CONFIG} does not build a network: {error}") from error
    load_model(model, directory / WEIGHTS)
    return model.eval()
