"""`prophet rank`: run policies in the dream and in the simulator, and compare how the two rank them."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from prophet_gym._arguments import CountOrNone, Items, OutFolder, Several, Tasks, resolved_device
from prophet_gym.cli._options import DreamOptions

EPISODES, RANKING, PLOT = "episodes.jsonl", "ranking.json", "ranking.png"
WORLDS = ("dream", "simulator", "control")
"""Name where episodes are run; the last is the dream, whose sub-environments get each other's actions."""


@dataclass(frozen=True, kw_only=True)
class Args(DreamOptions):
    """Run policies in the dream and in the simulator from the same official initial states, and compare success.

    A policy is `script:MODE?noise=0.3` (a scripted expert of LIBERO or one with a fault, under noise) or
    `MODULE:FUNCTION?option=value` (see `prophet_gym.evaluation.make_acting_policy`), for example
    `prophrl_algos.acting:flow?policy=small-k4&weights=FOLDER` or `prophet_gym.interop.sb3:acting?path=model.zip`. Gives
    success in both, correlations, MMRV and bias with 95% intervals. Run the same command again to continue; policies
    and episodes may be added.
    """

    policies: Annotated[tuple[str, ...], Several()]
    """Policies to compare; with fewer than four, ranks say nothing."""
    out: OutFolder
    """Folder of the episodes and of the results: `ranking.json`, `ranking.png`."""
    suite: str = "libero_object"
    """Suite of tasks."""
    tasks: Tasks = ()
    """Numbers of the tasks, for example `--tasks 3 5`; all by default."""
    episodes: Items = 60
    """Number of episodes of each policy, in the dream and in the simulator, spread evenly over the tasks; they begin at
    the first official states of each task."""
    max_chunks: Items = 30
    """Number of chunks after which an episode has failed."""
    num_envs: Items = 10
    """Number of episodes run at once."""
    reward: str = "success"
    """Reward model that decides on success in the dream, as `gym.make(..., reward=)` takes it."""
    look: str = "light"
    """Look of the simulator: `light`, `light-v2` or `official`."""
    engine: Literal["auto", "eager", "compiled", "openvino"] = "auto"
    """Library that runs the world model: PyTorch (`eager`), compiled by it, OpenVINO, or the fastest here (`auto`)."""
    control: CountOrNone = 20
    """Number of episodes that are also dreamt with their actions shuffled between them, in whole batches: a negative
    control, which must not rank the policies."""


def main(args: Args) -> dict[str, Any]:
    import numpy as np

    from prophet_gym._io.atomic import atomic_write
    from prophet_gym._io.files import read_json_lines
    from prophet_gym.checkpoint import Checkpoint
    from prophet_gym.evaluation import rank
    from prophet_gym.evaluation._report import machine, write_json
    from prophet_gym.sims.simulator import check_task
    from prophet_gym.train._run_folder import begin_run, run_lock

    if args.reward == "None":
        raise ValueError("ranking needs a reward model that says what succeeds in the dream, got --reward None")
    simulator, checkpoint = check_task(args.suite, look=args.look), Checkpoint.named(args.world_model)
    tasks = args.tasks or tuple(range(simulator.tasks))
    if args.episodes > (most := simulator.official_states * len(tasks)):
        raise ValueError(
            f"there are {most} official states of these {len(tasks)} tasks, got --episodes {args.episodes}"
        )
    # The tasks take turns, so that shuffled actions are meant for another task.
    cells = [(tasks[number % len(tasks)], number // len(tasks)) for number in range(args.episodes)]
    with run_lock(args.out):
        log = args.out / EPISODES
        free = ("policies", "episodes", "out", "control", "device")
        begin_run(args.out, asdict(args), begun=log.is_file(), free=free)
        lines = read_json_lines(log) if log.is_file() else ()
        done = {(line["first"], line["policy"], line["world"]): line for line in lines}
        parts = {first: cells[first : first + args.num_envs] for first in range(0, len(cells), args.num_envs)}
        # All policies take turns, so that whatever a stopped run has of them can be compared.
        worlds = {first: WORLDS if first < args.control else WORLDS[:2] for first in parts}
        asked = [(first, policy, world) for first in parts for policy in args.policies for world in worlds[first]]
        # A batch that was the last of fewer episodes is run again, whole.
        left = [key for key in asked if len(done.get(key, {"success": ()})["success"]) < len(parts[key[0]])]
        for key, line in _run(args, checkpoint, parts, left, total=len(asked)) if left else ():
            done[key] = line
            # Whole each time: a line that a killed process wrote half would be no JSON.
            atomic_write(log, "".join(json.dumps(line) + "\n" for line in done.values()))
    tables = {world: np.full((len(args.policies), len(cells)), np.nan) for world in worlds[0]}
    for key in asked:
        first, policy, world = key
        outcomes = [np.nan if each is None else float(each) for each in done[key]["success"][: len(parts[first])]]
        tables[world][args.policies.index(policy), first : first + len(outcomes)] = outcomes
    kinds = (tables["dream"], tables["simulator"])
    found = rank(*kinds, args.policies, [task for task, _ in cells], control=tables.get("control"))
    names = ("world_model", "suite", "episodes", "max_chunks", "reward", "look", "seed")
    about = {name: getattr(args, name) for name in names} | {"tasks": list(tasks), "machine": machine()}
    write_json(args.out / RANKING, about | found)
    plot(found, args.out / PLOT)
    print(summary(found))
    return about | found


def _run(
    args: Args,
    checkpoint: Any,
    parts: Mapping[int, Sequence[tuple[int, int]]],
    left: Sequence[tuple[int, str, str]],
    total: int,
) -> Iterator[tuple[tuple[int, str, str], dict[str, Any]]]:
    """Yield a line of the log for each batch of episodes: what succeeded, and the seconds it took."""
    import time

    from prophet_gym._io.progress import progress
    from prophet_gym.evaluation import make_acting_policy, play
    from prophet_gym.factory import make_vector_env
    from prophet_gym.sims.env import SimulatorVectorEnv

    tasks, num_envs = sorted({task for part in parts.values() for task, _ in part}), len(parts[0])
    shared = {"starts": "official", "tasks": tasks, "render": "chunk", "max_episode_steps": args.max_chunks}
    shared |= {"autoreset_mode": "Disabled", "proprioception": any(name.startswith("script:") for _, name, _ in left)}
    with ExitStack() as stack:
        # First, so that nothing is loaded where it is not installed.
        simulator = stack.enter_context(closing(SimulatorVectorEnv(args.suite, num_envs, look=args.look, **shared)))
        how = {"weights": args.world_model, "suite": args.suite, "embodiment": checkpoint.robot, "reward": args.reward}
        how |= {"device": resolved_device(args.device), "engine": args.engine}
        dream = stack.enter_context(closing(make_vector_env(num_envs, **how, **shared)))
        policies = {name: make_acting_policy(name, dream, checkpoint, args.look) for name in {each[1] for each in left}}
        bar = stack.enter_context(progress(None, "rank", total=total, done=total - len(left), unit="batch"))
        for first, name, world in left:
            bar.set_postfix_str(f"{name} in the {world}")
            env, began = simulator if world == "simulator" else dream, time.perf_counter()
            success = play(policies[name], env, parts[first], seed=args.seed + first, shuffled=world == "control")
            seconds = round(time.perf_counter() - began, 1)
            line = {"policy": name, "world": world, "first": first, "success": success, "seconds": seconds}
            yield (first, name, world), line
            bar.update()


_LABEL = 48  # letters of a policy's name in the legend: its end tells policies apart
HEADER = ["", "dream", "simulator", "bias, points", "both", "neither", "dream alone", "simulator alone", "unscored"]
STATISTICS = {"pearson": "Pearson", "spearman": "Spearman", "mmrv": "MMRV", "bias": "mean bias of the policies"}


def summary(found: Mapping[str, Any]) -> str:
    """Return the results as tables for people."""
    from prophet_gym.evaluation._report import table

    tables = [table(HEADER, rows(found[name])) for name in ("policies", "by_task")]
    return "\n\n".join([*tables, "\n".join(": ".join(each) for each in statistics_of(found))])


def statistics_of(found: Mapping[str, Any]) -> list[list[str]]:
    """Return the name and the value of every statistic, or why it has none."""
    control = found["control"] or {}
    said = [(label, found[name]) for name, label in STATISTICS.items()]
    said += [(f"{STATISTICS[name]}, shuffled actions", control[name]) for name in STATISTICS if name in control]
    said += [("Pearson, the dream's outcomes dealt out among the policies", found["permuted"])]
    shuffled = [each["dream"] for each in control.get("policies", ())]
    # A correlation says nothing where hardly any of them succeeds.
    done = sum(round(each["mean"] * each["episodes"]) for each in shuffled if each["mean"] is not None)
    of = sum(each["episodes"] for each in shuffled)
    counts = [["dreams that succeed with shuffled actions", f"{done} of {of}"]] if of else []
    return [[label, value_of(each)] for label, each in said] + counts


def rows(compared: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Return a table's rows of what `rank` says of policies or of tasks, under `HEADER`."""
    counts = ("both", "neither", "only_dream", "only_simulator", "unscored")
    return [
        [
            each["name"],
            *(_percent(each[world]) for world in WORLDS[:2]),
            _percent(each["bias"], sign="+"),
            *(str(each[name]) for name in counts),
        ]
        for each in compared
    ]


def value_of(statistic: Mapping[str, Any]) -> str:
    """Return a statistic with its interval, or why it has no value."""
    if statistic["mean"] is None:
        return f"undefined, {statistic['why']}"
    return f"{statistic['mean']:.2f} [{statistic['low']:.2f}, {statistic['high']:.2f}]"


def _percent(rate: Mapping[str, Any], sign: str = "") -> str:
    if rate["mean"] is None:
        return "-"
    mean, *ends = (f"{100 * rate[name]:{sign}.0f}" for name in ("mean", "low", "high"))
    return f"{mean} [{', '.join(ends)}]"


def plot(found: Mapping[str, Any], path: Path) -> None:
    """Draw success in the dream over success in the simulator, a numbered point for each policy."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from prophet_gym._io.atomic import atomic_file

    figure = Figure(figsize=(8, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot(xlabel="success in the simulator", ylabel="success in the dream", aspect="equal")
    axes.plot([0, 1], [0, 1], color="0.8", zorder=0)
    for number, each in enumerate(found["policies"], 1):
        real, dreamt = each["simulator"], each["dream"]
        if None in (real["mean"], dreamt["mean"]):
            continue
        ends = [[[rate["mean"] - rate["low"]], [rate["high"] - rate["mean"]]] for rate in (real, dreamt)]
        name = each["name"] if len(each["name"]) <= _LABEL else f"...{each['name'][-_LABEL:]}"
        label = f"{number}  {name}"
        axes.errorbar(real["mean"], dreamt["mean"], ends[1], ends[0], fmt="o", ms=4, lw=0.8, label=label)
        axes.annotate(str(number), (real["mean"], dreamt["mean"]), xytext=(4, 4), textcoords="offset points")
    axes.set_title(f"Pearson {value_of(found['pearson'])}, MMRV {value_of(found['mmrv'])}", fontsize=9)
    figure.legend(loc="outside right upper", fontsize=7)
    with atomic_file(path) as temporary:
        figure.savefig(temporary, dpi=150)
