"""Makes the start page from the README, and leads links out of the documentation to the repository."""

import os
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

_ROOT = Path(__file__).parents[2]
_DOCS = _ROOT / "docs"
_LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(([^)\s]+)\)")
_IMAGE = re.compile(r"(!\[[^\]]*\]\()docs/")


def on_files(files: Files, config: Any) -> Files:
    """Adds the start page."""
    text = _IMAGE.sub(r"\1", (_ROOT / "README.md").read_text(encoding="utf-8"))
    files.append(
        File.generated(config, "index.md", content=_with_links_from(_ROOT, _DOCS, text, config.repo_url))
    )
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, **_: Any) -> str:
    """Leads links to files outside of docs/ to the repository."""
    folder = (_DOCS / page.file.src_uri).parent
    return _with_links_from(folder, folder, markdown, config.repo_url)


def on_page_content(html: str, page: Any, files: Files, **_: Any) -> str:
    """Leads links of notebooks to pages: MkDocs rewrites those of Markdown alone."""
    if not page.file.src_uri.endswith(".ipynb"):
        return html

    def rewritten(match: re.Match[str]) -> str:
        path, mark, anchor = match[1].partition("#")
        source = os.path.normpath(os.path.join(os.path.dirname(page.file.src_uri), path))
        target = files.get_file_from_path(source)
        if target is None:
            raise FileNotFoundError(f"{page.file.src_uri} has a link to {path}, which does not exist")
        return f'href="{target.url_relative_to(page.file)}{mark}{anchor}"'

    return re.sub(r'href="([^":]+\.(?:md|ipynb)(?:#[^"]*)?)"', rewritten, html)


def _with_links_from(folder: Path, new_folder: Path, text: str, repository: str | None) -> str:
    """Rewrites links relative to a folder, for a page elsewhere. Links to code lead to the repository.

    Without the address of the repository, links to code are text.
    """

    def rewritten(match: re.Match[str]) -> str:
        title, target = match.groups()
        path, mark, anchor = target.partition("#")
        if not path or "://" in path:
            return match[0]
        full = (folder / path).resolve()
        if full.is_relative_to(_DOCS):
            return f"[{title}]({Path(os.path.relpath(full, new_folder)).as_posix()}{mark}{anchor})"
        if not full.exists():
            raise FileNotFoundError(f"a link leads to {full}, which does not exist")
        if not repository:
            return title
        kind = "tree" if full.is_dir() else "blob"
        return f"[{title}]({repository}/{kind}/main/{full.relative_to(_ROOT).as_posix()})"

    return _LINK.sub(rewritten, text)
