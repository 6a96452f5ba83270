"""`make release` finds what must not be released, on repositories of a few files."""

import re
import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest

from benchmarks.release import __main__ as release
from benchmarks.release import archives
from benchmarks.release.changelog import sections

ROOT = Path(__file__).parents[2]
PYPROJECT = '[project]\nname = "prophet-gym"\nversion = "0.2.0"\ndependencies = ["torch>=2.4,<3", "numpy>=1.26,<3"]\n'
CHANGELOG = (
    "# Changelog\n\n## 0.2.0 - 2026-12-01\n\n### Added\n- A thing.\n\n## 0.1.0 - 2026-01-01\n\n### Added\n- All.\n"
)
FILES = {
    "pyproject.toml": PYPROJECT,
    "CHANGELOG.md": CHANGELOG,
    "CITATION.cff": "cff-version: 1.2.0\nversion: 0.2.0\n",
    "README.md": "version = {0.2.0}",
    "requirements/core.txt": "numpy==2.0.0 \\\n    --hash=sha256:00\n",
    "requirements/test.txt": "",
    "requirements/torch.txt": "torch==2.13.0\n",
}


@pytest.fixture
def root(tmp_path):
    """A repository in which nothing is wrong."""
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / ".ci").mkdir()
    shutil.copy(ROOT / ".ci" / "newer.py", tmp_path / ".ci")
    for words in (["init", "-q", "-b", "main"], ["config", "user.name", "me"], ["config", "user.email", "me@here"]):
        subprocess.run(["git", *words], cwd=tmp_path, check=True)
    commit(tmp_path)
    return tmp_path


def commit(root):
    subprocess.run(["git", "add", "-A"], cwd=root, check=True)
    subprocess.run(["git", "commit", "-qm", "a"], cwd=root, check=True)


def problems(root):
    return [*release.tree_problems(root), *release.version_problems(root), *release.lock_problems(root)]


def test_a_repository_in_order_is_tagged_with_its_notes(root):
    assert problems(root) == []
    assert release.to_do(root) == []
    assert release.tag(root) == "v0.2.0"
    told = release.git(root, "for-each-ref", "refs/tags/v0.2.0", "--format=%(contents)")
    assert told == "prophet-gym 0.2.0\n\n### Added\n- A thing."
    (problem,) = problems(root)
    assert problem.startswith("the tag v0.2.0 exists already")


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        ("README.md", "0.2.0", "0.1.0", "README.md must cite version = {0.2.0}"),
        ("CITATION.cff", "0.2.0", "0.1.0", "CITATION.cff must say version: 0.2.0, as pyproject.toml, and says 0.1.0"),
        (
            "CHANGELOG.md",
            "## 0.2.0",
            "## 0.3.0",
            "must begin with `## 0.2.0 - DATE` or `## Unreleased`, and with 0.3.0",
        ),
        ("CHANGELOG.md", "- A thing.", "", "CHANGELOG.md, 0.2.0: must list what changes"),
        ("CHANGELOG.md", "2026-12-01", "soon", "`## 0.2.0 - YEAR-MONTH-DAY`, got the day 'soon'"),
        ("CHANGELOG.md", "### Added\n- A", "### New\n- A", "headings are Added, .*, got 'New'"),
        ("CHANGELOG.md", "## 0.1.0", "## 0.2.0", "the version must be above 0.2.0, the last in CHANGELOG.md"),
        ("requirements/core.txt", "numpy==2.0.0", "numpy==1.0.0", "must have numpy>=1.26,<3, and has 1.0.0: run make"),
        ("requirements/core.txt", "numpy", "scipy", "must have numpy>=1.26,<3, and has None"),
        ("requirements/torch.txt", "2.13.0", "3.0.0", "must have torch>=2.4,<3, and has 3.0.0"),
        (
            "requirements/test.txt",
            "",
            "pytest==0.1 \\\n",
            "the tests must have run on the lock, and installed is pytest",
        ),
    ],
)
def test_what_must_not_be_released_is_said(root, name, old, new, message):
    text = (root / name).read_text()
    assert old in text
    (root / name).write_text(text.replace(old, new, 1))
    commit(root)
    found = problems(root)
    assert len(found) == 1
    assert re.search(message, found[0])


def test_another_branch_and_files_that_are_not_committed_are_said(root):
    subprocess.run(["git", "checkout", "-qb", "mine"], cwd=root, check=True)
    (root / "new").write_text("")
    first, second = release.tree_problems(root)
    assert first == "everything must be committed, and 1 files are not, such as new"
    assert second.startswith("a release is made on main, and this is mine")


def test_a_detached_head_and_a_shallow_clone_are_said(root, tmp_path_factory):
    subprocess.run(["git", "checkout", "-q", "--detach"], cwd=root, check=True)
    (problem,) = release.tree_problems(root)
    assert problem.startswith("a release is made on main, and this is no branch")
    subprocess.run(["git", "checkout", "-q", "main"], cwd=root, check=True)
    (root / "README.md").write_text("version = {0.2.0}, again")
    commit(root)
    shallow = tmp_path_factory.mktemp("clones") / "shallow"
    subprocess.run(["git", "clone", "-q", "--depth", "1", f"file://{root}", shallow], check=True)
    (problem,) = release.tree_problems(shallow)
    assert problem.startswith("the clone must have all tags, and is a shallow one")


def test_a_release_needs_a_clone_and_git(root, tmp_path, tmp_path_factory, monkeypatch):
    release.require_clone(root)
    (root / "unpacked").mkdir()
    with pytest.raises(SystemExit, match="unpacked lies in another"):
        release.require_clone(root / "unpacked")
    with pytest.raises(SystemExit, match="cannot be read as one"):
        release.require_clone(tmp_path_factory.mktemp("sdist"))
    monkeypatch.setenv("PATH", str(tmp_path / "requirements"))
    with pytest.raises(SystemExit, match=r"cannot be read as one: .*'git'"):
        release.require_clone(root)


def test_what_is_unreleased_still_needs_its_heading(root):
    path = root / "CHANGELOG.md"
    path.write_text(path.read_text().replace("## 0.2.0 - 2026-12-01", "## Unreleased"))
    commit(root)
    assert problems(root) == []
    assert release.to_do(root) == ["rename `## Unreleased` of CHANGELOG.md to `## 0.2.0 - DATE`"]


def test_our_own_changelog_version_and_lock_are_in_order():
    assert list(release.version_problems(ROOT)) == []
    assert [each for each in release.lock_problems(ROOT) if "installed is" not in each] == []


def test_a_changelog_without_sections_is_refused():
    with pytest.raises(ValueError, match="must have a section"):
        sections("# Changelog\n")
    assert [each.version for each in sections("## [Unreleased]\n\n## [0.1.0] - 2026-01-01\n")] == [
        "Unreleased",
        "0.1.0",
    ]


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("release")
    return archives.build(archives.export(folder / "source"), folder / "dist")


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="the archives are those of a commit")
def test_the_archives_of_this_commit_hold_what_they_must(built):
    sdist, wheel = built
    assert list(archives.wheel_problems(wheel)) == []
    assert list(archives.sdist_problems(sdist)) == []
    cards = {name for name in archives.files_of(wheel) if name.startswith("prophet_gym/model_cards/")}
    assert cards == {f"prophet_gym/model_cards/{path.name}" for path in (ROOT / "model_cards").iterdir()}


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="the archives are those of a commit")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("outputs/demo.mp4", "outputs/demo.mp4 does not belong into a wheel"),
        ("prophet_gym/tests/test_a.py", "prophet_gym/tests/test_a.py does not belong"),
        ("prophet_gym/checkpoints/other/prophet.json", "must have prophet_gym/model_cards/other.md"),
        ("prophrl_algos/vla/other/model.safetensors", "must have prophet_gym/model_cards/other.md"),
        ("prophet_gym/checkpoints/libero_small/last.pt", "last.pt may run code when it is read"),
    ],
)
def test_what_does_not_belong_into_a_wheel_is_found(built, name, message):
    (problem,) = archives.wheel_problems(built[1], [*archives.files_of(built[1]), name])
    assert message in problem


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="the archives are those of a commit")
def test_metadata_that_an_index_would_refuse_are_said(built, tmp_path):
    wheel = tmp_path / built[1].name
    with zipfile.ZipFile(built[1]) as old, zipfile.ZipFile(wheel, "w") as new:
        for each in old.infolist():
            data = old.read(each)
            if each.filename.endswith("METADATA"):
                data = data.replace(b"Requires-Python: >=3.11", b"Requires-Python: 3.11 or so")
            new.writestr(each.filename, data)
    problems = list(archives.wheel_problems(wheel))
    assert problems
    assert any("requires-python" in each for each in problems)
