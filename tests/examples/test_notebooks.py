"""Every notebook runs from top to bottom, and shows what is stored in it, but for numbers."""

import json
import re

import pytest

from docs.website.notebook import NOTEBOOKS, WIDGET, executed, markdown
from prophet_gym.checkpoint import bundled_checkpoints

PATHS = sorted(NOTEBOOKS.glob("*.ipynb"))
MAX_BYTES = 150_000
BAR = """
from prophet_gym._io.progress import progress
with progress(None, "train", total=3, unit="update") as bar:
    bar.update(3)
"""
every = pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)


def cells(path):
    return json.loads(path.read_text(encoding="utf-8"))["cells"]


def shown(cell) -> list[tuple]:
    """What a cell shows a reader: kinds of output, and texts without numbers."""
    return [
        (output["output_type"], sorted(output.get("data", {})), text_of(output)) for output in cell.get("outputs", [])
    ]


def text_of(output) -> str:
    return " ".join(re.sub(r"-?[\d.,]+", "#", "".join(output.get("text", ""))).split())


@pytest.fixture
def work(tmp_path, monkeypatch):
    """An empty folder to run in, with nothing of the user's own settings; it must stay empty."""
    pytest.importorskip("nbclient", reason="the extra notebook is not installed")
    for name in ("JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR", "IPYTHONDIR"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    folder = tmp_path / "work"
    folder.mkdir()
    yield folder
    assert list(folder.iterdir()) == []


@pytest.mark.slow
@pytest.mark.skipif(not bundled_checkpoints().get("libero_small"), reason="no checkpoint is bundled")
@every
def test_a_notebook_runs_and_shows_what_is_stored(path, work):
    again = executed(path, work)["cells"]
    assert [shown(cell) for cell in again] == [shown(cell) for cell in cells(path)]


def test_progress_is_a_widget_in_a_notebook(work):
    from nbclient import NotebookClient
    from nbformat import v4

    notebook = v4.new_notebook(cells=[v4.new_code_cell(BAR)])
    (cell,) = NotebookClient(notebook, kernel_name="python3").execute().cells
    assert [WIDGET in output.get("data", {}) for output in cell.outputs if output.get("name") != "stderr"] == [True]


@every
def test_a_stored_notebook_is_small_and_names_no_machine(path):
    text = path.read_text(encoding="utf-8")
    assert len(text) < MAX_BYTES
    assert re.findall(r"[\" ](?:/home|/root|/tmp|/work|/Users|/opt|C:\\\\)[^\"\s]*", text) == []
    assert all(kind != "error" for cell in cells(path) for kind, *_ in shown(cell))


@every
def test_a_page_of_the_site_has_all_of_a_notebook(path):
    page = markdown(path)
    assert all("".join(cell["source"]).partition("\n")[2] in page for cell in cells(path))
    kinds = [kind for cell in cells(path) for _, data, _ in shown(cell) for kind in data]
    assert page.count('<img alt="" src="data:image/') == sum(kind.startswith("image/") for kind in kinds) > 0
    assert page.count("<video") == kinds.count("text/html")
