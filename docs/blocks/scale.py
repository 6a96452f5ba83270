"""Make the blocks about what more GPUs give, and what workers cost and survive."""

from collections.abc import Mapping
from typing import Any

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


def workers() -> str:
    """Return what was seen of Ray workers: their overhead, kills, broken connections, staleness."""
    cost, kills, nodes, stale = (load(f"workers/{name}.json") for name in ("overhead", "chaos", "nodes", "staleness"))
    if not (cost and kills and nodes and stale):
        return "Not measured yet: `python -m benchmarks.workers.overhead`, `.chaos`, `.nodes` and `.staleness`."
    small, large = cost["transfer"]
    waits, killed, runs = nodes["updates_at"], kills["killed"], stale["runs"].values()
    rows = [
        [
            "one worker beside the same run without",
            f"{cost['overhead']:.1%} of an update; weights differ: {len(cost['weights_differ'])}",
            "overhead",
        ],
        [
            "weights to a worker",
            *(
                ", ".join(
                    f"{e['megabytes']} MB in {e['seconds_put'] + e['seconds_take']:.2f} s" for e in (small, large)
                ),
                "overhead",
            ),
        ],
        [
            f"{killed['worker']} workers and {killed['learner']} learners killed at random",
            _problems(kills) + f"; {kills['groups_queued_again']} of {kills['groups']} groups queued again",
            "chaos",
        ],
        [
            "two nodes: a short break, then one that ends a node, which joins again",
            _problems(nodes) + f"; both collect again from update {waits['both collect again']} on",
            "nodes",
        ],
        [
            "a bandit whose rollouts are slow, staleness 0, 1, 2",
            ", ".join(f"{run['seconds']:.0f} s to a return of {run['return_at_the_end']:.2f}" for run in runs),
            "staleness",
        ],
    ]
    rows = [[what, found, f"`python -m benchmarks.workers.{name}`"] for what, found, name in rows]
    return markdown_table(["what", "seen", "command"], rows)


def _problems(found: Mapping[str, Any]) -> str:
    counts = [len(found[name]) for name in ("differences", "groups_lost_or_twice", "left_behind")]
    return f"{counts[0]} weights differ from a quiet run's, {counts[1]} groups lost or twice, {counts[2]} things left"
