"""Compare policies' success in a dream with their success in a simulator: pure statistics of tables of outcomes."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.stats import rankdata

from prophet_gym.estimates import RESAMPLES, bootstrap, wilson
from prophet_gym.evaluation._report import as_json

Table = Float[np.ndarray, "_ _"]
"""Policies by episodes: 1 for success, 0 for failure, NaN where nobody could say; `rank` compares shapes itself."""
Rates = Float[np.ndarray, "r p"]
MIN_POLICIES = 4
"""With three, a correlation of chance alone is often beyond 0.9."""
_UNDEFINED = dict.fromkeys(("mean", "low", "high"))


def pearson(dream: Rates, simulator: Rates) -> Float[np.ndarray, " r"]:
    """Return the correlation of each line; NaN where one of the two is constant."""
    a, b = (each - each.mean(1, keepdims=True) for each in (dream, simulator))
    scale = np.sqrt((a * a).sum(1) * (b * b).sum(1))
    # Means of equal rates differ from them by rounding.
    return np.divide((a * b).sum(1), scale, out=np.full(len(a), np.nan), where=scale > 1e-12)


def spearman(dream: Rates, simulator: Rates) -> Float[np.ndarray, " r"]:
    """Return the correlation of the ranks of each line, ties sharing their mean rank."""
    return pearson(rankdata(dream, axis=1), rankdata(simulator, axis=1))


def mmrv(dream: Rates, simulator: Rates) -> Float[np.ndarray, " r"]:
    """Return the mean maximum rank violation of each line, between 0 and 1; smaller is better.

    Li et al. 2024 (SIMPLER, arXiv:2405.05941, section "Metrics"): two policies that the dream orders otherwise than the
    simulator violate by |difference of their success in the simulator|; a policy counts by its worst violation, and
    policies are averaged. "Ordered" is strictly greater, so a tie in one world alone violates in one direction, as in
    `simpler_env/utils/metrics.py`.
    """
    gap = np.abs(simulator[:, :, None] - simulator[:, None])
    other = (dream[:, :, None] > dream[:, None]) != (simulator[:, :, None] > simulator[:, None])
    return (gap * other).max(2).mean(1)


def bias(dream: Rates, simulator: Rates) -> Float[np.ndarray, " r"]:
    """Return the mean over policies of their success in the dream minus that in the simulator."""
    return (dream - simulator).mean(1)


STATISTICS: dict[str, Callable[[Rates, Rates], Float[np.ndarray, " r"]]] = {
    "pearson": pearson,
    "spearman": spearman,
    "mmrv": mmrv,
    "bias": bias,
}


def rank(
    dream: Table,
    simulator: Table,
    names: Sequence[str],
    tasks: Sequence[int],
    *,
    control: Table | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Measure how well success in the dream ranks policies by their success in the simulator.

    Args:
        dream: Outcomes in the dream; column i of all tables is an episode from one initial state with one seed.
        simulator: Outcomes in the simulator.
        names: Names of the policies.
        tasks: Task of each episode.
        control: Outcomes in the dream with the policies' actions shuffled, a negative control.
        seed: Seed of the resampling.

    Returns:
        Plain data: `policies` (for each the success in both worlds with Wilson's interval, the paired bias, the numbers
        of episodes in which both succeed, both fail or only one does, and of those that the reward model did not
        score), `by_task` (bias and agreement), and `pearson`, `spearman`, `mmrv` and `bias` with intervals from
        resampling both policies and episodes. `control` correlates the shuffled policies with the simulator, and
        `permuted` the dream's outcomes permuted among the policies at each initial state; both should be near 0. A
        value that is undefined is None, and its `why` gives the reason.

    Raises:
        ValueError: The tables do not fit each other.
    """
    shape = (len(names), len(tasks))
    tables = [dream, simulator, *([] if control is None else [control])]
    if 0 in shape or any(table.shape != shape for table in tables):
        raise ValueError(f"each table must be policies x episodes {shape}, got {[table.shape for table in tables]}")
    groups = {task: np.array(tasks) == task for task in sorted(set(tasks))}
    return {
        "policies": [{"name": name, **_compared(dream[i], simulator[i])} for i, name in enumerate(names)],
        "by_task": [
            {"name": f"task {task}", **_compared(dream[:, of].ravel(), simulator[:, of].ravel())}
            for task, of in groups.items()
        ],
        **{name: _interval(name, dream, simulator, seed) for name in STATISTICS},
        "control": None if control is None else _control(control, simulator, names, seed),
        "permuted": _permuted(dream, simulator, seed),
    }


def _compared(dream: Float[np.ndarray, " e"], simulator: Float[np.ndarray, " e"]) -> dict[str, Any]:
    scored = ~np.isnan(dream)
    both = scored & ~np.isnan(simulator)
    one, other = dream[both] > 0, simulator[both] > 0
    counts = {
        "both": int((one & other).sum()),
        "neither": int((~one & ~other).sum()),
        "only_dream": int((one & ~other).sum()),
        "only_simulator": int((~one & other).sum()),
    }
    return {
        "dream": _rate(dream),
        "simulator": _rate(simulator),
        "bias": as_json(bootstrap(dream, simulator, statistic=np.subtract)),
        **counts,
        "unscored": int((~scored).sum()),
    }


def _rate(outcomes: Float[np.ndarray, " e"]) -> dict[str, Any]:
    said = outcomes[~np.isnan(outcomes)]
    return as_json(wilson(int(said.sum()), len(said)))


def why_undefined(name: str, dream: Table, simulator: Table) -> str | None:
    """Return why a statistic has no value for these outcomes; None where it has one."""
    for world, table in (("the dream", dream), ("the simulator", simulator)):
        if np.isnan(table).all(1).any():
            return f"a policy has no scored episode in {world}"
    if name == "bias":
        return None
    if len(dream) < MIN_POLICIES:
        return f"ranks need at least {MIN_POLICIES} policies, got {len(dream)}"
    for world, table in (("the dream", dream), ("the simulator", simulator)):
        rates = np.nanmean(table, 1)
        if np.ptp(rates) < 1e-12:
            told = {0.0: "all policies fail", 1.0: "all policies succeed"}
            same = told.get(float(rates[0]), f"all policies succeed equally often ({rates[0]:.0%})")
            return f"{same} in {world}"
    return None


def _interval(name: str, dream: Table, simulator: Table, seed: int) -> dict[str, Any]:
    """Return a statistic, with its 95% interval over policies and over episodes, both resampled."""
    if why := why_undefined(name, dream, simulator):
        return _UNDEFINED | {"why": why}
    statistic, random = STATISTICS[name], np.random.default_rng(seed)
    draws = []
    for _ in range(RESAMPLES):
        policies = random.integers(len(dream), size=len(dream))
        # One draw of episodes for all policies and both worlds: they share their starts.
        episodes = random.integers(dream.shape[1], size=dream.shape[1])
        draws.append([_means(table[np.ix_(policies, episodes)]) for table in (dream, simulator)])
    mean = statistic(_means(dream)[None], _means(simulator)[None])[0]
    return _stated(mean, statistic(*np.array(draws).transpose(1, 0, 2)))


def _stated(mean: float | np.floating, draws: Float[np.ndarray, " r"]) -> dict[str, Any]:
    # A draw of equal policies has no correlation.
    low, high = np.nanquantile(draws, (0.025, 0.975))
    return {"mean": round(float(mean), 6), "low": round(float(low), 6), "high": round(float(high), 6), "why": None}


def _means(table: Table) -> Float[np.ndarray, " p"]:
    said = ~np.isnan(table)
    # A draw may hold unscored episodes alone; it then has no rate.
    return np.divide(np.nansum(table, 1), said.sum(1), out=np.full(len(table), np.nan), where=said.any(1))


def _control(control: Table, simulator: Table, names: Sequence[str], seed: int) -> dict[str, Any]:
    rates = [{"name": name, "dream": _rate(line)} for name, line in zip(names, control, strict=True)]
    return {"policies": rates, **{name: _interval(name, control, simulator, seed) for name in ("pearson", "spearman")}}


def _permuted(dream: Table, simulator: Table, seed: int) -> dict[str, Any]:
    """Return Pearson's mean and range where the dream's outcomes at each start are dealt out among the policies."""
    if why := why_undefined("pearson", dream, simulator):
        return _UNDEFINED | {"why": why}
    random = np.random.default_rng(seed)
    dealt = np.stack([_means(random.permuted(dream, axis=0)) for _ in range(RESAMPLES)])
    found = pearson(dealt, np.broadcast_to(_means(simulator), dealt.shape))
    return _stated(np.nanmean(found), found)
