"""Run the notebooks and store what they show; turn one into a page: its texts, its code and what the code showed.

python -m docs.website.notebook     # after a change: runs all of examples/notebooks and stores their outputs
"""

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

NOTEBOOKS = Path(__file__).parents[2] / "examples" / "notebooks"
IMAGES = ("image/png", "image/jpeg")
WIDGET = "application/vnd.jupyter.widget-view+json"


def executed(path: Path, folder: Path) -> dict[str, Any]:
    """Run a notebook in a folder and return it as it is stored: without warnings, bars of progress and times."""
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(path, as_version=4)
    about = {"resources": {"metadata": {"path": str(folder)}}, "record_timing": False, "store_widget_state": False}
    NotebookClient(notebook, timeout=600, kernel_name="python3", **about).execute()
    for cell in notebook.cells:
        cell.metadata.clear()
        if cell.cell_type == "code":
            cell.outputs = _kept(cell.outputs)
    notebook.metadata = {name: notebook.metadata[name] for name in ("kernelspec", "language_info")}
    notebook.metadata["language_info"] = {"name": "python"}
    return notebook


def markdown(path: Path) -> str:
    """Return a notebook as the text of a page, with a line that says where the notebook itself is."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    first = "".join(cells[0]["source"])
    title, _, rest = first.partition("\n")
    parts = [title, f"*This page is the notebook `examples/notebooks/{path.name}`, as it ran last.*", rest]
    for cell in cells[1:]:
        source = "".join(cell["source"])
        parts += [source] if cell["cell_type"] == "markdown" else [f"```python\n{source}\n```", *_shown(cell)]
    return "\n\n".join(parts) + "\n"


def _kept(outputs: list) -> list:
    """Return the outputs that are stored; texts that were printed one after the other are one."""
    kept: list = []
    for output in outputs:
        if output.get("name") == "stderr" or WIDGET in output.get("data", {}):
            continue
        if kept and output.output_type == kept[-1].output_type == "stream":
            kept[-1].text += output.text
        else:
            kept.append(output)
    return kept


def _shown(cell: dict) -> Iterator[str]:
    """Yield the outputs of a cell: text, images, videos."""
    for output in cell["outputs"]:
        data = output.get("data", {})
        image = next((kind for kind in IMAGES if kind in data), None)
        if image:
            yield f'<img alt="" src="data:{image};base64,{"".join("".join(data[image]).split())}">'
        elif "text/html" in data:
            yield "".join(data["text/html"])
        else:
            text = "".join(output.get("text") or data.get("text/plain", ""))
            yield f"```text\n{text.rstrip()}\n```"


if __name__ == "__main__":
    import nbformat

    for each in sorted(NOTEBOOKS.glob("*.ipynb")):
        with tempfile.TemporaryDirectory() as work:
            nbformat.write(executed(each, Path(work)), each)
        print(f"{each.name}: {each.stat().st_size:,} bytes")
