"""The order of windows against what every training run needs of it."""

from dataclasses import dataclass
from itertools import chain, islice

import numpy as np
import pytest

from prophet_gym.data import MixtureEntry, WindowDataset, WindowLoader, WindowShape
from prophet_gym.data._windows import epoch_order, quotas, shuffled_passes


@dataclass(frozen=True)
class Long:
    """One episode, of which no frame is ever read."""

    length: int

    def __len__(self) -> int:
        return 1

    def steps(self, index: int) -> int:
        del index
        return self.length

    def episode(self, index: int):
        raise AssertionError(index)


def loader(rows=4, **options) -> WindowLoader:
    """Of 13 windows of one source and 7 of another."""
    windows = WindowDataset([MixtureEntry(Long(13)), MixtureEntry(Long(7))], WindowShape(0, 1, (8, 8)))
    return WindowLoader(windows, rows, seed=3, **options)


def row(start=0, stop=40, **options) -> list[list[tuple[int, int]]]:
    """The (source, window) pairs of whole batches, of all ranks from `start` to `stop`."""
    made = loader(**options)
    made.read = start
    return list(islice(made._places(), (stop - start) // (made.rows * made.ranks)))


def flat(rows):
    return list(chain.from_iterable(rows))


def test_an_epoch_without_weights_reads_every_window_once():
    order = epoch_order([13, 7], quotas([13, 7], 20), seed=0, epoch=5)
    everything = [(0, clip) for clip in range(13)] + [(1, clip) for clip in range(7)]
    assert sorted(map(tuple, order.tolist())) == everything
    assert order.tolist() != [list(pair) for pair in everything]


def test_weights_are_met_exactly_and_a_window_repeats_only_after_all_were_read():
    shares = quotas([3, 1], 40)
    assert shares == [30, 10]
    read = np.concatenate([epoch_order([13, 100], shares, seed=0, epoch=epoch) for epoch in range(4)])
    small, large = read[read[:, 0] == 0, 1], read[read[:, 0] == 1, 1]
    assert len(small) == 120
    counts = np.bincount(small, minlength=13)
    assert set(counts.tolist()) <= {9, 10}, "120 readings of 13 clips"
    assert len(set(large.tolist())) == len(large) == 40


@pytest.mark.parametrize("weights", [(1, 1, 1), (0.7, 0.2, 0.1), (5, 1e-3, 5)])
def test_quotas_add_up_and_are_within_a_clip_of_the_weights(weights):
    shares = quotas(weights, 10_001)
    assert sum(shares) == 10_001
    assert np.abs(np.array(shares) - np.array(weights) / sum(weights) * 10_001).max() < 1


def test_bad_weights_are_refused():
    with pytest.raises(ValueError, match=r"must be above zero, got \[1, 0\]"):
        quotas([1, 0], 10)
    with pytest.raises(ValueError, match=r"no window for source 1 of weight 0.001 .* give it more weight"):
        quotas([1, 0.001], 10)


def test_passes_are_permutations_and_cuts_agree_with_the_whole_row():
    whole = shuffled_passes(7, 0, 35, seed=1, source=2)
    for number in range(5):
        assert sorted(whole[7 * number : 7 * number + 7].tolist()) == list(range(7))
    assert whole[:7].tolist() != whole[7:14].tolist()
    assert whole[10:27].tolist() == shuffled_passes(7, 10, 17, seed=1, source=2).tolist()
    assert whole.tolist() != shuffled_passes(7, 0, 35, seed=2, source=2).tolist()


@pytest.mark.parametrize("ranks", [1, 2, 5])
def test_ranks_share_the_row_without_repeats_or_losses(ranks):
    alone = flat(row())
    shared = [row(rank=rank, ranks=ranks) for rank in range(ranks)]
    assert sorted(chain.from_iterable(map(flat, shared))) == sorted(alone)
    assert len(alone) == 40
    assert all(len(batch) == 4 for batches in shared for batch in batches)


def test_an_endless_row_runs_across_the_end_of_an_epoch():
    read = flat(islice(loader(6)._places(), 10))
    for epoch in range(3):
        assert len(set(read[20 * epoch : 20 * epoch + 20])) == 20


@pytest.mark.parametrize("start", [4, 12, 20, 28])
def test_a_row_resumes_anywhere(start):
    assert row(start=start) == row()[start // 4 :]


def test_a_row_resumes_on_another_number_of_ranks_and_rows():
    before = chain.from_iterable(flat(row(rank=rank, ranks=3, stop=24)) for rank in range(3))
    after = flat(row(start=24, rows=8))
    assert sorted([*before, *after]) == sorted(flat(row()))
