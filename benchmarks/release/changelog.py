"""Read CHANGELOG.md, which follows Keep a Changelog: a section per release, the newest first."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date

UNRELEASED = "Unreleased"
KINDS = ("Added", "Changed", "Deprecated", "Removed", "Fixed", "Security")
_HEADING = re.compile(r"^## (.*)$", re.MULTILINE)


@dataclass(frozen=True)
class Section:
    """Hold what a release changes: its version or `Unreleased`, its day, and the text below the heading."""

    version: str
    day: str
    text: str

    def problems(self) -> Iterator[str]:
        """Yield what is wrong with the section, in words."""
        name = f"CHANGELOG.md, {self.version}"
        if not re.search(r"^- \S", self.text, re.MULTILINE):
            yield f"{name}: must list what changes, a line that begins with `- ` each, and has none"
        kinds = re.findall(r"^### (.*)$", self.text, re.MULTILINE)
        for kind in kinds:
            if kind not in KINDS or kinds.count(kind) > 1:
                yield f"{name}: headings are {', '.join(KINDS)}, each once, got {kind!r}"
        if self.version == UNRELEASED:
            return
        try:
            date.fromisoformat(self.day)
        except ValueError:
            yield f"{name}: the heading must be `## {self.version} - YEAR-MONTH-DAY`, got the day {self.day!r}"


def sections(text: str) -> list[Section]:
    """Return the sections of a changelog, as they stand there.

    Raises:
        ValueError: There is none.
    """
    parts = _HEADING.split(text)[1:]
    if not parts:
        raise ValueError("CHANGELOG.md must have a section, `## Unreleased` or `## VERSION - DATE`, and has none")
    found = []
    for heading, body in zip(parts[::2], parts[1::2], strict=True):
        version, _, day = heading.replace("[", "").replace("]", "").partition(" - ")
        found.append(Section(version.strip(), day.strip(), body.strip()))
    return found
