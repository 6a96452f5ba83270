"""Recipes: which data sets a mixture is made of, pinned in a TOML file that can be read without any of the data."""

import tomllib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from prophet_gym._checks import read_options, require_known, unknown_option
from prophet_gym._io.files import read_text, reading
from prophet_gym.data._mixture import named_options, options_of, split_named

_OURS = Path(__file__).parent / "recipes"
_KEYS = ("name", "source", "facts", "silent", "sets")
PREFIX, ROOT = "recipe:", "datasets"


@dataclass(frozen=True)
class RecipeSet:
    """Describe a data set of a mixture.

    Attributes:
        name: What messages call it.
        data: The set in words, as `--data` takes it, its path below the root of all: `rlds:open_x/bridge/0.1.0,...`.
        version: The release that is meant.
        fetch: Where it is published.
        paper: What the paper says of it.
        ours: What the paper does not say of it, and is taken here.
    """

    name: str
    data: str
    version: str
    fetch: str
    paper: str
    ours: str = ""

    def below(self, root: Path) -> str:
        """Return the set in words, with the path of its files under `root`."""
        kind, place, options = split_named(self.data)
        return ",".join([f"{kind}:{root / place}", *(f"{name}={value}" for name, value in options.items())])


@dataclass(frozen=True)
class Recipe:
    """Describe a mixture: its sets, what holds for all of them, and what its source does not say."""

    name: str
    source: str
    facts: Mapping[str, str]
    silent: Mapping[str, str]
    sets: tuple[RecipeSet, ...]

    def data(self, root: Path) -> tuple[str, ...]:
        """Return the sets in words, as `--data` takes them, with their files under `root`."""
        return tuple(each.below(root) for each in self.sets)

    def missing(self, root: Path) -> list[RecipeSet]:
        """Return the sets whose files are not there."""
        return [each for each in self.sets if not (root / split_named(each.data)[1]).exists()]

    def page(self, root: Path) -> str:
        """Return a page of text: what is taken from where, whether it is there, and what is not public."""
        absent = self.missing(root)
        lines = [f"recipe {self.name}: {self.source}", ""]
        for each in self.sets:
            weight = split_named(each.data)[2].get("weight", "none, every window counts alike")
            lines += [
                f"{each.name} ({each.version}): {'missing' if each in absent else 'there'}",
                f"  --data   {each.below(root)}",
                f"  weight   {weight}",
                f"  from     {each.fetch}",
                f"  paper    {each.paper}",
                *([f"  ours     {each.ours}"] if each.ours else []),
            ]
        lines += ["", *(f"{name:<12} {text}" for name, text in self.facts.items())]
        lines += ["", "the source is silent on:", *(f"{name:<12} {text}" for name, text in self.silent.items())]
        there = len(self.sets) - len(absent)
        return "\n".join([*lines, "", f"{there} of {len(self.sets)} sets are under {root}"])


def expanded(data: Sequence[str], plans: Collection[str]) -> tuple[str, ...]:
    """Return data sets in words, with those of each `recipe:NAME` or `recipe:NAME,root=FOLDER` in its place."""
    found: list[str] = []
    for text in data:
        recipe, root = _named_recipe(text, plans) if text.startswith(PREFIX) else (None, None)
        found += [text] if recipe is None or root is None else recipe.data(root)
    return tuple(found)


def described(data: Sequence[str], plans: Collection[str]) -> str:
    """Return a page of text about data sets in words, of which none need be there."""
    pages = []
    for text in data:
        if text.startswith(PREFIX):
            recipe, root = _named_recipe(text, plans)
            pages.append(recipe.page(root))
        else:
            pages.append(f"{text}: {'there' if split_named(text)[1].exists() else 'missing'}")
    return "\n\n".join(pages)


def _named_recipe(text: str, plans: Collection[str]) -> tuple[Recipe, Path]:
    name, given = named_options(text.removeprefix(PREFIX))
    root = read_options("option of a recipe", given, {"root": str}).get("root", ROOT)
    return read_recipe(name, plans), Path(root).expanduser()


def read_recipe(name: str, plans: Collection[str]) -> Recipe:
    """Return a recipe of this package, by its name, or one in a TOML file; no data are read.

    `plans` are the ways in which actions can be read. ValueError, which names the set, for one that no reader could
    open; UnknownOptionError for a name, a kind of data set or an option that does not exist.
    """
    own = {path.stem: path for path in _OURS.glob("*.toml")}
    path = own.get(name, Path(name).expanduser())
    if not path.is_file():
        raise unknown_option("recipe (or TOML file)", name, own)
    with reading(f"{path} must be TOML", "correct it"):
        told = tomllib.loads(read_text(path))
    for key in told:
        require_known(f"key of {path}", key, _KEYS)
    sets = told.get("sets")
    if not isinstance(sets, list) or not sets or not all(isinstance(each, dict) for each in sets):
        raise ValueError(f"{path} must hold [[sets]], at least one")
    listed = tuple(_set(each, f"set {number} of {path}", plans) for number, each in enumerate(sets, 1))
    weighted = {"weight" in split_named(each.data)[2] for each in listed}
    if len(weighted) > 1:
        raise ValueError(f"{path} must give every set a weight or none of them")
    texts = {key: _texts(told.get(key, {}), f"{key} of {path}") for key in ("facts", "silent")}
    return Recipe(str(told.get("name", path.stem)), str(told.get("source", "")), sets=listed, **texts)


def _set(told: Mapping[str, Any], where: str, plans: Collection[str]) -> RecipeSet:
    known = [field.name for field in fields(RecipeSet)]
    for key in told:
        require_known(f"key of {where}", key, known)
    absent = [key for key in known if key not in told and key != "ours"]
    if absent:
        raise ValueError(f"{where} must state {', '.join(known)}; {', '.join(absent)} missing")
    found = RecipeSet(**_texts(told, where))
    kind, place, options = split_named(found.data)
    if kind is None or place.is_absolute():
        raise ValueError(f"data of {where} must be KIND:PATH below the root of all sets, is {found.data!r}")
    # A file of camera matrices is read when training begins: a recipe is read without any data.
    readers = {name: str if name == "calibration" else read for name, read in options_of(kind).items()}
    read_options(f"option of {where}", options, readers)
    if options.get("actions", next(iter(plans))) not in plans:
        raise unknown_option(f"way of reading actions of {where}", options["actions"], plans)
    return found


def _texts(told: object, where: str) -> dict[str, Any]:
    if not isinstance(told, dict) or not all(isinstance(value, str) for value in told.values()):
        raise ValueError(f"{where} must map names to texts, is {told!r}")
    return told
