"""Every notebook runs from top to bottom, and shows what is stored in it, but for numbers."""

import json
import re
from pathlib import Path

import pytest

from docs.website.notebook import markdown
from prophet_gym.checkpoint import bundled_checkpoints

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "examples" / "notebooks").glob("*.ipynb"))
MAX_BYTES = 150_000
WIDGET = "application/vnd.jupyter.widget-view+json"
BAR = """
from prophrl_algos.rollout._collect import progress_bar
with progress_bar("train", 3, "update", stays=True) as bar:
    bar.update(3)
"""


def shown(cell) -> list[tuple]:
    """What a cell shows a reader: kinds of output, and texts without numbers; no bar of progress, no warning."""
    found: list[tuple] = []
    for output in cell["outputs"]:
        data = output.get("data", {})
        if output.get("name") == "stderr" or WIDGET in data:
            continue
        text = " ".join(re.sub(r"-?[\d.,]+", "#", "".join(output.get("text", ""))).split())
        if text and found and found[-1][0] == "stream":  # how a text is divided depends on when it was printed
            text = f"{found.pop()[2]} {text}"
        found.append((output["output_type"], sorted(data), text))
    return found


def executed(notebook, folder, monkeypatch):
    """Run a notebook in an empty folder, with nothing of the user's own."""
    nbclient = pytest.importorskip("nbclient", reason="the extra notebook is not installed")
    for name in ("JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR", "IPYTHONDIR"):
        monkeypatch.setenv(name, str(folder / name.lower()))
    (folder / "work").mkdir()
    resources = {"metadata": {"path": str(folder / "work")}}
    nbclient.NotebookClient(notebook, timeout=600, kernel_name="python3", resources=resources).execute()
    assert list((folder / "work").iterdir()) == []
    return notebook


@pytest.mark.slow
@pytest.mark.skipif(not bundled_checkpoints().get("libero_small"), reason="no checkpoint is bundled")
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_and_shows_what_is_stored(path, tmp_path, monkeypatch):
    nbformat = pytest.importorskip("nbformat", reason="the extra notebook is not installed")
    notebook = executed(nbformat.read(path, as_version=4), tmp_path, monkeypatch)
    stored = json.loads(path.read_text(encoding="utf-8"))["cells"]
    code = [(old, new) for old, new in zip(stored, notebook.cells, strict=True) if old["cell_type"] == "code"]
    assert [shown(new) for _, new in code] == [shown(old) for old, _ in code]


def test_progress_is_a_widget_in_a_notebook(tmp_path, monkeypatch):
    v4 = pytest.importorskip("nbformat.v4", reason="the extra notebook is not installed")
    (cell,) = executed(v4.new_notebook(cells=[v4.new_code_cell(BAR)]), tmp_path, monkeypatch).cells
    assert [WIDGET in output.get("data", {}) for output in cell.outputs if output.get("name") != "stderr"] == [True]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_stored_notebook_is_small_and_names_no_machine(path):
    text = path.read_text(encoding="utf-8")
    assert len(text) < MAX_BYTES
    assert re.findall(r"[\" ](?:/home|/root|/tmp|/work|/Users|/opt|C:\\\\)[^\"\s]*", text) == []
    cells = json.loads(text)["cells"]
    assert all("error" not in kinds for cell in cells if cell["cell_type"] == "code" for kinds, *_ in shown(cell))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_page_of_the_site_has_all_of_a_notebook(path):
    page = markdown(path)
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    assert all("".join(cell["source"]).partition("\n")[2] in page for cell in cells)
    outputs = [shown(cell) for cell in cells if cell["cell_type"] == "code"]
    kinds = [kind for cell in outputs for _, data, _ in cell for kind in data]
    assert page.count('<img alt="" src="data:image/') == sum(kind.startswith("image/") for kind in kinds) > 0
    assert page.count("<video") == kinds.count("text/html")
