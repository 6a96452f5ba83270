"""Draw test episodes of the third arm beside what models dream of the same actions, from the first frame alone.

python -m experiments.other_arms.picture --episodes 0 3 --out docs/images/other_arms.webp
"""

import argparse
from pathlib import Path

import cv2
import imageio.v3 as iio

from experiments.other_arms.figures import NAMES
from experiments.other_arms.run import THIRD
from prophet_gym._io.pictures.panels import contact_sheet, stack
from prophet_gym.checkpoint import Checkpoint
from prophet_gym.evaluation._dreams import dreamt_frames
from prophet_gym.train._robot import kept_out

MODELS = ("two_arms", "nothing")
TIMES = (0, 24, 48, 64, 96, 128, 160)


def main() -> None:
    """Write one picture with a sheet for each episode."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, default=Path("outputs/arms/models"))
    parser.add_argument("--sets", type=Path, default=Path("outputs/arms/sets"))
    parser.add_argument("--episodes", type=int, nargs="+", default=[0, 3], help="numbers of test episodes")
    parser.add_argument("--out", type=Path, default=Path("docs/images/other_arms.webp"))
    given = parser.parse_args()
    data = f"lerobot:{given.sets / THIRD}_test,episodes={'+'.join(map(str, given.episodes))}"
    sheets = [{} for _ in given.episodes]
    for name in MODELS:
        checkpoint = Checkpoint.named(str(given.models / name / "checkpoint"))
        episodes = kept_out(data, checkpoint, len(given.episodes))
        for number, frames in dreamt_frames(checkpoint.world_model("cpu"), episodes, len(episodes), seed=0):
            sheets[number].setdefault("recorded", episodes[number].frames())
            sheets[number][NAMES[name]] = frames
    # The cameras lie below each other in a frame; nothing is smoothed.
    drawn = [
        contact_sheet(
            {
                label: [cv2.resize(frame, None, fx=1.5, fy=1.5, interpolation=cv2.INTER_NEAREST) for frame in video]
                for label, video in sheet.items()
            },
            TIMES,
            f"{THIRD}, test episode {number}: what a model began with, then 100 episodes of {THIRD}",
        )
        for number, sheet in zip(given.episodes, sheets, strict=True)
    ]
    given.out.parent.mkdir(parents=True, exist_ok=True)
    iio.imwrite(given.out, stack(drawn), quality=80)


if __name__ == "__main__":
    main()
