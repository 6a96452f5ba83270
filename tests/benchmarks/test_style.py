"""The style table counts what it says, on sources of a few lines."""

import ast
import importlib.util
import sys
from pathlib import Path

import pytest

SOURCE = '''"""A module."""
import os  # why it is here
LIMIT: int = 3  # noqa: E501
_hidden = 4


class Thing:
    """Hold a thing."""

    @property
    def size(self):
        """The size."""

    def _private(self):
        """What it does."""

    def grow(self):
        # another comment
        def inner():
            pass


def build():
    """Build it."""
'''


@pytest.fixture(scope="module")
def style():
    path = Path(__file__).parents[2] / "benchmarks" / "style.py"
    spec = importlib.util.spec_from_file_location("style_benchmark", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["style_benchmark"] = module
    spec.loader.exec_module(module)
    return module


def test_names_comments_and_first_words_are_counted(style):
    tree = ast.parse(SOURCE)
    assert style.names_of([tree]) == (["Thing", "build"], ["LIMIT"])
    assert style.comments_of(SOURCE) == 2
    assert style.first_words([tree]) == {"what": 1, "build": 1}
    public = [getattr(node, "name", "module") for node, seen in style.definitions(tree) if seen]
    assert public == ["module", "Thing", "size", "grow", "build"]


def test_a_private_part_hides_a_module(style):
    names = ("a/b.py", "a/__init__.py", "a/__main__.py", "a/_b/c.py", "a/_b.py")
    assert [style.is_public(Path(name)) for name in names] == [True, True, False, False, False]


def test_ruff_knows_an_imperative(style):
    assert style.imperatives(["return", "returns", "the", "copy", "what"]) == {"return", "copy"}


def test_crowded_folders_are_named(style):
    files = [Path("a") / f"{number}.py" for number in range(15)] + [Path("b/c.py")]
    assert style.crowded(files) == {"a": 15}


def test_this_checkout_keeps_its_limits(style):
    files = style.files_of(style.ROOT)
    if not (style.ROOT / ".git").exists():
        pytest.skip("what is no checkout may hold other files too")
    assert style.crowded(files) == {}, f"a folder has at most {style.MAX_FILES} files side by side"
    paths = [path for path in files if path.suffix == ".py" and path.parts[0] in style.PACKAGES]
    texts = {path: (style.ROOT / path).read_text(encoding="utf-8") for path in paths}
    trees = {path: ast.parse(text) for path, text in texts.items()}
    count = sum(map(len, style.names_of([tree for path, tree in trees.items() if style.is_public(path)])))
    assert count <= 120, f"{count} public names: what nobody imports begins with an underscore"
    lines = sum(len(text.splitlines()) for text in texts.values())
    assert sum(map(style.comments_of, texts.values())) >= 12 * lines / 1000
    words = style.first_words(list(trees.values()))
    assert sum(words[word] for word in style.imperatives(sorted(words))) >= 0.95 * words.total()
