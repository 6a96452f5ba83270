"""The layers of the design: what may import what, and how long a file may be."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LAYERS = [
    {"_registration", "errors"},
    {"_checks", "specs"},
    {"estimates", "_io", "_arguments"},
    {"world_model"},
    {"_batches"},
    {"embodiments", "rewards", "envs"},
    {"data"},
    {"prophet", "sims", "testing"},
    {"checkpoint"},
    {"train", "evaluation", "interop"},
    {"factory"},
    {"serve"},
    {"cli"},
    {"__main__"},
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
VISIBLE_TO_ALGORITHMS = {
    "prophet_gym",
    "prophet_gym.specs",
    "prophet_gym.world_model",
    "prophet_gym.data",
    "prophet_gym.errors",
    "prophet_gym._checks",
    "prophet_gym.estimates",
    "prophet_gym._io",
}
MAX_LINES, MAX_FUNCTION, MAX_FILES = 400, 60, 14


def files(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def imports(source: str) -> set[str]:
    """Dotted names of all imported modules, wherever in the file; `from a import b` gives `a.b`."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def part(module: str) -> str | None:
    """`prophet_gym.envs._initial_states` -> `envs`."""
    names = module.split(".")
    return names[1] if names[0] == "prophet_gym" and len(names) > 1 else None


def forbidden(importer: str, source: str) -> list[str]:
    """Imports of another part of prophet_gym that is not on a lower layer."""
    parts = {part(module) for module in imports(source)} - {None, importer}
    return sorted(name for name in parts if name in LEVEL and LEVEL[name] >= LEVEL[importer])


def test_the_rule_itself_finds_what_is_forbidden():
    assert forbidden("envs", "from prophet_gym.prophet import SmallProphet") == ["prophet"]
    assert forbidden("envs", "def f():\n    from prophet_gym import rewards") == ["rewards"]
    assert forbidden("envs", "import prophet_gym.envs._initial_states, prophet_gym.specs") == []


@pytest.mark.parametrize("path", files("prophet_gym"), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_down_the_layers(path):
    names = path.relative_to(ROOT / "prophet_gym").with_suffix("").parts
    if names == ("__init__",):
        assert {part(module) for module in imports(path.read_text())} <= {"_registration", None}
        return
    assert names[0] in LEVEL, f"{names[0]} has no layer; add it to the design"
    assert forbidden(names[0], path.read_text()) == []
    assert not any(module.startswith("prophrl_algos") for module in imports(path.read_text()))


@pytest.mark.parametrize("path", files("prophrl_algos"), ids=lambda p: str(p.relative_to(ROOT)))
def test_the_algorithms_see_only_the_contracts(path):
    if path.relative_to(ROOT / "prophrl_algos").parts[0] in ("cli", "cli.py"):
        return
    seen = {module for module in imports(path.read_text()) if module.split(".")[0] == "prophet_gym"}
    assert {".".join(module.split(".")[:2]) for module in seen} <= VISIBLE_TO_ALGORITHMS


@pytest.mark.parametrize(
    "path",
    [path for folder in ("prophet_gym", "prophrl_algos", "tests", "experiments") for path in files(folder)],
    ids=lambda p: str(p.relative_to(ROOT)),
)
def test_files_are_short(path):
    lines = len(path.read_text().splitlines())
    assert lines <= MAX_LINES, f"{path.name} has {lines} lines, at most {MAX_LINES}: split it by what it does"


@pytest.mark.parametrize("package", ["prophet_gym", "prophrl_algos"])
def test_functions_are_short(package):
    long = [
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"
        for path in files(package)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (node.end_lineno or node.lineno) - node.lineno >= MAX_FUNCTION
    ]
    assert long == [], f"a function has at most {MAX_FUNCTION} lines"


def test_folders_are_small():
    crowded = {
        str(folder.relative_to(ROOT)): len(names)
        for package in ("prophet_gym", "prophrl_algos", "tests")
        for folder in {path.parent for path in files(package)}
        if len(names := list(folder.glob("*.py"))) > MAX_FILES
    }
    assert crowded == {}, f"a folder has at most {MAX_FILES} files side by side"


def test_importing_the_package_loads_nothing_heavy():
    heavy = ["torch", "diffusers", "cv2", "mujoco", "transformers"]
    code = f"import prophet_gym, sys; print([name for name in {heavy} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert result.stdout.strip() == "[]"


def test_every_warning_names_the_line_of_the_caller():
    elsewhere = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for package in ("prophet_gym", "prophrl_algos")
        for path in files(package)
        for node in ast.walk(ast.parse(path.read_text()))
        if path.name != "_checks.py" and ast.unparse(node) in ("warnings.warn", "gym.logger.warn", "logger.warn")
    ]
    assert elsewhere == [], "prophet_gym._checks.warn does it"
