"""Whoever dies and in whatever order things happen: every group comes back once."""

import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.workers.toy import InTurn, make, twice_or_lost
from prophet_gym.errors import ProcessLostError
from prophrl_algos.rollout import Grouping, GroupPlan, Rollouts
from prophrl_algos.rollout._queue import COLUMNS, MAX_ATTEMPTS, Queue, ledger_rows, parts_of

ROUND = make().collect(GroupPlan(4, 4), seed=3, update=0)


def rollouts_of(plan):
    """Rollouts as of a plan, whose numbers alone matter to the queue."""
    return Rollouts(**vars(ROUND) | {"numbers": tuple(plan.number(group) for group in range(plan.groups))})


@settings(deadline=None)
@given(st.data())
def test_every_group_is_done_once_whoever_is_lost_and_whatever_comes_twice(data):
    plan, queue, running, ledger = GroupPlan(8, 4), Queue(), [], torch.empty(0, len(COLUMNS), dtype=torch.int32)
    for update in range(3):
        tasks = parts_of(plan, 2, update)
        queue.add(tasks)
        queue.add(tasks)
        while not queue.complete(update):
            while len(running) < data.draw(st.integers(1, 3)) and (task := queue.take()) is not None:
                running.append((data.draw(st.integers(0, 99)), task))
            worker, task = running.pop(data.draw(st.integers(0, len(running) - 1)))
            if queue.attempts[task] < MAX_ATTEMPTS and data.draw(st.booleans()):
                queue.lose(task, "it was killed")
                continue
            for _ in range(data.draw(st.integers(1, 2))):
                queue.finish(task, rollouts_of(task.plan), worker, update)
        found = queue.collected(update)
        assert [number for each in found for number in each.rollouts.numbers] == [0, 4, 1, 5, 2, 6, 3, 7]
        ledger = torch.cat([ledger, ledger_rows(update, found)])
    assert twice_or_lost(ledger, 3, 8) == []
    assert queue == Queue()
    # The check itself finds what is lost and what is twice.
    assert twice_or_lost(torch.cat([ledger[1:], ledger[-1:]]), 3, 8) == [(0, 0), (2, 7)]


def test_groups_that_kill_every_worker_end_the_run():
    queue = Queue()
    queue.add(parts_of(GroupPlan(2, 4), 2, 7))
    for _ in range(MAX_ATTEMPTS - 1):
        queue.lose(queue.take(), "it was killed")
    with pytest.raises(ProcessLostError, match=re.escape("with groups 0, 1 of update 7, the last because of fire")):
        queue.lose(queue.take(), "of fire")


def test_a_late_result_of_another_update_is_ignored():
    queue = Queue()
    (task,) = parts_of(GroupPlan(1, 4), 1, 0)
    queue.finish(task, rollouts_of(task.plan), 0, 0)
    queue.lose(task, "it was killed")
    assert queue == Queue()


def test_groups_that_do_not_come_out_even_are_refused():
    with pytest.raises(ValueError, match="groups=6 must be a multiple of the 4 that one worker runs at once"):
        parts_of(GroupPlan(6, 8), 4, 0)


@pytest.mark.parametrize("grouping", [Grouping(), Grouping(keep=(0.1, 0.9))])
def test_parts_of_a_plan_never_begin_the_same_group(grouping):
    plan = GroupPlan(12, 4, grouping, first=1, stride=2)
    parts = [plan.part(index, 3) for index in range(3)]
    numbers = [part.number(group) for part in parts for group in range(part.limit)]
    assert len(set(numbers)) == len(numbers) == plan.limit
    assert set(numbers) == {plan.number(group) for group in range(plan.limit)}


def test_parts_put_together_are_the_whole():
    whole = make(groups_at_once=4).collect(GroupPlan(4, 4), seed=3, update=0)
    parts = InTurn(make(groups_at_once=2)).collect(GroupPlan(4, 4), seed=3, update=0)
    assert parts.numbers == whole.numbers == (0, 1, 2, 3)
    assert (parts.frames, parts.started) == (whole.frames, whole.started)
    assert torch.equal(parts.groups, whole.groups)
    # Matrix products of other shapes round differently.
    torch.testing.assert_close(parts.returns, whole.returns)
    order, other = whole.trajectory.argsort(), parts.trajectory.argsort()
    torch.testing.assert_close(parts.path.latents[other], whole.path.latents[order])
    same = Rollouts.cat([whole])
    assert torch.equal(same.trajectory, whole.trajectory)
    assert torch.equal(same.returns, whole.returns)
