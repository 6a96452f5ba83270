"""Docstrings as mkdocstrings reads them: an `Example:` is code, as an `Examples:` is, and lists are lists."""

import re
from typing import Any

import griffe

from docs.website.repository import spaced


class ReadableDocstrings(griffe.Extension):
    """Name the section of examples as griffe does; under another name it would be text, and its code prose."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Change an object's docstring."""
        del kwargs
        if obj.docstring:
            text = re.sub(r"^( *)Example:$", r"\1Examples:", obj.docstring.value, flags=re.MULTILINE)
            obj.docstring.value = spaced(text)
