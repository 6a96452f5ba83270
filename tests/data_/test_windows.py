"""Pixel clips and their loader, on episodes whose every frame and action say where they are."""

from dataclasses import dataclass
from itertools import islice

import numpy as np
import pytest
import torch

from prophet_gym.data import Episode, Hdf5Source, LeRobotSource
from prophet_gym.data._windows import MixtureEntry, WindowDataset, WindowLoader, WindowShape

from .conftest import CAMERA, level

SHAPE = WindowShape(history=5, steps=4, size=(16, 16))


@dataclass(frozen=True)
class Numbered:
    """Frame i and action i of episode e are `first + 40 e + i`; the last entry of `lengths` may lie about itself."""

    lengths: tuple[int, ...]
    first: int = 0
    robot: str = "one"
    width: int = 7
    short: int = 0

    def __len__(self) -> int:
        return len(self.lengths)

    def steps(self, index: int) -> int:
        return self.lengths[index]

    def episode(self, index: int) -> Episode:
        count, begin = self.lengths[index] - self.short, self.first + 40 * index
        numbers = np.arange(begin, begin + count, dtype=np.float32)
        actions = numbers[:, None] * np.ones((1, self.width), np.float32)

        def read(start: int, stop: int) -> np.ndarray:
            return np.arange(begin + start, begin + stop, dtype=np.uint8)[:, None, None, None] * np.ones(
                (1, 16, 16, 3), np.uint8
            )

        return Episode(f"episode {index}", actions, f"task {index}", 20.0, self.robot, read)


def numbers(images: torch.Tensor) -> torch.Tensor:
    return images[..., 0, 0, 0].long()


def current(batch) -> list[int]:
    """What names a clip: its current frame."""
    return numbers(batch.frames)[:, 0].tolist()


@pytest.fixture
def mixture():
    """17 clips of robot one (its second episode is too short), 7 of robot two."""
    return [MixtureEntry(Numbered((20, 3))), MixtureEntry(Numbered((10,), first=200, robot="two"))]


def test_history_frames_and_actions_follow_time_and_stay_in_their_episode():
    batch = next(iter(WindowLoader(WindowDataset([MixtureEntry(Numbered((20, 3, 9)))], SHAPE), rows=23)))
    now = numbers(batch.frames)[:, 0]
    first = 40 * (now // 40)
    assert sorted(now.tolist()) == [*range(17), *range(80, 86)]
    assert torch.equal(numbers(batch.frames), now[:, None] + torch.arange(5))
    assert torch.equal(batch.actions[:, :, 0].long(), now[:, None] + torch.arange(4))
    assert torch.equal(numbers(batch.history), torch.maximum(now[:, None] - torch.arange(5, 0, -1), first[:, None]))
    assert [f"task {n // 40}" for n in now.tolist()] == list(batch.instructions)


def test_an_epoch_reads_every_clip_of_every_robot_once(mixture):
    def epoch(seed=0):
        return list(islice(WindowLoader(WindowDataset(mixture, SHAPE), rows=6, seed=seed), 4))

    batches = epoch()
    assert [len(batch.fps) for batch in batches] == [6, 6, 6, 6]
    read = [number for batch in batches for number in current(batch)]
    assert sorted(read) == [*range(17), *range(200, 207)]
    robots = [robot for batch in batches for robot in batch.robots]
    assert robots == ["two" if number >= 200 else "one" for number in read]
    again = [number for batch in epoch() for number in current(batch)]
    assert again == read, "the order is a function of the seed"
    assert [number for batch in epoch(seed=1) for number in current(batch)] != read


def test_weights_say_how_often_a_robot_is_seen(mixture):
    weighted = [MixtureEntry(entry.source, weight) for entry, weight in zip(mixture, (1, 3), strict=True)]
    loader = WindowLoader(WindowDataset(weighted, SHAPE), rows=8)
    robots = [robot for batch in islice(loader, 3) for robot in batch.robots]
    assert (robots.count("one"), robots.count("two")) == (6, 18)


def test_a_stopped_run_goes_on_with_the_next_batch(mixture):
    def loader():
        return WindowLoader(WindowDataset(mixture, SHAPE), rows=5)

    whole = [current(batch) for batch in islice(loader(), 15)]
    stopped = loader()
    taken = [current(batch) for batch in islice(stopped, 7)]
    state = stopped.state_dict()
    resumed = loader()
    resumed.load_state_dict(state)
    assert taken + [current(batch) for batch in islice(resumed, 8)] == whole


def test_ranks_read_disjoint_shares_and_resume_together(mixture):
    def rank(number):
        return WindowLoader(WindowDataset(mixture, SHAPE), rows=3, rank=number, ranks=2)

    read = [[current(batch) for batch in islice(rank(number), 4)] for number in range(2)]
    assert sorted(n for batches in read for batch in batches for n in batch) == [*range(17), *range(200, 207)]
    ahead, behind = rank(0), rank(1)
    next(iter(ahead))
    behind.load_state_dict(ahead.state_dict())
    assert [current(batch) for batch in islice(behind, 3)] == read[1][1:]


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_workers_decode_the_same_row_of_two_kinds_of_files(lerobot, libero_file):
    entries = [MixtureEntry(LeRobotSource(lerobot("v3"), CAMERA)), MixtureEntry(Hdf5Source(libero_file()))]
    clips = WindowDataset(entries, SHAPE)
    alone, helped = WindowLoader(clips, rows=6), WindowLoader(clips, rows=6, workers=2)
    taken, robots = [], set()
    for batch, other in zip(islice(alone, 5), islice(helped, 5), strict=True):
        assert torch.equal(batch.frames, other.frames)
        assert torch.equal(batch.actions, other.actions)
        taken.append(helped.read)
        robots |= set(other.robots)
    assert taken == [6, 12, 18, 24, 30], "what workers read ahead does not count"
    assert robots == {"so100", "Panda"}


def test_clips_of_a_file_are_resized(lerobot):
    clip = WindowDataset([MixtureEntry(LeRobotSource(lerobot("v2"), CAMERA))], WindowShape(2, 3, (32, 40)))[0, 4]
    assert clip.frames.shape == (1, 4, 32, 40, 3)
    assert np.diff(level(clip.frames[0].numpy())) == pytest.approx([4, 4, 4], abs=1.5)


def test_commands_become_the_models_numbers(mixture):
    double = MixtureEntry(mixture[0].source, plan=lambda actions, tools: (2 * actions, tools))
    assert WindowDataset([double], SHAPE)[0, 6].actions[0, :, 0].tolist() == [12, 14, 16, 18]


def test_what_does_not_fit_is_refused(mixture):
    with pytest.raises(ValueError, match="a weight or none of them"):
        WindowDataset([mixture[0], MixtureEntry(mixture[1].source, 1.0)], SHAPE)
    with pytest.raises(ValueError, match="data set 1, a Numbered, has no episode of 4 steps"):
        WindowDataset([mixture[0], MixtureEntry(Numbered((3, 2)))], SHAPE)
    with pytest.raises(ValueError, match="must have the 9 actions that its index states, has 7"):
        WindowDataset([MixtureEntry(Numbered((9,), short=2))], SHAPE)[0, 0]
    mixed = WindowDataset([mixture[0], MixtureEntry(Numbered((20,), width=14, robot="two"))], SHAPE)
    with pytest.raises(ValueError, match=r"many action dimensions, got 7 \(one\), 14 \(two\); give every MixtureEntry"):
        next(iter(WindowLoader(mixed, rows=34)))
    with pytest.raises(ValueError, match=r"rank in 0\.\.ranks - 1, got rows=2, rank=2, ranks=2"):
        WindowLoader(mixed, rows=2, rank=2, ranks=2)


def test_a_state_of_other_data_is_refused(mixture):
    state = WindowLoader(WindowDataset(mixture, SHAPE), rows=5).state_dict()
    other = WindowLoader(WindowDataset(mixture[:1], SHAPE), rows=5)
    with pytest.raises(ValueError, match=r"same data, weights and seed, comes from counts=\[17, 7\] \(here \[17\]\)"):
        other.load_state_dict(state)
