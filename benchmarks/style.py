"""Measure a checkout against the house style.

    python benchmarks/style.py
    python benchmarks/style.py --root OTHER --name before --json benchmarks/results/style.json

Lines, names, docstrings, comments and command-line options are those of the two packages; folders are those of the
whole checkout. A docstring of a function or method begins with an imperative verb if ruff's D401, asked about the word
and about its third person, knows it as one, or if `VERBS` lists it.
"""

import ast
import io
import json
import os
import subprocess
import sys
import tempfile
import tokenize
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import tyro

ROOT = Path(__file__).parents[1]
PACKAGES = ("prophet_gym", "prophrl_algos")
MAX_FUNCTION, MAX_FILES = 60, 14
MARKS = ("noqa", "pyright:", "type:", "fmt:", "pragma:")
"""Comments that tools read."""
VERBS = """
adapt align answer ask assemble augment average begin blend bootstrap bring claim clip clone collate concatenate
continue crop cut denoise detach discard draw dream embed enlarge estimate evaluate exchange film fit follow forget
freeze go gather integrate interpolate keep learn leave let measure normalize offload pad paint predict project rank
reconstruct refuse rescale resample resize resolve resume rotate round say score see settle shift silence slice solve
sort stack standardize step stop summarize teach tell tokenize train turn undo unmirror unpack wait warn weight
"""
"""Imperatives that ruff's list of verbs may lack."""
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
# Counts what tyro makes of the arguments of each command.
OPTIONS = """
import importlib, json, tyro
found = {}
for module, program in (("prophet_gym.cli.main", "prophet"), ("prophrl_algos.cli", "prophrl")):
    for name, command in importlib.import_module(module).COMMANDS.items():
        actions = tyro.extras.get_parser(importlib.import_module(command.module).Args)._actions
        found[program + " " + name] = sum(bool(each.option_strings) and each.dest != "help" for each in actions)
print(json.dumps(found))
"""


@dataclass(frozen=True)
class Args:
    """Measure a checkout."""

    root: Path = ROOT
    """Measure this checkout."""
    name: str = "now"
    """Under which the report is stored."""
    json: Path | None = None
    """Add the report to this file under its name; those of other names stay."""
    words: bool = False
    """Also print the first words of docstrings that are not taken for imperatives."""


def definitions(tree: ast.Module) -> Iterator[tuple[ast.AST, bool]]:
    """Yield modules, classes and functions, and whether they and all that they stand in are public."""

    def walk(node: ast.AST, *, public: bool) -> Iterator[tuple[ast.AST, bool]]:
        yield node, public
        inside_function = isinstance(node, FUNCTIONS)
        for child in ast.iter_child_nodes(node):
            if isinstance(child, DOCUMENTED):
                seen = public and not inside_function and not child.name.startswith("_")
                yield from walk(child, public=seen)
            elif not isinstance(child, ast.expr):
                for found, also in walk(child, public=public):
                    if isinstance(found, DOCUMENTED):
                        yield found, also

    yield from walk(tree, public=True)


def names_of(trees: Sequence[ast.Module]) -> tuple[list[str], list[str]]:
    """Return the public classes and functions, and the public constants, that modules define."""
    defined, constants = [], []
    for node in (each for tree in trees for each in tree.body):
        if isinstance(node, (ast.ClassDef, *FUNCTIONS)):
            defined.append(node.name)
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            constants += [target.id for target in targets if isinstance(target, ast.Name)]
    return tuple([name for name in names if not name.startswith("_")] for names in (defined, constants))


def is_public(path: Path) -> bool:
    """Return whether a module's path has no private part; a package counts by its folder."""
    return not any(part.startswith("_") for part in path.with_suffix("").parts if part != "__init__")


def comments_of(text: str) -> int:
    """Count the comments that are for readers."""
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    comments = [token.string.lstrip("#! ") for token in tokens if token.type == tokenize.COMMENT]
    return sum(not comment.startswith(MARKS) for comment in comments)


def first_words(trees: Sequence[ast.Module]) -> Counter[str]:
    """Count the first words of the docstrings of functions and methods; D401 leaves out properties, and so do we."""
    words: Counter[str] = Counter()
    for tree in trees:
        for node, _ in definitions(tree):
            if not isinstance(node, FUNCTIONS) or any("property" in ast.unparse(each) for each in node.decorator_list):
                continue
            text = ast.get_docstring(node)
            if text and text.split():
                words[text.split()[0].strip("`.,:;\"'").lower()] += 1
    return words


def third_person(word: str) -> str:
    """Return a verb as it stands after `it`."""
    if word.endswith(("s", "x", "z", "ch", "sh", "o")):
        return f"{word}es"
    return f"{word[:-1]}ies" if word.endswith("y") and word[-2:-1] not in "aeiou" else f"{word}s"


def imperatives(words: Sequence[str]) -> set[str]:
    """Ask ruff which words are imperatives: it lets the word pass and complains of its third person."""
    asked = [form for word in words for form in (word, third_person(word))]
    source = "".join(f'def f{n}():\n    """{form.capitalize()} it."""\n' for n, form in enumerate(asked))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "words.py"
        path.write_text(source, encoding="utf-8")
        ruff = [sys.executable, "-m", "ruff", "check", "--isolated", "--select", "D401", "--output-format", "json"]
        told = subprocess.run([*ruff, str(path)], capture_output=True, text=True, encoding="utf-8", check=False)
    flagged = {asked[(problem["location"]["row"] - 1) // 2] for problem in json.loads(told.stdout)}
    return {word for word in words if word not in flagged and third_person(word) in flagged} | (
        {*VERBS.split()} & {*words}
    )


def options_of(root: Path) -> dict[str, int]:
    """Count the options of every command."""
    env = os.environ | {"PYTHONPATH": str(root)}
    told = subprocess.run(
        [sys.executable, "-c", OPTIONS], capture_output=True, text=True, encoding="utf-8", check=True, env=env, cwd=root
    )
    return json.loads(told.stdout.splitlines()[-1])


def files_of(root: Path) -> list[Path]:
    """Return the tracked files of a checkout; all files where it is no repository."""
    if (root / ".git").exists():
        told = subprocess.run(
            ["git", "ls-files"], cwd=root, capture_output=True, text=True, encoding="utf-8", check=True
        )
        return [Path(line) for line in told.stdout.splitlines() if (root / line).is_file()]
    return [path.relative_to(root) for path in root.rglob("*") if path.is_file() and "__pycache__" not in path.parts]


def crowded(files: Sequence[Path]) -> dict[str, int]:
    """Return the folders that hold more files side by side than they should."""
    counts = Counter(str(path.parent) for path in files)
    return {folder: count for folder, count in sorted(counts.items()) if count > MAX_FILES}


def is_test(path: Path) -> bool:
    """Return whether a file is a test or helps tests."""
    return path.suffix == ".py" and ("tests" in path.parts or path.name == "conftest.py")


def measure(root: Path) -> tuple[dict[str, Any], Counter[str]]:
    """Return the style table of a checkout, and the first words that are not imperatives."""
    files = files_of(root)
    sources = [path for path in files if path.suffix == ".py" and path.parts[0] in PACKAGES]
    texts = {path: (root / path).read_text(encoding="utf-8") for path in sources}
    lines = {path: len(text.splitlines()) for path, text in texts.items()}
    trees = {path: ast.parse(text) for path, text in texts.items()}
    found = [each for tree in trees.values() for each in definitions(tree)]
    public = [node for node, seen in found if seen]
    defined, constants = names_of([tree for path, tree in trees.items() if is_public(path)])
    words = first_words(list(trees.values()))
    verbs = imperatives(sorted(words))
    total, largest = sum(lines.values()), max(lines, key=lambda path: lines[path])
    options = options_of(root)
    test_lines = sum(len((root / path).read_text(encoding="utf-8").splitlines()) for path in files if is_test(path))
    report = {
        "files": len(sources),
        "lines": total,
        "median_file": median(lines.values()),
        "largest_file": {"path": str(largest), "lines": lines[largest]},
        "functions_over_60_lines": sum(
            node.end_lineno - node.lineno >= MAX_FUNCTION for node, _ in found if isinstance(node, FUNCTIONS)
        ),
        "docstrings_of_functions": words.total(),
        "imperative_share": round(sum(words[word] for word in verbs) / words.total(), 3),
        "docstring_coverage": round(sum(ast.get_docstring(node) is not None for node in public) / len(public), 3),
        "comments_per_1000_lines": round(1000 * sum(map(comments_of, texts.values())) / total, 1),
        "public_classes_and_functions": len(defined),
        "public_names": len(defined) + len(constants),
        "folders_over_14_files": crowded(files),
        "options": sum(options.values()),
        "options_of_commands": options,
        "tests_by_source": round(test_lines / total, 2),
    }
    return report, Counter({word: count for word, count in words.items() if word not in verbs})


def main(args: Args) -> None:
    """Print the report and store it."""
    report, rest = measure(args.root)
    print(json.dumps(report, indent=1))
    if args.words:
        print(", ".join(f"{word} {count}" for word, count in rest.most_common()))
    if args.json is not None:
        known = json.loads(args.json.read_text(encoding="utf-8")) if args.json.is_file() else {}
        args.json.write_text(json.dumps(known | {args.name: report}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(tyro.cli(Args))
