"""The tree: no crowded folder, and every benchmark listed."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MAX_FILES = 14
FOLDERS = [
    folder
    for name in ("benchmarks", "docs", "examples", "experiments", "model_cards")
    for folder in (ROOT / name, *(ROOT / name).rglob("*/"))
    if folder.is_dir() and folder.name != "__pycache__"
]


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: str(folder.relative_to(ROOT)))
def test_no_folder_is_crowded(folder):
    names = [path.name for path in folder.iterdir() if path.is_file() and not path.name.startswith(".")]
    assert len(names) <= MAX_FILES, f"{folder} has {len(names)} files, at most {MAX_FILES}: sort them by what they are"


def test_every_benchmark_is_listed_with_its_last_result():
    page = (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8")
    assert [path.name for path in (ROOT / "benchmarks").glob("*.py") if f"benchmarks/{path.name}" not in page] == []
    results = [path.name for path in (ROOT / "benchmarks" / "results").glob("*.json")]
    assert [name for name in results if f"`{name}`" not in page] == []
