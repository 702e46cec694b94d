"""Fetches files into the cache: once, in full or not at all. A file that changes later is refused."""

import contextlib
import hashlib
import os
import re
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock

from abn.lock import PROCESS_LOCK
from abn.saving import replacing

_WEIGHT_ENDINGS = (".pth.tar", ".pth", ".pt", ".safetensors")


class DownloadError(OSError):
    """Raised if a file could not be fetched. Says which page to open by hand, and where to put it."""


def cached(
    page: str,
    name: str,
    *,
    check: Callable[[Path], object],
    sha256: str | None = None,
    progress: bool = True,
) -> Path:
    """Returns the path of a page's file in the cache, ``torch.hub.get_dir()/abn``. Fetches a missing file.

    The digest of a file is recorded when the file is first seen, even if it was put there by hand.

    Args:
        page: A folder or a file of Google Drive, or the address of a file.
        name: Name of the file in the cache.
        check: Raises a ValueError if a file is not what it should be. Called before the digest is recorded.
        sha256: Digest that the file must have. Default: the recorded one, if any.
        progress: Whether to show a progress bar.

    Raises:
        DownloadError: If the file cannot be fetched, or is not what ``check`` expects.
        ValueError: If the file in the cache has another digest than expected, or was put there by hand and
            is not what ``check`` expects.
    """
    path = Path(torch.hub.get_dir()) / "abn" / name
    record = path.with_name(f"{name}.sha256")
    if not path.is_file():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(path.with_name(f"{name}.lock")):  # another process may be fetching it
                if not path.is_file():
                    _fetch_whole(page, path, check, sha256, progress)
        except DownloadError:
            raise
        except OSError as error:
            raise _failure(page, path, str(error)) from error
    digest, expected = _digest(path), sha256 or _recorded(record)
    if expected is None:  # put there by hand
        check(path)
        with contextlib.suppress(OSError), replacing(record) as file:  # the cache may be read-only
            file.write_text(digest)
    elif digest != expected:
        raise ValueError(
            f"{path} has the SHA-256 {digest}, expected {expected}: it is not the file that was first seen "
            f"here. Delete it to fetch that again, and {record.name} too if a new one is welcome"
        )
    return path


def _fetch_whole(
    page: str, path: Path, check: Callable[[Path], object], sha256: str | None, progress: bool
) -> None:
    record = path.with_name(f"{path.name}.sha256")
    temporary = path.with_name(f".{path.name}.part")  # always one name: leftovers of a killed process go too
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        _fetch(page, temporary / path.name, progress)
        with PROCESS_LOCK, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # loading repeats them, with the final path
            check(temporary / path.name)
        digest = _digest(temporary / path.name)
        if (expected := sha256 or _recorded(record)) not in (None, digest):
            hint = "" if sha256 else f" as in {record.name}: delete that if a new file is welcome"
            raise ValueError(f"its SHA-256 is {digest}, expected {expected}{hint}")
        with (temporary / path.name).open("rb") as fetched:
            os.fsync(fetched.fileno())
        (temporary / path.name).replace(path)
        shutil.rmtree(temporary)
        with replacing(record) as file:
            file.write_text(digest)
    except Exception as error:  # gdown, requests and urllib raise errors of many kinds
        reason = re.sub(r"\nThe received bytes are kept.*", "", str(error))  # they are not: see below
        reason = reason.replace(f"{temporary / path.name}", "what came") or repr(error)
        raise _failure(page, path, reason) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _fetch(page: str, path: Path, progress: bool) -> None:
    """Downloads from Google Drive or any other address. Resumes after a cut connection."""
    import gdown  # slow to import, and seldom needed

    settings: Any = {"use_cookies": False, "timeout": 60, "retries": 3}
    if "drive.google.com/drive/folders/" in page:
        listed: Any = gdown.download_folder(url=page, skip_download=True, quiet=True, **settings)
        names = [file.path for file in listed]
        files = [file.id for file in listed if file.path.endswith(_WEIGHT_ENDINGS)]
        if len(files) != 1:
            raise ValueError(f"the folder holds {names}, expected one file of weights")
        gdown.download(id=files[0], output=str(path), quiet=not progress, **settings)
    else:
        gdown.download(url=page, output=str(path), quiet=not progress, **settings)


def _recorded(record: Path) -> str | None:
    words = record.read_text(errors="replace").split() if record.is_file() else []
    return words[0] if words else None


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _failure(page: str, path: Path, reason: str) -> DownloadError:
    return DownloadError(
        f"{path.name} could not be fetched: {reason}\n"
        f"Open {page} in a browser, save the file as {path}, and try again; or hand the path of the file to "
        "abn.hub.load()"
    )
