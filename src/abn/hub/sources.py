"""Finds the file behind a name, a path, an address or a repository of the Hugging Face Hub."""

import difflib
import functools
import hashlib
from pathlib import Path
from urllib.parse import urlsplit

from abn.checkpoint import CheckpointError
from abn.hub.configuration import read_network
from abn.hub.download import DownloadError, cached
from abn.hub.published import PUBLISHED, Weights
from abn.saving import CONFIG, WEIGHTS


def locate(source: str | Path, progress: bool = True) -> Path:
    """Returns the path of a source on this machine, a file or a directory. Fetches the source if needed.

    Args:
        source: As for :func:`abn.hub.load`.
        progress: Whether to show a progress bar during a download.

    Raises:
        DownloadError: If a file cannot be fetched.
        FileNotFoundError: If there is no such file.
        TypeError: If the source is no name, path or address.
        ValueError: If the source is the name both of published weights and of a file, or a fetched file is
            not what it should be.
    """
    if not isinstance(source, (str, Path)) or not str(source):
        raise TypeError(f"source is {source!r}, expected a name, a path or an address")
    if isinstance(source, str):
        entry = published_entry(source)
        if entry is not None and Path(source).exists():
            raise ValueError(
                f"{source} is the name of published weights and of a file: write ./{source} for the file"
            )
        if entry is not None:
            check = functools.partial(check_published, entry)
            name = f"{entry.name}.pth.tar"
            return cached(entry.page, name, check=check, sha256=entry.sha256, progress=progress)
        if source.lower().startswith(("https://", "http://")):
            digest = hashlib.sha256(source.encode()).hexdigest()[:16]
            # Two addresses may end in one file name, and a name may be too long for a file.
            name = f"{digest}-{Path(urlsplit(source).path).name[-100:]}"
            return cached(source, name, check=read_network, progress=progress)
        if source.startswith("hf-hub:"):
            return _snapshot(source)
    path = Path(source).expanduser()
    if not path.exists():
        similar = difflib.get_close_matches(str(source), [entry.name for entry in PUBLISHED])
        hint = f"similar: {', '.join(similar)}" if similar else "see abn.hub.available()"
        raise FileNotFoundError(f"there is no file {path}, and no published weights of this name; {hint}")
    return path


def published_entry(source: str | Path) -> Weights | None:
    """Returns the entry of this name in the table of published weights, or None if there is no such entry."""
    return next((entry for entry in PUBLISHED if entry.name == source), None)


def _snapshot(source: str) -> Path:
    from huggingface_hub import snapshot_download  # slow to import, and seldom needed

    repo_id, _, revision = source.removeprefix("hf-hub:").partition("@")
    if revision.startswith("/") or ".." in revision:
        raise ValueError(f"revision is {revision!r}, expected a branch, a tag or a commit")
    try:
        return Path(snapshot_download(repo_id, revision=revision or None, allow_patterns=[CONFIG, WEIGHTS]))
    except Exception as error:  # huggingface_hub raises errors of many kinds
        raise DownloadError(f"{source} could not be fetched: {error}") from error


def check_published(entry: Weights, path: Path) -> None:
    """Raises a CheckpointError if a file does not hold the network that its entry in the table names."""
    config, _ = read_network(path, entry.mechanism)
    if (config.get("model"), config.get("tasks")) != (entry.model, entry.tasks):
        several = f" with {entry.tasks} tasks" if entry.tasks else ""
        raise CheckpointError(
            f"{path} holds the weights of {config}, expected those of {entry.model}{several}"
        )
