"""The page of promised names says what is there, and is short enough to keep."""

import re
from importlib import import_module
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
MOST_NAMES, MOST_WORDS = 90, 15


def promised() -> list[tuple[str, str]]:
    """Return module and name of each name on the page; a row without a module continues the one above."""
    found, module = [], ""
    for line in (DOCS / "api.md").read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")] if line.startswith("|") else []
        if len(cells) < 2 or not re.search("`", cells[1]):
            continue
        module = cells[0].strip("`") or module
        found += [(module, name) for name in re.findall(r"`(\w+)`", cells[1])]
    return found


@pytest.mark.parametrize(("module", "name"), promised())
def test_a_promised_name_is_there_and_says_what_it_is(module, name):
    try:
        found = getattr(import_module(module), name)
    except ImportError as error:
        pytest.skip(str(error))  # an optional library is not installed
    assert not any(part.startswith("_") for part in module.split("."))
    assert found.__doc__


def test_as_many_are_promised_as_can_be_kept():
    names = promised()
    assert len(set(names)) == len(names) <= MOST_NAMES


def test_the_glossary_is_short():
    rows = re.findall(r"(?m)^\| (?!word|---)", (DOCS / "glossary.md").read_text(encoding="utf-8"))
    assert len(rows) <= MOST_WORDS
