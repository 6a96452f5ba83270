"""Film the clone's failed official episodes, and count them by cause.

    python -m experiments.ceiling.failures --json experiments/ceiling/results/failures.json \
        --gallery experiments/ceiling/images/failures.webp

`OUT/failures/` gets a line per episode and a sheet of eight frames per failure, for a person's look. A killed run is
resumed. What each cause means and its thresholds are in `causes.py`.
"""

# MuJoCo is a compiled module without stubs.
# pyright: reportAttributeAccessIssue=false

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from jaxtyping import UInt8
from PIL import Image, ImageDraw

from experiments.ceiling import causes
from experiments.ceiling.causes import CAUSES, Cause, Facts, cause_of
from experiments.ceiling.protocol import SIZE
from experiments.ceiling.run import CLONE, plain
from experiments.reinforce_in_dream.files import Place, add_line, read_lines, read_policy, spaces
from prophet_gym._io.progress import progress
from prophet_gym.estimates import wilson
from prophet_gym.evaluation._report import machine, write_json
from prophet_gym.sims.libero._experts import grasp_of
from prophrl_algos.evaluate import noise_seed
from prophrl_algos.flow import FlowPolicy, FlowSchedule
from prophrl_algos.rollout._collect import act

CHUNKS, FRAMES, SCALE = 30, 8, 2
"""Chunks of an episode, as in evaluation; frames of a sheet, and how often larger they are shown."""


@dataclass(frozen=True)
class Args:
    """Film failed episodes of a policy, and count their causes."""

    out: Path = Path("outputs/ceiling")
    """Folder of the experiment."""
    weights: Path | None = None
    """Another policy than the clone."""
    name: str = "failures"
    """Folder in OUT of lines and sheets."""
    failures: int = 50
    """Episodes go on until so many have failed, or every state was seen `--repeats` times."""
    repeats: int = 3
    json: Path | None = None
    gallery: Path | None = None
    """Also draw the sheet of the first failure of each cause here."""


@dataclass(frozen=True)
class Film:
    """Hold an episode as it went: facts, the simulator's state after each action, and whether it succeeded."""

    facts: Facts
    states: Sequence[np.ndarray]
    success: bool


def play(policy: FlowPolicy, sim: Any, start: int, seed: int) -> Film:
    """Let the policy act from an official state, without noise on the way."""
    sim.reset(official=start)
    generator = [torch.Generator().manual_seed(noise_seed(seed, start))]
    schedule = FlowSchedule(policy.spec.num_steps, 0.0)
    gripper, closing, objects, states = [sim.gripper_position()], [False], [movable(sim)], [sim.get_state()]
    success = False
    for _ in range(CHUNKS):
        seen = {"image": sim.render()[None]}
        _, _, actions = act(policy, spaces(), seen, np.zeros(1, int), [sim.instruction], schedule, generator)
        for action in actions[0]:
            sim.step(action)
            gripper.append(sim.gripper_position())
            closing.append(bool(action[-1] > 0))
            objects.append(movable(sim))
            states.append(sim.get_state())
            if success := sim.success():
                break
        if success:
            break
    places = {name: np.stack([each[name] for each in objects]) for name in objects[0]}
    above, eye = grasp_of(sim.target_name).height, sim.data.cam_xpos[sim.model.camera("agentview").id].copy()
    facts = Facts(
        np.stack(gripper), np.array(closing), places, sim.target_name, above, sim.camera_matrix(), np.array(eye)
    )
    return Film(facts, states, success)


def movable(sim: Any) -> dict[str, np.ndarray]:
    """Return where everything but the basket is."""
    return {name: place for name, place in sim.object_positions().items() if not name.startswith("basket")}


def in_sight(sim: Any, facts: Facts, state: np.ndarray) -> bool:
    """Tell whether the straight line from the camera to the target's centre meets nothing else first."""
    import mujoco

    sim.set_state(state)
    body = sim.model.body(f"{facts.target}_main").id
    place, met = sim.data.xpos[body], np.zeros(1, np.int32)
    mujoco.mj_ray(sim.model, sim.data, facts.eye, place - facts.eye, None, 1, -1, met)
    root = sim.model.body_rootid
    return bool(met[0] >= 0 and root[sim.model.geom_bodyid[met[0]]] == root[body])


def sheet(sim: Any, film: Film, cause: Cause, title: str) -> Image.Image:
    """Return eight frames: the first, those around the decisive moment, when the image is asked, and the last."""
    last, step = len(film.states) - 1, cause.step
    wanted = sorted(
        np.clip([0, step - 16, step - 8, step, step + 4, step + 10, max(cause.seen, step + 20), last], 0, last)
    )
    frames = []
    for each in wanted:
        sim.set_state(film.states[each])
        frames.append((each, sim.render()))
    return tiles(frames, title, step)


def tiles(frames: Sequence[tuple[int, UInt8[np.ndarray, "h w 3"]]], title: str, step: int) -> Image.Image:
    """Return frames in two rows under a title, each with its number; that of the decisive moment has a frame."""
    size, top = SCALE * frames[0][1].shape[0], 16
    page = Image.new("RGB", (size * FRAMES // 2, top + 2 * size), "white")
    draw = ImageDraw.Draw(page)
    draw.text((4, 2), title, fill="black")
    for number, (when, frame) in enumerate(frames):
        x, y = size * (number % (FRAMES // 2)), top + size * (number // (FRAMES // 2))
        page.paste(Image.fromarray(frame).resize((size, size), Image.Resampling.NEAREST), (x, y))
        draw.text((x + 4, y + 4), f"action {when}", fill="yellow")
        if when == step:
            draw.rectangle((x, y, x + size - 1, y + size - 1), outline="red", width=3)
    return page


def film_failures(args: Args, weights: Path, sims: Mapping[int, Any]) -> list[dict[str, Any]]:
    """Play what is left of the episodes, log each, and draw a sheet of each failure."""
    folder = args.out / args.name
    lines = read_lines(folder / "episodes.jsonl")
    policy = read_policy(Place(SIZE, (), args.out, folder), weights)
    known = {(line["task"], line["start"], line["repeat"]) for line in lines}
    with progress(
        None,
        "failures",
        total=args.failures,
        unit="failure",
        done=sum(not line["success"] for line in lines),
        passing=True,
    ) as bar:
        for task, start, repeat in order(tuple(sims), args.repeats):
            if sum(not line["success"] for line in lines) >= args.failures:
                break
            if (task, start, repeat) in known:
                continue
            sim = sims[task]
            film = play(policy, sim, start, 10_000 + repeat)
            line: dict[str, Any] = {"task": task, "start": start, "repeat": repeat, "success": film.success}
            if not film.success:
                cause = cause_of(film.facts)
                visible = in_sight(sim, film.facts, film.states[cause.seen])
                line |= cause.plain() | {"visible": visible, "shown": visible and cause.pixels >= causes.SHOWN}
                title = (
                    f"task {task}, start {start}, repeat {repeat}: {cause.name}; {line['along_mm']} mm along the view, "
                )
                title += f"{line['across_mm']} mm across, {line['pixels']} px, {'in' if visible else 'out of'} sight"
                path = folder / f"task_{task:02d}_start_{start:02d}_{repeat}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                sheet(sim, film, cause, title).save(path)
                line["sheet"] = path.name
                bar.update()
            add_line(folder / "episodes.jsonl", line)
            lines.append(line)
    return lines


def order(tasks: Sequence[int], repeats: int) -> Iterator[tuple[int, int, int]]:
    """Yield task, start and repeat so that any prefix is balanced over tasks."""
    for repeat in range(repeats):
        for start in range(SIZE.final_states):
            for task in tasks:
                yield task, start, repeat


def summarise(lines: Sequence[Mapping[str, Any]], weights: str) -> dict[str, Any]:
    """Count causes, each with Wilson's interval of its share of the failures, and how many the camera shows."""
    failed = [line for line in lines if not line["success"]]
    counted = Counter(line["cause"] for line in failed)
    shown = Counter(line["cause"] for line in failed if line["shown"])
    visible = Counter(line["cause"] for line in failed if line["visible"])
    of_cause = {
        name: {"count": counted[name], "shown": shown[name], "visible": visible[name]}
        | {"share": plain(wilson(counted[name], len(failed)))}
        for name in CAUSES
    }
    names = ("LIFTED", "NEAR", "REACHED", "LATER", "SHOWN", "PIXELS")
    return {
        "weights": weights,
        "success": plain(wilson(len(lines) - len(failed), len(lines))),
        "shown": plain(wilson(sum(shown.values()), len(failed))),
        "causes": of_cause,
        "thresholds": {name: getattr(causes, name) for name in names},
        "episodes": list(lines),
        "machine": machine(),
    }


def gallery(folder: Path, lines: Sequence[Mapping[str, Any]]) -> Image.Image:
    """Return the sheet of the first failure of each cause, below each other."""
    first: dict[str, str] = {}
    for line in lines:
        if not line["success"]:
            first.setdefault(line["cause"], line["sheet"])
    sheets = [Image.open(folder / first[name]) for name in CAUSES if name in first]
    page = Image.new("RGB", (sheets[0].width, sum(each.height for each in sheets)))
    for number, each in enumerate(sheets):
        page.paste(each, (0, number * each.height))
    return page


def main(args: Args) -> None:
    """Run the command."""
    from prophet_gym.sims.libero.simulator import LiberoSimulator

    weights = args.weights
    if weights is None:
        count = json.loads((args.out / "logs" / CLONE).read_text(encoding="utf-8"))["demonstrations"]
        weights = Place(SIZE, (), args.out, args.out).snapshot(f"clone-{count}", SIZE.sft_steps)
    sims = {task: LiberoSimulator("libero_object", task) for task in SIZE.tasks}
    try:
        lines = film_failures(args, weights, sims)
    finally:
        for sim in sims.values():
            sim.close()
    report = summarise(lines, weights.parent.parent.name)
    for name, found in report["causes"].items():
        print(f"{name}: {found['count']}, of which the camera shows {found['shown']}")
    if args.json is not None:
        write_json(args.json, report)
    if args.gallery is not None:
        gallery(args.out / args.name, lines).save(args.gallery, quality=70)


if __name__ == "__main__":
    main(tyro.cli(Args))
