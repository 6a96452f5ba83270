"""No folder is crowded, every benchmark is listed, and the citation is valid."""

import tomllib
from pathlib import Path

import pytest
import yaml

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
    scripts = {path.stem for path in (ROOT / "benchmarks").glob("*.py")}
    assert {
        name for name in scripts if f"benchmarks/{name}.py" not in page and f"benchmarks.{name} " not in page
    } == set()
    results = [path.name for path in (ROOT / "benchmarks" / "results").glob("*.json")]
    assert [name for name in results if f"`{name}`" not in page] == []


def test_the_citation_names_this_version_and_the_paper():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert citation["cff-version"] == "1.2.0"
    assert [citation[key] for key in ("title", "version", "license")] == [
        project[key] for key in ("name", "version", "license")
    ]
    (paper,) = citation["references"]
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert paper["title"] in readme
    assert all(f"{author['given-names']} {author['family-names']}" in readme for author in paper["authors"])
    assert len(paper["authors"]) == 5
    (ours,) = citation["authors"]
    assert f"title  = {{{project['name']}}}, version = {{{project['version']}}}" in readme
    assert f"{{{ours['name']}}}" in readme.replace("\\_", "_")
