"""How the dream ranks policies: blocks of figures."""

from functools import partial

from docs.blocks.common import load, markdown_table, where
from prophet_gym.cli._rank import HEADER, rows, statistics_of


def _ranking(which: str, name: str) -> str:
    """Return success of every policy in both worlds, and what the dream's ranking is worth."""
    found = load(name)
    command = f"python -m benchmarks.rank{which}"
    if found is None:
        return f"Not measured yet: `{command} --json benchmarks/results/{name}`."
    tables = [markdown_table(HEADER, [shortened(row) for row in rows(found[part])]) for part in ("policies", "by_task")]
    told = (
        f"{len(found['policies'])} policies, {found['episodes']} episodes of each in both worlds, tasks "
        f"{', '.join(map(str, found['tasks']))} of `{found['suite']}`; success and bias in per cent [95%]. "
        f"`{command} --episodes {found['episodes']} --json benchmarks/results/{name}` on {where(found['machine'])}."
    )
    return "\n\n".join([markdown_table(["", "value [95%]"], statistics_of(found)), *tables, told])


def shortened(row: list[str]) -> list[str]:
    """Return a row whose policy is named by its weights, without folders that all share."""
    name = row[0].removeprefix("prophrl_algos.acting:flow?policy=small-k4&weights=").removeprefix("outputs/ceiling/")
    return [name.removesuffix(".safetensors").replace("/snapshots/", ", update "), *row[1:]]


BLOCKS = {
    "ranking": partial(_ranking, "", "rank.json"),
    "ranking-learned": partial(
        _ranking, " --which learned --control 20 --out outputs/rank_learned", "dream/rank_learned.json"
    ),
    "ranking-blind": partial(_ranking, " --which blind --control 0 --out outputs/rank_blind", "rank_blind.json"),
}
