"""The queue of groups that workers collect: each is finished exactly once, whoever dies. No process is known here."""

from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from jaxtyping import Int
from torch import Tensor

from prophet_gym._checks import listed
from prophet_gym.errors import ProcessLostError
from prophrl_algos.rollout._collect import Rollouts
from prophrl_algos.rollout._groups import GroupPlan

MAX_ATTEMPTS = 5
"""Workers that may die with the same groups; then it is the groups that kill them."""
COLUMNS = ("update", "group", "worker", "version", "attempts")
"""Columns of the ledger: a row for every group that was learned from, with the updates that its policy had seen."""


@dataclass(frozen=True, order=True)
class Task:
    """Name the groups that a worker collects at once: part `part` of those of an update."""

    update: int
    part: int
    plan: GroupPlan = field(compare=False)

    @property
    def groups(self) -> str:
        """Return the numbers of the groups in words."""
        numbers = [str(self.plan.number(group)) for group in range(self.plan.groups)]
        return f"groups {listed(numbers)} of update {self.update}"


@dataclass(frozen=True)
class Found:
    """Hold the rollouts of a task and who collected them, with a policy of how many updates."""

    rollouts: Rollouts
    worker: int
    version: int
    attempts: int


@dataclass
class Queue:
    """Hold the tasks that wait, those that workers have, and the results of those that are done."""

    waiting: set[Task] = field(default_factory=set)
    attempts: dict[Task, int] = field(default_factory=dict)
    results: dict[Task, Found] = field(default_factory=dict)

    def add(self, tasks: Iterable[Task]) -> None:
        """Add tasks that are not known yet."""
        fresh = set(tasks) - self.attempts.keys()
        self.waiting |= fresh
        self.attempts |= dict.fromkeys(fresh, 0)

    def take(self) -> Task | None:
        """Return the first waiting task, which a worker begins; None if none waits."""
        if not self.waiting:
            return None
        task = min(self.waiting)
        self.waiting.remove(task)
        self.attempts[task] += 1
        return task

    def lose(self, task: Task, cause: str) -> None:
        """Queue a task again whose worker has died; ProcessLostError if several have died with it."""
        if task not in self.attempts or task in self.results:
            return
        if self.attempts[task] >= MAX_ATTEMPTS:
            raise ProcessLostError(
                f"{MAX_ATTEMPTS} workers were lost one after another with {task.groups}, the last because {cause}; "
                "what is done is saved: give a worker less at once (--num-envs) or more memory, then run the same "
                "command again"
            )
        self.waiting.add(task)

    def finish(self, task: Task, rollouts: Rollouts, worker: int, version: int) -> None:
        """Take the result of a task; one that is not asked for, or already there, is ignored."""
        if task in self.attempts and task not in self.results:
            self.waiting.discard(task)
            self.results[task] = Found(rollouts, worker, version, self.attempts[task])

    def complete(self, update: int) -> bool:
        """Tell whether all tasks of an update are done."""
        return all(task in self.results for task in self.attempts if task.update == update)

    def collected(self, update: int) -> list[Found]:
        """Return the results of an update in the order of its parts, and forget its tasks."""
        tasks = sorted(task for task in self.attempts if task.update == update)
        for task in tasks:
            del self.attempts[task]
        return [self.results.pop(task) for task in tasks]


def parts_of(plan: GroupPlan, at_once: int, update: int) -> list[Task]:
    """Return the tasks of an update, of `at_once` groups each; ValueError if they do not come out even."""
    if plan.groups % at_once:
        raise ValueError(
            f"groups={plan.groups} must be a multiple of the {at_once} that one worker runs at once: give --num-envs, "
            f"{plan.group_size} for each of them"
        )
    count = plan.groups // at_once
    return [Task(update, part, plan.part(part, count)) for part in range(count)]


def ledger_rows(update: int, found: Iterable[Found]) -> Int[Tensor, "n 5"]:
    """Return the rows of the ledger for the results of an update, in the order of the groups' numbers."""
    rows = [
        (update, group, each.worker, each.version, each.attempts) for each in found for group in each.rollouts.numbers
    ]
    return torch.tensor(sorted(rows), dtype=torch.int32).reshape(-1, len(COLUMNS))
