"""Turns the reStructuredText in docstrings, which Python's own tools know, into Markdown for the site."""

import re
from typing import Any

import griffe

_ROLE = re.compile(r":(?:class|func|meth|mod|attr|data|exc):`~?([\w.]+)`")
_LINK = re.compile(r"`([^`<]+?)\s*<(https?://[^>]+)>`_")
_MATH_BLOCK = re.compile(r"^ *\.\. math:: *(.+)$", re.MULTILINE)


def to_markdown(text: str) -> str:
    """Rewrites roles, links, formulas, literals and literal blocks."""
    text = _MATH_BLOCK.sub(r"\\[\1\\]", text)
    text = re.sub(r":math:`([^`]+)`", r"\\(\1\\)", text)
    text = re.sub(r"docs/(\w+)\.md", r"[\1](../\1.md)", text)
    text = _ROLE.sub(r"`\1`", text)
    text = _LINK.sub(r"[\1](\2)", text)
    text = re.sub(r"^( *)Example:$", r"\1Examples:", text, flags=re.MULTILINE)
    text = re.sub(r"(\S?)::\n\n", lambda match: f"{match[1]}:\n\n" if match[1] else "\n", text)
    return text.replace("``", "`")


class Roles(griffe.Extension):
    """Rewrites the docstring of every object."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = to_markdown(obj.docstring.value)
