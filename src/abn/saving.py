"""Saves a network without pickle: a JSON file that tells how to build it, and a file of its weights."""

import json
import os
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_model

from abn.model_card import model_card
from abn.modules.attention import PretrainedAttentionBranch
from abn.preprocessing import Preprocessing

CONFIG, WEIGHTS = "config.json", "model.safetensors"
UNSAVED = frozenset({"pretrained_cfg", "pretrained_cfg_overlay"})
"""Arguments of timm that change the network, but may also name weights. Networks with them are not saved."""


def save(model: Any, directory: Path) -> None:
    """Writes ``config.json`` and ``model.safetensors`` of a network.

    Raises:
        OSError: If a file cannot be written.
        ValueError: If the network has no configuration, JSON cannot hold the configuration, or a weight is on
            the meta device.
    """
    text = _json(configuration(model))
    if on_meta := [name for name, value in model.state_dict().items() if value.is_meta]:
        raise ValueError(
            f"{len(on_meta)} weights, such as {on_meta[0]}, are on the meta device and cannot be saved: "
            "bring them back first if they were offloaded"
        )
    directory.mkdir(parents=True, exist_ok=True)
    with replacing(directory / WEIGHTS) as path:
        try:
            save_model(model, str(path), metadata={"format": "pt", "config": text})
        except SafetensorError as error:  # a full disk, for example
            raise OSError(f"{directory / WEIGHTS} could not be written: {error}") from error
    with replacing(directory / CONFIG) as path:
        path.write_text(text, encoding="utf-8")


def push(model: Any, repo_id: str, private: bool | None, token: str | None, facts: Mapping[str, Any]) -> str:
    """Saves a network in a repository of the Hugging Face Hub. Returns the address of the commit.

    A repository without a README gets a model card, see :func:`abn.model_card.model_card`.

    Raises:
        ValueError: As in :func:`save`, or if :func:`abn.model_card.model_card` refuses the facts.
    """
    from huggingface_hub import HfApi  # slow to import, and seldom needed

    card = model_card(model, repo_id, **facts)  # raises its errors before anything is made
    with tempfile.TemporaryDirectory() as directory:
        save(model, Path(directory))
        api = HfApi(token=token)
        api.create_repo(repo_id, private=private, exist_ok=True)
        if not api.file_exists(repo_id, "README.md"):
            Path(directory, "README.md").write_text(card, encoding="utf-8")
        return str(api.upload_folder(repo_id=repo_id, folder_path=directory))


def configuration(model: Any) -> dict[str, Any] | None:
    """Returns what builds an :class:`abn.ABN` again, and its preprocessing and classes if they are known.

    Returns None if the network was not built by name.

    Raises:
        ValueError: If a branch was replaced by a module of another kind, if ``preprocessing`` is of another
            type, or if ``classes`` are not one name for each class or task.
    """
    if model.built_with is None:
        return None
    branches = model.attention_branch, model.perception_branch
    if not all(hasattr(branch, name) for branch, name in zip(branches, ("map", "mechanism"), strict=True)):
        kinds = " and a ".join(type(branch).__name__ for branch in branches)
        raise ValueError(
            f"the network has a {kinds}, of which one took the place of the branch that the configuration "
            "builds: save its state_dict()"
        )
    # The mechanism may have been changed since. Other entries may be defaults, which may change one day.
    config = {
        **model.built_with,
        "start": "pretrained" if isinstance(model.attention_branch, PretrainedAttentionBranch) else "new",
        "map": model.attention_branch.map,
        "mechanism": model.perception_branch.mechanism,
    }
    if model.stage is not None:
        config["stage"] = model.stage
    if (width := getattr(model.attention_branch, "response_channels", None)) is not None:
        config["response_channels"] = width
    if model.preprocessing is not None:
        if not isinstance(model.preprocessing, Preprocessing):
            kind = type(model.preprocessing).__name__
            raise ValueError(f"model.preprocessing is a {kind}, expected a Preprocessing, or None")
        config["preprocessing"] = asdict(model.preprocessing)
    if model.classes is not None:
        config["classes"] = _names(model)
    return config


def _names(model: Any) -> list[str]:
    """Returns the names of the classes or tasks. Raises a ValueError if there is not one name for each."""
    has_tasks = hasattr(model.perception_branch, "tasks")
    count = model.perception_branch.tasks if has_tasks else model.attention_branch.num_classes
    names = model.classes
    are_names = isinstance(names, (list, tuple)) and all(isinstance(name, str) for name in names)
    if not are_names or len(names) != count:
        kind = "tasks" if has_tasks else "classes"
        raise ValueError(
            f"model.classes is {names!r}, expected a list of {count} names, of the {kind} in their order; or "
            "None"
        )
    return list(names)


def _json(config: dict[str, Any] | None) -> str:
    if config is None:
        raise ValueError(
            "the network was built from modules, so no names can tell how to build it again: save its "
            "state_dict(), or build it by name, with wrap_backbone('timm/...') or abn_resnet50(...)"
        )
    if refused := UNSAVED.intersection(config):
        raise ValueError(
            f"the network was built with {', '.join(sorted(refused))}, which may name weights to fetch: save "
            "its state_dict() instead, and build the network with the same arguments"
        )
    for name, value in config.items():
        try:
            json.dumps(value)
        except TypeError as error:
            raise ValueError(
                f"{name} is {value!r}, which JSON cannot hold: save the state_dict() instead, and build the "
                "network with the same arguments"
            ) from error
    return json.dumps(config, indent=2) + "\n"


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a file to write to. Once complete, the file takes the place of ``path`` in one step."""
    temporary = path.with_name(f".{uuid.uuid4().hex}.part")
    try:
        temporary.touch()
        mode = temporary.stat().st_mode
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.chmod(mode)  # safetensors lets no other user read the file
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
