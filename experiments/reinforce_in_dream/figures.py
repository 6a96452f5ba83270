"""Tables of the experiment, as blocks that `make figures` writes into the documents."""

from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import Any

from docs.blocks.common import ROOT, markdown_table, part, points, share, where
from experiments.reinforce_in_dream import controls, headline
from experiments.reinforce_in_dream.files import IMAGES, RESULTS, TRIES, read_lines, read_summary
from experiments.reinforce_in_dream.protocol import DREAM, LIBERO, SFT, SIZES, Arm, Size, label_of
from prophrl_algos._named import NUM_STEPS

Summary = dict[str, Any]


def forward_settings() -> str:
    """Return the settings of each algorithm that scores the denoising, as options of `prophrl train`."""
    rows = []
    for size in (SIZES["cpu"], SIZES["full"]):
        for arm in ("fa-grpo", "flow-grpo"):
            about = size.arms[arm]
            rows.append([
                f"`{about.algo}`",
                str(NUM_STEPS[size.policy]),
                *(f"{value:g}" for value in (*about.clip, about.beta, about.noise_level, size.rates[-1])),
                str(size.epochs * size.minibatches),
            ])  # fmt: skip
    header = ["`--algo`", "denoising steps K", "`--config.clip-low`", "`--config.clip-high`", "`--config.beta`",
              "`--config.noise-level`", "`--learning-rate`", "`--config.minibatches`"]  # fmt: skip
    return markdown_table(header, rows)


def settings(size: str) -> str:
    """Return what the protocol of a size fixes."""
    chosen = SIZES[size]
    about = {
        "tasks of libero_object": ", ".join(map(str, chosen.tasks)),
        "policy": f"`{chosen.policy}`",
        "cloning": cloning_of(chosen),
        "learning rates tried": ", ".join(f"{rate:g}" for rate in chosen.rates),
        "updates": str(chosen.updates),
        "rollouts in an update": f"{chosen.groups} groups of {chosen.group_size}",
        "optimizer steps in an update": f"{chosen.epochs * chosen.minibatches}",
        "points of a curve": f"every {chosen.point_every} updates, {chosen.point_states} episodes per task and arm",
        "at the end": f"{chosen.final_states} official states per task, {chosen.repeats} in LIBERO per arm",
        "what the reward model scores": f"LIBERO, {chosen.scored_states} states per task, in each run and point",
        "arms: algorithm, FlowScale's alpha, clip, noise level, KL's weight (runs; their names)": "; ".join(
            settings_of(name, arm) for name, arm in chosen.arms.items()
        ),
    }
    return markdown_table(["", "value"], [[name, value] for name, value in about.items()])


def settings_of(name: str, arm: Arm) -> str:
    """Return what an arm's runs have in common, and what they are called."""
    low, high = arm.clip
    return (
        f"{label_of(name, asdict(arm))}: `{arm.algo}`, {arm.alpha:g}, {low:g}/{high:g}, "
        f"{arm.noise_level:g}, {arm.beta:g} ({arm.seeds}; `{name}-s0` ...)"
    )


def cloning_of(size: Size) -> str:
    """Return what a size's policy is cloned from, and for how long."""
    if size.cloned:
        return f"none: the bundled `{size.cloned}`"
    tasks = f"tasks {', '.join(map(str, size.sft_tasks))}" if size.sft_tasks else "all tasks"
    shown = " and ".join(["experts", *(f"`{mode}`" for mode in size.sft_failing)])
    return f"{shown} in {tasks}; {size.sft_steps} steps of {size.sft_batch_size} chunks at {size.sft_rate:g}"


def price(size: str) -> str:
    """Return what a frame costs in either world, and how many of the simulator's the dream replaced."""
    summary = read_summary(size)
    learned = [] if summary is None else [each for each in summary["arms"].values() if each["runs"]]
    rows = []
    for world, label in ((DREAM, "dream"), (LIBERO, "LIBERO")):
        arms = [each for each in learned if each["about"]["env"] == world]
        if not arms:
            continue
        total = {
            key: sum(each["runs"] * each["cost"][key] for each in arms) for key in ("frames", "seconds_env", "seconds")
        }
        rows.append([
            label,
            str(sum(each["runs"] for each in arms)),
            f"{total['frames']:,.0f}",
            *(f"{1000 * total[key] / total['frames']:.2f}" for key in ("seconds_env", "seconds")),
        ])  # fmt: skip
    header = ["learned in", "runs", "frames in all", "s of the env per 1,000 frames", "s in all per 1,000 frames"]
    return markdown_table(header, rows) if rows else "Not measured yet."


def results(size: str) -> str:
    """Return where each arm ends in both worlds, what it gained, how far dream and reward are right, what it cost."""
    command = (
        f"python -m experiments.reinforce_in_dream.run --size {size} --out outputs/reinforce_{size} "
        f"--logs experiments/reinforce_in_dream/results/{size}"
    )
    summary = read_summary(size)
    if summary is None or "sft" not in summary:
        return f"Not measured yet: `{command}`."
    label = "**Short version: one task and one arm, too few runs to compare algorithms.** " if size == "short" else ""
    effects = [
        [name, points(summary["effects"]["libero"][name]), points(found)]
        for name, found in summary["effects"]["dream"].items()
        if name in summary["effects"]["libero"]
    ]
    return "\n\n".join([
        f"{label}`{command}` on {where(summary['machine'])}.",
        *([f"![curves](images/{size}.png)"] if (IMAGES / f"{size}.png").is_file() else []),
        ends_of(summary),
        *([markdown_table(["effect in the 2x2, points [95%]", "in LIBERO", "in the dream"], effects)] * bool(effects)),
        tasks_of(summary),
        trust_of(summary),
        time_of(summary),
    ])  # fmt: skip


def time_of(summary: Summary) -> str:
    """Return how long learning and evaluation took, without what may run beside them."""
    learning, evaluation = (summary["seconds"][stage] / 60 for stage in ("learning", "evaluation"))
    return f"The runs that ended learned for {learning:.0f} minutes in all; evaluation took {evaluation:.0f}."


def ends_of(summary: Summary) -> str:
    """Return success and gain of every arm in both worlds."""
    cloned = summary["sft"]
    rows = [["cloned", "", share(cloned), "", "", share(cloned["point"]["dream"]), "", ""]]
    for name, found in summary["arms"].items():
        label, runs = label_of(name, found["about"]), f"{found['runs']} of {found['about']['seeds']}"
        if found["final"] is None:
            rows.append([label, f"{runs}, {found['begun']} begun", *[""] * 6])
            continue
        end, dream, cost = found["final"], found["dream"], found["cost"]
        rows.append([
            label,
            runs,
            share(end),
            points(end["gain"]),
            changes_of(end),
            share(dream),
            points(dream and dream["gain"]),
            f"{cost['frames']:,.0f}; {cost['seconds'] / 60:.0f} min",
        ])  # fmt: skip
    header = ["arm", "runs", "success in LIBERO [Wilson 95%]", "gain, points [95%, paired]",
              "episodes gained, lost; McNemar's p, each run", "success in the dream", "gain there",
              "frames; time of a run"]  # fmt: skip
    return markdown_table(header, rows)


def changes_of(end: Summary) -> str:
    """Return the episodes that each run gained and lost in LIBERO."""
    runs = zip(end["changed"], end["mcnemar"], strict=True)
    return ", ".join(f"+{changed['gained']} -{changed['lost']}; {p:.2g}" for changed, p in runs)


def tasks_of(summary: Summary) -> str:
    """Return the success in LIBERO in each task."""
    ends = {"cloned": summary["sft"]}
    ends |= {label_of(arm, found["about"]): found["final"] for arm, found in summary["arms"].items()}
    rows = [[name, *(share(each) for each in end["per_task"].values())] for name, end in ends.items() if end]
    return markdown_table(["success in LIBERO", *(f"task {task}" for task in summary["sft"]["per_task"])], rows)


def trust_of(summary: Summary) -> str:
    """Return how far the dream and the reward are right about the policy at the end of each arm."""
    ends = {"cloned": summary["sft"]["point"]}
    ends |= {
        label_of(arm, found["about"]): found["curve"][-1] for arm, found in summary["arms"].items() if found["final"]
    }
    rows = []
    for name, end in ends.items():
        dream, reward = end["dream_and_libero"], end["reward_in_libero"]
        false_positives = reward["positives"] - reward["true_positives"]
        rows.append([
            name,
            part(dream["true_positives"], dream["positives"]),
            part(dream["successes"] - dream["true_positives"], dream["episodes"] - dream["positives"]),
            part(reward["true_positives"], reward["positives"]),
            part(reward["true_positives"], reward["successes"]),
            part(false_positives, reward["episodes"] - reward["successes"]),
        ])  # fmt: skip
    header = ["arm", "states of dreamt success that succeed in LIBERO", "states of dreamt failure that do",
              "rewarded episodes in LIBERO that succeed", "successes in LIBERO that are rewarded",
              "failures there that are rewarded"]  # fmt: skip
    return markdown_table(header, rows)


def cloned_policy() -> str:
    """Return what the bundled cloned policy is, and how well it does."""
    folder = ROOT / "prophrl_algos" / "vla" / "SmallVLA-LIBERO-object-sft"
    command = (
        "python -m experiments.reinforce_in_dream.run --size cpu --stage sft --out outputs/reinforce_cpu "
        "--logs experiments/reinforce_in_dream/results/cpu"
    )
    tries = {line["world"]: line for line in read_lines(RESULTS / "cpu" / TRIES) if line["run"] == SFT}
    if not (folder / "config.json").is_file() or not tries:
        return f"Not measured yet: `{command}`."
    rows = [
        ["file", f"{(folder / 'model.safetensors').stat().st_size / 1e6:.1f} MB, half precision"],
        ["optimizer steps of cloning", str(tries[LIBERO]["update"])],
    ]
    for label, world in (("success in LIBERO", LIBERO), ("success in the bundled dream", DREAM)):
        outcomes = tries[world]["success"]
        rows.append([f"{label}, `train` states it was chosen on", part(sum(outcomes), len(outcomes))])
    summary = read_summary("cpu") or {}
    if "sft" in summary:
        rows.append(["success in LIBERO, official states", share(summary["sft"])])
        rows += [[f"task {task}", share(found)] for task, found in summary["sft"]["per_task"].items()]
    return markdown_table(["", "value"], rows)


BLOCKS: dict[str, Callable[[], str]] = {
    **{f"reinforce-{size}": partial(results, size) for size in SIZES},
    **{f"reinforce-settings-{size}": partial(settings, size) for size in SIZES},
    "reinforce-price": partial(price, "cpu"),
    "reinforce-controls": controls.table,
    "reinforce-headline": partial(headline.headline, "cpu"),
    "price": partial(headline.price, "cpu"),
    "forward-settings": forward_settings,
    "cloned-policy": cloned_policy,
}
"""Names of blocks -> what fills them."""
