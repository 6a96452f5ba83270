"""How the dream ranks policies: a block of figures."""

from docs.blocks.common import load, markdown_table, where
from prophet_gym.cli._rank import HEADER, rows, statistics_of

COMMAND = "python -m benchmarks.rank --json benchmarks/results/rank.json"


def ranking() -> str:
    """Return success of every policy in both worlds, and what the dream's ranking is worth."""
    found = load("rank.json")
    if found is None:
        return f"Not measured yet: `{COMMAND}`."
    tables = [markdown_table(HEADER, rows(found[name])) for name in ("policies", "tasks")]
    told = (
        f"{len(found['policies'])} policies, {found['episodes']} episodes of each in both worlds, tasks "
        f"{', '.join(map(str, found['tasks']))} of `{found['suite']}`; success and bias in per cent [95%]. "
        f"`{COMMAND}` on {where(found['machine'])}."
    )
    return "\n\n".join([markdown_table(["", "value [95%]"], statistics_of(found)), *tables, told])
