"""Make a page for each promised name, from its docstring."""

import re
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from inspect import getsourcefile, unwrap
from pathlib import Path

from docs.website.repository import ROOT, address

ROW = re.compile(r"^\| (?:`(?P<module>[\w.]+)`)? *\| (?P<names>`[^|]*`) \|(?P<rest>.*)$")


@dataclass(frozen=True)
class Promise:
    """Describe a promised name: the heading it stands under, and the module that it is imported from."""

    section: str
    module: str
    name: str

    @property
    def at(self) -> str:
        """Return where its page stands on the site."""
        return f"api/{self.module}.{self.name}.md"


@cache
def promises() -> tuple[Promise, ...]:
    """Return the names of docs/api.md, in its order; a row without a module continues the one above."""
    found, section, module = [], "", ""
    for line in (ROOT / "docs" / "api.md").read_text(encoding="utf-8").splitlines():
        if line.startswith("## "):
            section = line.removeprefix("## ")
        elif row := ROW.match(line):
            module = row["module"] or module
            found += [Promise(section, module, name) for name in re.findall(r"`(\w+)`", row["names"])]
    return tuple(found)


def navigation() -> list[dict[str, object]]:
    """Return the pages by the headings of docs/api.md."""
    sections: dict[str, list[dict[str, str]]] = {}
    for each in promises():
        sections.setdefault(each.section, []).append({each.name: each.at})
    return [{section: pages} for section, pages in sections.items()]


def page(promise: Promise) -> str:
    """Return the page of a name; mkdocstrings puts its docstring and its members there."""
    try:
        found = getattr(import_module(promise.module), promise.name)
    except ImportError as error:
        # Its library is not installed: the docstring is read from the files all the same.
        defined, file = promise.module, Path(*promise.module.split(".")).with_suffix(".py")
        if not (ROOT / file).exists():
            raise ImportError(f"{promise.module} promises {promise.name}, which cannot be found") from error
    else:
        # A plain object, such as a dict of algorithms, says neither.
        has_home = hasattr(found, "__qualname__") and hasattr(found, "__module__")
        defined = found.__module__ if has_home else promise.module
        file = getsourcefile(unwrap(found) if has_home else import_module(promise.module))
    file = (ROOT / str(file)).relative_to(ROOT).as_posix()
    return (
        f"---\ntitle: {promise.name}\n---\n"
        f"::: {defined}.{promise.name}\n\n"
        f"```python\nfrom {promise.module} import {promise.name}\n```\n\n"
        f"Written in [`{file}`](../{address(file)}). All promised names: [API](../api.md).\n"
    )


def linked(text: str) -> str:
    """Return the text of docs/api.md in which every name leads to its page."""
    pages = {(each.module, each.name): each.at for each in promises()}
    lines, module = [], ""
    for line in text.splitlines():
        if row := ROW.match(line):
            module = row["module"] or module
            named = {each: pages[module, each] for each in re.findall(r"`(\w+)`", row["names"])}
            names = ", ".join(f"[`{name}`]({at})" for name, at in named.items())
            line = f"{line[: row.start('names')]}{names} |{row['rest']}"
        lines.append(line)
    return "\n".join(lines) + "\n"


def sources() -> list[str]:
    """Return the files that the pages of the names lead to."""
    return sorted({file for each in promises() for file in re.findall(r"`([\w/]+\.py)`", page(each))})
