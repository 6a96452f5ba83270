"""Measure whether an object that was grasped is still that object in the dream.

    python -m benchmarks.identity --json benchmarks/results/dream/identity.json --images docs/images

Recorded episodes are dreamt open loop from their first frame under their own actions. While the recording's hand
carries the target, the crop at the DREAM's hand (where its own tracker has it) goes to a classifier that learned from
frames of the simulator alone: the question is what the dream shows in its hand, not where that hand is, which
`prophet evaluate` measures. Moments at which it is more than 5 cm from the recorded hand are counted and left out,
because view and surroundings differ there.

Episodes: `official` ones from official initial states, from which no dream was trained, and those of `data` that the
classifier did not learn from; the bundled dream learned from a recording like it. Controls: recorded frames; these cut
where the dream's hand is; recorded frames through the autoencoder; the dream under another episode's actions; frames
in which another object is carried; recorded background. `out` keeps the dreams: the same command continues.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zlib import crc32

import cv2
import numpy as np
import torch
import tyro
from jaxtyping import Float, UInt8
from tqdm import tqdm

from benchmarks.identity.judge import KINDS, NOTHING, Judge, background, below_hand, cut, examples, held, train
from benchmarks.identity.pictures import Worst, draw_curves, draw_worst
from benchmarks.speed.harness import recorded
from prophet_gym._io.atomic import atomic_file
from prophet_gym.checkpoint import Checkpoint
from prophet_gym.data import Episode, held_out, list_episodes, read_episode
from prophet_gym.data._recording import begin_recording, name_of
from prophet_gym.estimates import bootstrap
from prophet_gym.evaluation._dreams import begin_episodes, dream
from prophet_gym.evaluation._official import record_official
from prophet_gym.evaluation._report import as_json

NEAR = 0.05
"""Metres from the dream's hand to the recorded one within which a moment counts."""
AGES = {"since_start": 32, "since_grasp": 16}
"""Frames of each step of a curve."""
KNOWN = 0.8
"""Probability of its class that a recorded crop must have for the dreamt one to be shown among the worst."""
COLUMNS = ("episode", "task", "official", "since_start", "since_grasp", "hand", "true", "right", "nothing", "colour")
SCORES = ("true", "right", "nothing", "colour")


@dataclass(frozen=True)
class Args:
    """Follow the identity of grasped objects."""

    data: Path = Path("outputs/recordings")  # A recording: the classifier's frames, and episodes to dream.
    out: Path = Path("outputs/identity")  # The classifier and the dreams.
    checkpoint: str = "bundled"
    official: int = 60  # Episodes from official initial states, recorded where they are missing.
    held_out: float = 0.2  # Share of `data` that the classifier does not learn from.
    others: int = 3  # One episode in so many is also dreamt under another's actions.
    steps: int = 1500  # Of the classifier's training.
    batch: int = 4  # Dreams at once.
    seed: int = 0
    json: Path | None = None
    images: Path | None = None  # Folder for the pictures.


@dataclass(frozen=True)
class Carried:
    """Hold an episode in which the target is carried, and the ends of chunks (frame numbers) at which it is."""

    name: str
    episode: Episode
    moments: np.ndarray
    grasp: int

    @property
    def target(self) -> str:
        return self.episode.sim.target


@dataclass(frozen=True)
class Shown:
    """Hold dreamt frames at an episode's moments, and where the dream's hand is in them (metres)."""

    frames: UInt8[np.ndarray, "n h w 3"]
    gripper: Float[np.ndarray, "n 3"]


def carried(paths: Sequence[Path], group: str, chunk: int) -> list[Carried]:
    """Return the episodes in which the target is carried at the end of a chunk."""
    found = []
    for path in paths:
        episode = read_episode(path)
        carrying = np.flatnonzero(held(episode))
        moments = carrying[carrying % chunk == 0]
        if len(moments):
            found.append(Carried(f"{group}/{name_of(path)}", episode, moments, int(carrying[0])))
    return found


def dreams(
    world_model: Any, pairs: Sequence[tuple[Carried, Carried]], folder: Path, args: Args
) -> Iterator[tuple[str, Shown]]:
    """Yield each episode as it is dreamt under the actions of the other of its pair; what is in `folder` is read."""
    missing = [pair for pair in pairs if not (folder / f"{pair[0].name}.npz").is_file()]
    missing.sort(key=lambda pair: pair[0].moments[-1])
    for first in tqdm(range(0, len(missing), args.batch), desc=folder.name, mininterval=5):
        batch = missing[first : first + args.batch]
        actions = np.zeros((len(batch), batch[-1][0].moments[-1], world_model.action_dim), np.float32)
        for row, (each, other) in enumerate(batch):
            told = other.episode.actions[: each.moments[-1]]
            actions[row, : len(told)] = told
        state = begin_episodes(world_model, [each.episode for each, _ in batch])
        # One seed an episode, whatever the batch around it, and the same under both actions.
        seeds = [args.seed + crc32(each.name.encode()) for each, _ in batch]
        found = dream(world_model, state, actions, seeds)
        if found.gripper is None:
            raise ValueError(f"{args.checkpoint} must track its gripper, and does not: take one that TracksGripper")
        for row, (each, _) in enumerate(batch):
            at = found.gripper[row][each.moments // world_model.chunk - 1]
            with atomic_file(folder / f"{each.name}.npz") as path:
                np.savez_compressed(path, frames=found.frames[row, each.moments - 1], gripper=at)
    for each, _ in pairs:
        with np.load(folder / f"{each.name}.npz") as stored:
            yield each.name, Shown(stored["frames"], stored["gripper"])


def colour_distance(a: UInt8[np.ndarray, "n s s 3"], b: UInt8[np.ndarray, "n s s 3"]) -> Float[np.ndarray, " n"]:
    """Return the mean distance in CIE Lab (1976) between the middles of crops, pixel by pixel."""
    middle = slice(a.shape[1] // 4, -(a.shape[1] // 4))
    one, other = (
        cv2.cvtColor(crops[:, middle, middle].reshape(len(crops), -1, 3).astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
        for crops in (a, b)
    )
    return np.linalg.norm(one - other, axis=-1).mean(axis=1)


def crops_of(
    world_model: Any, each: Carried, dreamt: Shown, others: Mapping[str, Shown], another: Carried, seed: int
) -> dict[str, UInt8[np.ndarray, "n s s 3"]]:
    """Return the crop at every moment as each condition shows it."""
    episode, frames = each.episode, each.episode.frames()
    hand, real = below_hand(episode, episode.gripper_position[each.moments]), frames[each.moments]
    at_dream = below_hand(episode, dreamt.gripper)
    # The first frame goes along: a dream keeps the background from it.
    plain = world_model.reconstruct(torch.from_numpy(frames[np.append(0, each.moments)][None]))[0, 1:].cpu().numpy()
    strange = another.moments[np.linspace(0, len(another.moments) - 1, len(real)).astype(int)]
    found = {
        "recorded": cut(real, hand),
        "recorded_at_dream": cut(real, at_dream),
        "autoencoder": cut(plain, hand),
        "dream": cut(dreamt.frames, at_dream),
        "another_object": cut(
            another.episode.frames()[strange], below_hand(another.episode, another.episode.gripper_position[strange])
        ),
        "background": cut(real, background(episode, each.moments, np.random.default_rng(seed))),
    }
    if each.name in others:
        found["other_actions"] = cut(others[each.name].frames, below_hand(episode, others[each.name].gripper))
    return found


def scored(
    judge: Judge, each: Carried, number: int, dreamt: Shown, crops: Mapping[str, np.ndarray]
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Return a row of `COLUMNS` for every moment, and the probabilities of all classes, of each condition."""
    label, nothing = (judge.classes.index(name) for name in (each.target, NOTHING))
    away = np.linalg.norm(dreamt.gripper - each.episode.gripper_position[each.moments], axis=1)
    about = [np.full(len(away), value) for value in (number, each.episode.sim.task, each.name.startswith("official"))]
    chances = {condition: judge.probabilities(cropped) for condition, cropped in crops.items()}
    rows = {}
    for condition, found in chances.items():
        best, colour = found.argmax(1), colour_distance(crops[condition], crops["recorded"])
        own = (found[:, label], best == label, best == nothing, colour)
        rows[condition] = np.stack([*about, each.moments, each.moments - each.grasp, away, *own], axis=1)
    return rows, chances


def lowest(
    judge: Judge, each: Carried, near: np.ndarray, crops: Mapping[str, np.ndarray], chances: Mapping[str, np.ndarray]
) -> list[Worst]:
    """Return an episode's worst moment: of those where the judge knows the recorded crop, the one it denies most."""
    label = judge.classes.index(each.target)
    known = np.flatnonzero(near & (chances["recorded"][:, label] > KNOWN))
    if not len(known):
        return []
    at = known[chances["dream"][known, label].argmin()]
    best = int(chances["dream"][at].argmax())
    real, kept, became = (float(chances[c][at, n]) for c, n in (("recorded", label), ("dream", label), ("dream", best)))
    shown = (crops["recorded"][at], crops["dream"][at])
    return [Worst(each.name, each.target, judge.classes[best], int(each.moments[at]), (real, kept, became), shown)]


def estimates(rows: Float[np.ndarray, "n columns"], scores: Sequence[str] = SCORES) -> dict[str, Any]:
    """Return the mean over episodes of each score, with its interval."""
    own = [rows[rows[:, 0] == number] for number in np.unique(rows[:, 0])]
    return {name: as_json(bootstrap(np.array([e[:, COLUMNS.index(name)].mean() for e in own]))) for name in scores}


def tables(rows: Mapping[str, np.ndarray], names: Mapping[int, str]) -> dict[str, Any]:
    """Return the scores of every condition where the dream's hand is near: in all, by start, by age and by object."""
    hand, official = COLUMNS.index("hand"), COLUMNS.index("official")
    near = {condition: found[found[:, hand] <= NEAR] for condition, found in rows.items()}

    def by(column: str, label: Callable[[int], Any]) -> dict[str, Any]:
        parts: dict[str, Any] = {}
        for value in sorted({label(int(value)) for value in near["dream"][:, COLUMNS.index(column)]}):
            parts[str(value)] = {
                condition: estimates(part)
                for condition, found in near.items()
                if len(part := found[[label(int(each)) == value for each in found[:, COLUMNS.index(column)]]])
            }
        return parts

    all_of_it = rows["dream"].copy()
    all_of_it[:, COLUMNS.index("right")] = all_of_it[:, hand] > NEAR
    starts = ("random", "official")
    found = [np.unique(rows["dream"][rows["dream"][:, official] == flag, 0]) for flag in (0, 1)]
    return {
        "episodes": {start: len(each) for start, each in zip(starts, found, strict=True)},
        "moments": len(near["dream"]),
        "hand_elsewhere": estimates(all_of_it, ["right"])["right"],
        "conditions": {condition: estimates(found) for condition, found in near.items()},
        "starts": by("official", lambda flag: starts[flag]),
        **{age: by(age, lambda frames, step=step: frames // step * step) for age, step in AGES.items()},
        "objects": by("task", lambda task: names[task]),
    }


def trained(args: Args) -> tuple[Judge, list[Path], dict[str, Any]]:
    """Return the classifier, the paths that it did not learn from, and how well it does on these."""
    paths = list_episodes(args.data)
    left = [path for path in paths if held_out(name_of(path), args.held_out)]
    kept, others = [read_episode(path) for path in paths if path not in left], [read_episode(path) for path in left]
    names = {name for each in kept for name in each.sim.object_names if not name.startswith("basket")}
    judge = train(kept, [*sorted(names), NOTHING], args.steps, args.out, args.seed)
    crops, labels, kinds = examples(others, judge.classes, np.random.default_rng(args.seed), shift=False)
    right = judge.probabilities(crops).argmax(1) == labels
    report = {
        "train_episodes": len(kept),
        "held_out_episodes": len(left),
        "classes": judge.classes,
        "parameters": sum(parameter.numel() for parameter in judge.parameters()),
        "steps": args.steps,
        "held_out": {
            kind: {"crops": int((kinds == n).sum()), "accuracy": round(float(right[kinds == n].mean()), 4)}
            for n, kind in enumerate(KINDS)
            if (kinds == n).any()
        },
    }
    return judge, left, report


def measure(args: Args) -> dict[str, Any]:
    """Train or resume the classifier, dream what is not dreamt yet, and return the report."""
    begin_recording(args.out, {"checkpoint": args.checkpoint, "seed": args.seed}, ("checkpoint", "seed"))
    judge, left, about = trained(args)
    checkpoint = Checkpoint.named(args.checkpoint)
    world_model: Any = checkpoint.world_model()
    official = record_official(checkpoint, args.official, workers=1) if args.official else []
    episodes = carried(official, "official", world_model.chunk) + carried(left, "random", world_model.chunk)
    # The next episode of another object: its actions, and what it carries.
    later = [(*episodes[number + 1 :], *episodes[:number]) for number in range(len(episodes))]
    following = [next(o for o in rest if o.target != e.target) for e, rest in zip(episodes, later, strict=True)]
    pairs = list(zip(episodes, following, strict=True))
    others = dict(dreams(world_model, pairs[:: args.others], args.out / "other_actions", args))
    own = dreams(world_model, [(each, each) for each in episodes], args.out / "dreams", args)
    rows, becomes, worst = defaultdict(list), defaultdict(list), []
    for number, ((each, another), (_, dreamt)) in enumerate(zip(pairs, own, strict=True)):
        crops = crops_of(world_model, each, dreamt, others, another, args.seed + number)
        found, chances = scored(judge, each, number, dreamt, crops)
        for condition, part in found.items():
            rows[condition].append(part)
        near = found["dream"][:, COLUMNS.index("hand")] <= NEAR
        if near.any():
            becomes[each.target].append(np.eye(len(judge.classes))[chances["dream"][near].argmax(1)].mean(0))
        worst += lowest(judge, each, near, crops, chances)
    report = {"checkpoint": args.checkpoint, "near_metres": NEAR, "classifier": about}
    names = {each.episode.sim.task: each.target for each in episodes}
    report |= tables({condition: np.concatenate(parts) for condition, parts in rows.items()}, names)
    report["becomes"] = {
        name: {kind: round(float(share), 4) for kind, share in zip(judge.classes, np.mean(shares, 0), strict=True)}
        for name, shares in sorted(becomes.items())
    }
    if args.images is not None:
        draw_curves(report, args.images / "identity.png", AGES)
        draw_worst(worst, args.images / "identity_worst.png")
    return report


def main(args: Args) -> None:
    """Measure, and write the report."""
    with recorded(args.json) as found:
        found |= measure(args)
    for condition, scores in found["conditions"].items():
        print(condition, {name: scores[name]["mean"] for name in SCORES})


if __name__ == "__main__":
    main(tyro.cli(Args))
