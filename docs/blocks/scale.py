"""What more GPUs give: a block of figures."""

from benchmarks.workers.scale import HEADER, cells
from docs.blocks.common import load, markdown_table


def scale() -> str:
    """Return what the simulation predicts, and how far it is from measured runs."""
    found = load("workers/scale.json")
    if found is None:
        return "Not measured yet: `python -m benchmarks.workers.scale --json benchmarks/results/workers/scale.json`."
    phases = found["phases"]
    told = (
        f"{found['groups']} groups an update, {phases['group']:g} s each on one GPU; an update takes "
        f"{phases['update']:g} s on one, of which {phases['serial']:g} s do not shrink, and weights "
        f"{phases['weights']:g} s. `python -m benchmarks.workers.scale --json benchmarks/results/workers/scale.json`."
    )
    parts = [markdown_table(HEADER, [cells(row) for row in found["predicted"]]), told]
    if found.get("checked"):
        rows = [
            [
                f"{run['workers']}, {run['staleness']}",
                *(f"{run[name]:.2f}" for name in ("measured", "simulated")),
                f"{run['simulated'] / run['measured'] - 1:+.1%}",
            ]
            for run in found["checked"]
        ]
        parts += [
            "Beside runs of this machine, whose groups and updates sleep for a known time "
            "(`python -m benchmarks.workers.scaling --json benchmarks/results/workers/scaling.json`):",
            markdown_table(["workers, staleness", "measured, s per update", "simulated", "error"], rows),
        ]
    return "\n\n".join(parts)
