"""What the documents say is what was measured and what runs."""

import importlib.util
import re
import sys
from pathlib import Path

import imageio.v2 as imageio
import numpy as np
import pytest

from docs.blocks import documents as figures
from prophet_gym.checkpoint import bundled_checkpoints
from prophet_gym.embodiments._embodiment import start_pose

ROOT = Path(__file__).parents[2]


def script(name: str):
    """The module of `docs/images/NAME.py`."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / "images" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def test_figures_are_those_of_the_result_files():
    for document in figures.DOCUMENTS:
        text = document.read_text()
        assert figures.BLOCK.search(text), document
        assert figures.filled(text) == text, f"{document} is out of date: run `make figures`"


def test_an_unknown_block_is_refused():
    with pytest.raises(ValueError, match="no figures named 'sped'"):
        figures.filled("<!-- figures: sped -->\n<!-- /figures -->")


def test_a_block_is_replaced_by_what_was_measured(monkeypatch):
    monkeypatch.setitem(figures.BLOCKS, "speed", lambda: "7 frames/s")
    text = "a\n<!-- figures: speed -->\nold\n<!-- /figures -->\nb"
    assert figures.filled(text) == "a\n<!-- figures: speed -->\n7 frames/s\n<!-- /figures -->\nb"


def test_the_robot_of_the_embodiments_page_moves():
    code = re.search(r"```python\n(.*?)```", (ROOT / "docs" / "embodiments.md").read_text(), re.DOTALL)
    assert code is not None
    scope: dict = {}
    exec(compile(code[1], "embodiments.md", "exec"), scope)
    np.testing.assert_allclose(scope["positions"][-1, 0], [0.4 + 20 * 0.075, 0, 0.3], atol=1e-5)


def test_the_initial_state_of_the_weights_page_has_a_pose():
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "weights.md").read_text(), re.DOTALL)
    scope: dict = {}
    exec(compile(blocks[-1], "weights.md", "exec"), scope)
    assert start_pose(scope["start"], 1) is not None


def test_the_image_of_action_frames_is_what_is_drawn():
    stored = imageio.imread(ROOT / "docs" / "images" / "action_frames.png").astype(int)
    drawn = script("action_frames").sheet().astype(int)
    assert stored.shape == drawn.shape
    assert (np.abs(stored - drawn) > 8).mean() < 1e-3, "run python docs/images/action_frames.py"


def headings(page: Path) -> set[str]:
    """The anchors of a page, as GitHub names them."""
    titles = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def test_links_lead_to_files_and_headings_that_exist():
    folders = ("docs", "model_cards", "benchmarks", "experiments")
    documents = [ROOT / "README.md", *(page for folder in folders for page in ROOT.glob(f"{folder}/**/*.md"))]
    for document in documents:
        for target, anchor in re.findall(r"\]\((?!http)([^)#]*)#?([^)]*)\)", document.read_text()):
            page = document.parent / target if target else document
            assert page.exists(), f"{document.name}: {target}"
            assert not anchor or anchor in headings(page), f"{document.name}: {target}#{anchor}"


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 110


@pytest.mark.skipif(not bundled_checkpoints().get("libero_small"), reason="no checkpoint is bundled")
def test_the_first_loop_of_the_readme_shows_a_dream(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert code is not None
    assert code[1].startswith("import prophet_gym")
    scope: dict = {}
    exec(compile(code[1], "README.md", "exec"), scope)
    assert scope["info"]["frames"].shape == (8, 128, 128, 3)
    assert len(imageio.mimread(tmp_path / "dream.gif", memtest=False)) > 8 * 14
