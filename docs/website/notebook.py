"""Turn a notebook into Markdown: its texts as they are, its code and what the code showed."""

import json
from collections.abc import Iterator
from pathlib import Path

IMAGES = ("image/png", "image/jpeg")
WIDGET = "application/vnd.jupyter.widget-view+json"


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


def _shown(cell: dict) -> Iterator[str]:
    """Yield the outputs of a cell: text, images, videos; no bar of progress, no warning."""
    for output in cell["outputs"]:
        data = output.get("data", {})
        if WIDGET in data or output.get("name") == "stderr":
            continue
        image = next((kind for kind in IMAGES if kind in data), None)
        if image:
            yield f'<img alt="" src="data:{image};base64,{"".join("".join(data[image]).split())}">'
        elif "text/html" in data:
            yield "".join(data["text/html"])
        else:
            text = "".join(output.get("text") or data.get("text/plain", ""))
            yield f"```text\n{text.rstrip()}\n```"
