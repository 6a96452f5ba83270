"""Show the README on a package index as in the repository: its links and images are made absolute in what is built."""

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

# An image or a link, whose target is neither an address nor a place in the page itself.
RELATIVE = re.compile(r"(!?)\[([^\]]*)\]\((?!https?://|mailto:|#)([^)\s]+)\)")


def absolute(text: str, repository: str) -> str:
    """Return Markdown whose relative links lead into a repository, at its newest commit.

    Args:
        text: Markdown.
        repository: The repository's address, as a browser shows it.
    """

    def link(found: re.Match[str]) -> str:
        image, label, target = found.groups()
        # GitHub serves files for an <img> under `raw`, and pages around them under `blob`.
        return f"{image}[{label}]({repository.rstrip('/')}/{'raw' if image else 'blob'}/HEAD/{target})"

    return RELATIVE.sub(link, text)


class ReadmeHook(MetadataHookInterface):
    """Hatchling's hook: fills `project.readme`, which is therefore dynamic."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Set the README, with absolute links where `project.urls` names the repository."""
        text = Path(self.root, "README.md").read_text(encoding="utf-8")
        repository = metadata.get("urls", {}).get("Repository")
        metadata["readme"] = {
            "content-type": "text/markdown",
            "text": absolute(text, repository) if repository else text,
        }
