"""Publish a checkpoint on the Hub: everything is checked before anything is sent, and again after it is fetched."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from prophet_gym._io.companions import CARD, env_id, is_ours
from prophet_gym._io.files import read_json, reading
from prophet_gym._io.header import CONFIG, read_header
from prophet_gym._io.hub import (
    MANIFEST,
    About,
    Measure,
    fetch,
    keep_card,
    offered,
    parse_hub_name,
    without_places,
    write_card,
)
from prophet_gym.checkpoint import Checkpoint
from prophet_gym.envs import InitialStates
from prophet_gym.envs._episodes import FPS
from prophet_gym.envs._initial_states import INDEX_NAME
from prophet_gym.envs.single_env import ProphetEnv
from prophet_gym.errors import CheckpointError, MissingWeightsError

ENDINGS = (
    ".json", ".jsonl", ".safetensors", ".npz", ".webp", ".png", ".jpg", ".svg", ".gif", ".mp4", ".md", ".txt",
    "LICENSE",
)  # fmt: skip
"""How the names of published files end; none of these is executed when it is read."""
CALIBRATION = "calibration.json"
"""Report of `prophet calibrate --json` in a checkpoint's folder, beside that of `prophet evaluate --card`."""

_BODY = """# {title}

A learned robot simulator behind Gymnasium ([ProphRL](https://arxiv.org/abs/2511.20633)): frames and actions in, the
frames that follow out.

```python
import gymnasium as gym
import prophet_gym  # pip install prophet-gym

env = gym.make("{id}", weights="{repo}")
```

The same repository is an environment of LeRobot (EnvHub), which runs its `env.py`:

```python
from lerobot.envs.factory import make_env

envs = make_env("{repo}", n_envs=2, trust_remote_code=True)
```

`prophet pull {repo} --verify` compares every file with `{manifest}` and loads all of them.

|  |  |
| --- | --- |
{facts}
"""


@dataclass(frozen=True)
class Checked:
    """Hold a checkpoint of which everything was loaded, and what was found: facts for the card, and what it lacks."""

    checkpoint: Checkpoint
    facts: dict[str, str]
    measures: tuple[Measure, ...]
    lacks: tuple[str, ...] = field(default=())


def check_checkpoint(folder: Path, device: str = "cpu") -> Checked:
    """Load everything in a checkpoint's folder, dream one chunk from each of its splits, and return what was found.

    Raises:
        CheckpointError: A file is damaged, or not the one that the folder's manifest names; the initial states are not
            of the frames that the world model dreams; or the suite or the networks of a report are other ones.
        MissingWeightsError: It has no initial states, or is no checkpoint at all.
    """
    if not folder.is_dir():
        raise MissingWeightsError(f"no folder at {folder}; give the checkpoint's, which has a {CONFIG}")
    if not (folder / CONFIG).is_file() and (folder / "checkpoint" / CONFIG).is_file():
        raise MissingWeightsError(f"{folder} is that of a run; give {folder / 'checkpoint'}, which it has trained")
    checkpoint = Checkpoint.named(str(folder.absolute()))
    splits = sorted(path.parent.name for path in (folder / "starts").glob(f"*/{INDEX_NAME}"))
    if not splits:
        raise MissingWeightsError(
            f"{folder} has no initial states, so no episode could begin: `prophet starts --world-model {folder}` "
            "makes them"
        )
    states = {split: checkpoint.initial_states(split) for split in splits}
    world_model = checkpoint.world_model(device)
    head = (folder / "success_head").is_dir()
    reward = checkpoint.reward_model("success", device, chunk=world_model.chunk) if head else None
    reader = checkpoint.object_reader()
    for split, pool in states.items():
        _try(checkpoint, world_model, reward, pool, f"{folder / 'starts' / split}")
    size, config = " x ".join(map(str, world_model.frame_size)), checkpoint.config
    facts = {
        "world model": f"`{checkpoint.class_name}`, {world_model.chunk} actions of {world_model.action_dim} a chunk",
        "frames": f"{size} pixels{_cameras(checkpoint)}",
        "robot": f"`{checkpoint.robot}`",
        "suite, look": ", ".join(f"`{config[key]}`" for key in ("suite", "look") if key in config),
        "initial states": "; ".join(f"`{split}`: {_counted(pool)}" for split, pool in states.items()),
        "reward model": "`success_head`" if head else "none: every reward is 0 and not scored",
        "object reader": "none" if reader is None else "`object_reader`",
    }
    lacks = () if head else ("it has no reward model: every reward is 0 and not scored (`prophet train-reward`)",)
    return Checked(checkpoint, facts, tuple(_measures(folder, checkpoint)), lacks)


def package(
    folder: Path, repo: str, *, device: str = "cpu", license: str | None = None
) -> tuple[dict[str, Path | bytes], list[str], Checked]:
    """Check a checkpoint's folder and return the files to publish, the names of those left out, and what was found.

    A card that somebody wrote is kept; otherwise one is written, for which something must have been measured.

    Raises:
        CheckpointError: As in `check_checkpoint`; or there is neither a card nor a measurement.
    """
    checked = check_checkpoint(folder, device)
    card, (files, left_out) = folder / CARD, offered(folder, ENDINGS)
    title = repo.split("/")[1]
    tags = ("robotics", "world-model", "gymnasium", "lerobot", "envhub", checked.checkpoint.robot)
    about = About(title, tags, license=license)
    if not is_ours(card):
        text = keep_card(card, about, checked.measures)
    elif not checked.measures:
        with_ = f"--world-model {folder}{_data(checked.checkpoint)}"
        raise CheckpointError(
            f"{folder} has no card, and nothing in it was measured that one could show: run `prophet evaluate {with_} "
            f"--card` or `prophet calibrate {with_} --json {folder / CALIBRATION}`, or write {card} yourself"
        )
    else:
        facts = "\n".join(f"| {name} | {fact} |" for name, fact in checked.facts.items() if fact)
        told = {"id": env_id(checked.checkpoint.robot), "repo": repo, "manifest": MANIFEST}
        text = write_card(about, _BODY.format(title=title, facts=facts, **told), checked.measures)
    env = Path(__file__).with_name("envhub_checkpoint.txt").read_text(encoding="utf-8").format(repo=repo)
    needs = f"prophet-gym>={version('prophet-gym')}\n"
    files |= {CARD: text.encode(), "env.py": env.encode(), "requirements.txt": needs.encode()}
    return without_places(files), left_out, checked


def pull(name: str, *, verify: bool = False, again: bool = False, device: str = "cpu") -> tuple[Path, Checked | None]:
    """Fetch a checkpoint into the Hub's cache; return its folder and, with `verify`, what was found when it was loaded.

    Raises:
        MissingWeightsError: There is no such repository, or with `verify` no manifest in it.
        CheckpointError: A file is not the one that the manifest names, or cannot be loaded.
    """
    folder = fetch(parse_hub_name(name), needs=CONFIG, again=again)
    if not verify:
        return folder, None
    if not (folder / MANIFEST).is_file():
        raise MissingWeightsError(f"{name} has no {MANIFEST} to verify it by: it was not written by `prophet push`")
    return folder, check_checkpoint(folder, device)


def _try(checkpoint: Checkpoint, world_model: Any, reward: Any, pool: InitialStates, where: str) -> None:
    """Dream one chunk from one of the initial states; CheckpointError unless all of them fit."""
    robot = checkpoint.embodiment
    with reading(f"{where} cannot be dreamt from", "write the initial states again", CheckpointError):
        env = ProphetEnv(
            world_model, pool, reward_model=reward, action_spec=robot.action_spec, fps=robot.control_hz or FPS
        )
        env.reset(seed=0)
        low, high = env.action_space.low, env.action_space.high  # pyright: ignore[reportAttributeAccessIssue]
        observation, value, *_, info = env.step(((low + high) / 2).astype(np.float32))
        shown = (observation["image"].shape, np.isfinite(float(value)), len(info["frames"]))
        wanted = ((*world_model.frame_size, 3), True, world_model.chunk)
        if shown != wanted:
            raise CheckpointError(f"a step gave image, finite reward and frames {shown}, not {wanted}")


def _measures(folder: Path, checkpoint: Checkpoint) -> list[Measure]:
    """Return what the reports in a folder say of its dreams and its reward model."""
    found: list[Measure | None] = []
    for path in sorted(folder.glob("evaluation*.json")):
        report = _report(path, checkpoint)
        on = f"held-out episodes of {report.get('suite')}, {report.get('starts')} starts, look {report.get('look')}"
        for horizon, scores in report.get("horizons", {}).items():
            at = f"at {horizon} frames"
            dream, margins = scores["conditions"]["dream"], scores["margins"]
            found.append(Measure.read("psnr", f"PSNR {at}, dB", on, dream.get("psnr")))
            found.append(Measure.read("ssim", f"SSIM {at}", on, dream.get("ssim")))
            found.append(Measure.read("psnr", f"PSNR over a copied frame {at}, dB", on, margins.get("psnr_over_copy")))
    for path in sorted(folder.glob("calibration*.json")):
        report = _report(path, checkpoint)
        if str(report.get("judge", "success")).partition("?")[0] not in ("success", "classifier", "auto"):
            continue  # of another reward model than the checkpoint's own
        for world, called in {"real": "recorded episodes", "dream": "dreams of recorded actions"}.items():
            scores = report.get(world, {}).get("episodes", {})
            on = f"{called}, {report.get('suite')}, {report.get('starts')} starts"
            for metric, said in {"precision": "precision", "recall": "recall"}.items():
                found.append(Measure.read(metric, f"reward model, {said}", on, scores.get(metric)))
    return [each for each in found if each is not None]


def _report(path: Path, checkpoint: Checkpoint) -> dict[str, Any]:
    report, own = read_json(path, CheckpointError), checkpoint.suites
    if report.get("suite") not in (None, *own, checkpoint.config.get("suite")):
        raise CheckpointError(
            f"{path} was measured on {report['suite']}, and the checkpoint is of {', '.join(own)}: measure this one"
        )
    marks = report.get("marks")  # those of the networks, where a command wrote it into the folder itself
    if marks is not None and marks != read_header(checkpoint.folder).marks:
        raise CheckpointError(
            f"{path} was measured with other weights than {checkpoint.folder} has: run `prophet evaluate --world-model "
            f"{checkpoint.folder}{_data(checkpoint)} --card` again, or delete it"
        )
    return report


def _data(checkpoint: Checkpoint) -> str:
    """Return the option that a command needs to measure a checkpoint whose episodes no simulator records."""
    return " --data lerobot:PATH" if "cameras" in checkpoint.config else ""


def _cameras(checkpoint: Checkpoint) -> str:
    names: Sequence[str] = checkpoint.config.get("cameras", ())
    return f", cameras {', '.join(map(str, names))}" if names else ""


def _counted(pool: InitialStates) -> str:
    return f"{len(pool)} of {len(pool.tasks)} tasks ({', '.join(pool.suites)})"
