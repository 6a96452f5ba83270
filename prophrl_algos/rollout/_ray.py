"""Rollouts by workers of a Ray cluster: the learner sends weights, workers take groups, whole groups come back."""

import logging
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import replace
from types import TracebackType
from typing import Any

import torch

from prophet_gym._checks import first_line
from prophet_gym._io.progress import progress
from prophet_gym.errors import ProcessLostError
from prophrl_algos.flow import FlowSchedule, device_of
from prophrl_algos.rollout._cluster import LEAST_STORE, Cluster, RayOptions, fingerprint, packed, require_same, unpack
from prophrl_algos.rollout._collect import Rollouts
from prophrl_algos.rollout._collector import LocalRollouts, offloaded
from prophrl_algos.rollout._groups import GroupPlan
from prophrl_algos.rollout._queue import COLUMNS, Queue, Task, ledger_rows, parts_of

_PATIENCE = 60.0
"""Seconds without any worker after which the log says so."""
STORE_FULL = (
    "give it more (ray start --object-store-memory BYTES), train adapters alone (--load.train lora), or collect fewer "
    "rollouts at once (--num-envs)"
)
_log = logging.getLogger(__name__)


class Worker:
    """Collect in a process of its own what a learner asks for; an actor of Ray."""

    def __init__(self, make: Callable[[], LocalRollouts], threads: int) -> None:
        torch.set_num_threads(threads)
        self._make, self._held = make, 0
        self._rest = ExitStack()

    def ready(self) -> tuple[str, dict[str, str]]:
        """Make what collects, here and not in the constructor, whose errors Ray does not hand on; name the node."""
        import ray

        self._local = self._make()
        return ray.get_runtime_context().get_node_id(), fingerprint(self._local)

    def collect(self, weights: Mapping[str, Any], published: int, task: Task, seed: int) -> Rollouts:
        """Return the groups of a task, acted by the policy of these weights, the `published`-th that were sent."""
        self._rest.close()
        if published != self._held:
            unpack(weights, self._local.weights())
            self._held = published
        found = self._local.collect(task.plan, seed=seed, update=task.update)
        # The learner's paths have the learner's schedule, whose kernel learns; this one may have weights on a GPU.
        return replace(found, path=replace(found.path, schedule=FlowSchedule(found.path.schedule.num_steps)))

    def rest(self) -> None:
        """Keep the networks on the CPU until the next task."""
        self._rest.enter_context(offloaded(list(self._local.modules().values())))


class RayRollouts:
    """Collect with workers on a Ray cluster; a `Collector` for a trainer.

    Each worker makes its own world model, reward model and policy by `make`, and collects as many groups at once as its
    env has room for. A task, those groups, is a function of the weights, the seed and its groups' numbers, whichever
    worker has it: where workers die, theirs are queued again and others take their place, and the result is the same.
    With `options.max_staleness` above 0, workers go on while the learner learns, each task with the newest weights.

    Attributes:
        ledger: A row of `COLUMNS` for every group that was learned from.

    Example:
        A trainer that is given `collector=RayRollouts(make, make(), RayOptions(workers=2))` learns from the rollouts of
        two workers, and `close` ends them.
    """

    def __init__(
        self,
        make: Callable[[], LocalRollouts],
        local: LocalRollouts,
        options: RayOptions,
        *,
        optimizer: torch.optim.Optimizer | None = None,
    ) -> None:
        """Start or join a cluster.

        `make` is sent to the workers and must return there what `local` is here, whose weights learn. The env of
        `local` is not used but for its size.

        Raises:
            ImportError: Ray is not installed.
            OSError: The shared memory is too small for the object store, or there is no cluster at the address.
            ValueError: An option does not fit.
        """
        options.check()
        self.options, self._make, self._local, self._optimizer = options, make, local, optimizer
        # Each round's weights, once for each round that may still be collected with them, and as much again.
        size = sum(weight.nbytes for weight in local.weights().values())
        self._cluster = Cluster(options, LEAST_STORE + (2 * options.max_staleness + 2) * size, device_of(local.policy))
        self._ray = ray = self._cluster.ray
        self._actor = ray.remote(
            num_cpus=options.cpus_per_worker, num_gpus=options.gpus_per_worker, max_restarts=0, max_task_retries=0
        )(Worker)
        self._mine = fingerprint(local)
        self.ledger = torch.empty(0, len(COLUMNS), dtype=torch.int32)
        self._queue, self._weights = Queue(), None
        self._seed = self._version = self._published = 0
        self._workers: dict[int, Any] = {}
        self._idle: list[int] = []
        # What each call is: its worker, its task (None where a worker is made) and the version that acts.
        self._calls: dict[Any, tuple[int, Task | None, int]] = {}
        self._hired = self._lost = self._barren = 0
        self._heard = time.monotonic()
        self._between: threading.Thread | None = None
        self._stop = threading.Event()
        self._error: Exception | None = None

    def __enter__(self) -> "RayRollouts":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def collect(self, plan: GroupPlan, *, seed: int, update: int) -> Rollouts:
        """Return the groups of a plan for an update; with stale rollouts, workers have begun some of them before.

        Raises:
            ProcessLostError: Workers die faster than they finish.
            ValueError: What a worker raised, or workers that differ from the learner.
        """
        began = time.perf_counter()
        self._halt()
        if (error := self._error) is not None:
            self._error = None
            raise error
        self._seed, lost = seed, self._lost
        seconds = self._publish(update)
        at_once = self._local.env.num_envs // plan.group_size
        for later in range(update, update + self.options.max_staleness + 1):
            self._queue.add(parts_of(plan, at_once, later))
        with (
            self._learner_rests(),
            progress(None, "rollouts", total=plan.groups // at_once, unit="task", passing=True) as bar,
        ):
            while not self._queue.complete(update):
                self._pump(1.0)
                bar.update(sum(task.update == update for task in self._queue.results) - bar.n)
        found = self._queue.collected(update)
        rows = ledger_rows(update, found)
        self.ledger = torch.cat([self.ledger[self.ledger[:, 0] < update], rows])
        if self.options.offload:
            calls = [self._workers[each].rest.remote() for each in self._idle]
            self._ray.wait(calls, num_returns=len(calls))
        if self.options.max_staleness:
            self._between = threading.Thread(target=self._go_on, daemon=True)
            self._between.start()
        schedule = self._local.schedule
        parts = [replace(each.rollouts, path=replace(each.rollouts.path, schedule=schedule)) for each in found]
        whole = Rollouts.cat(parts)
        stale, attempts = update - rows[:, 3].float(), rows[:, 4]
        counts = {"staleness": float(stale.mean()), "workers_lost": float(self._lost - lost)}
        counts["groups_queued_again"] = float((attempts - 1).sum())
        # What the workers took, all together, beside what the learner waited.
        clock = {**whole.seconds, "workers": whole.seconds["rollout"], "weights": seconds}
        clock["rollout"] = time.perf_counter() - began
        return replace(whole, seconds=clock, staleness=int(stale.max()), counts=counts)

    def state_dict(self) -> dict[str, Any]:
        """Return the ledger."""
        return {"ledger": self.ledger}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue a ledger; what workers collected ahead is collected again."""
        self._halt()
        self._dismiss()
        self.ledger = state.get("ledger", self.ledger).cpu()

    def close(self) -> None:
        """End the workers, and the cluster if it was started here."""
        self._halt()
        if self._ray.is_initialized():
            self._dismiss()
            self._cluster.close()

    def _dismiss(self) -> None:
        """End the workers and forget what they were asked."""
        for worker in self._workers.values():
            self._ray.kill(worker)
        self._workers, self._idle, self._calls = {}, [], {}
        self._queue, self._weights, self._error = Queue(), None, None

    def _learner_rests(self) -> AbstractContextManager[None]:
        if not self.options.offload:
            return nullcontext()
        own = [part for name, part in self._local.modules().items() if name in ("policy", "kernel")]
        return offloaded(own, self._optimizer)

    def _publish(self, update: int) -> float:
        """Put the weights into the object store and return the seconds that it took."""
        began = time.perf_counter()
        weights = {name: packed(weight) for name, weight in self._local.weights().items()}
        try:
            self._weights = self._ray.put(weights)
        except self._ray.exceptions.ObjectStoreFullError as error:
            size = sum(each.nbytes for each in weights.values()) / 2**20
            raise OSError(f"{size:.0f} MB of weights do not fit into the object store; {STORE_FULL}") from error
        self._version, self._published = update, self._published + 1
        return time.perf_counter() - began

    def _pump(self, timeout: float) -> None:
        """Replace lost workers, give idle ones a task, and take what arrives within the timeout."""
        while len(self._workers) < self.options.workers:
            self._hire()
        for worker in list(self._idle):
            if (task := self._queue.take()) is not None:
                self._idle.remove(worker)
                call = self._workers[worker].collect.remote(self._weights, self._published, task, self._seed)
                self._calls[call] = (worker, task, self._version)
        if self._calls:
            for call in self._ray.wait(list(self._calls), timeout=timeout)[0]:
                self._take(call)
        else:
            time.sleep(timeout)
        if self._idle or any(task is not None for _, task, _ in self._calls.values()):
            self._heard = time.monotonic()
        elif time.monotonic() - self._heard > _PATIENCE:
            self._heard = time.monotonic()
            _log.warning(
                "no worker is ready since %.0f s: they load their models, or wait for a node with %d CPU and %g GPU; "
                "the cluster has %s",
                *(_PATIENCE, self.options.cpus_per_worker, self.options.gpus_per_worker),
                {name: each for name, each in self._ray.cluster_resources().items() if name in ("CPU", "GPU")},
            )

    def _hire(self) -> None:
        number, self._hired = self._hired, self._hired + 1
        worker = self._actor.remote(self._make, self.options.cpus_per_worker)
        self._workers[number] = worker
        self._calls[worker.ready.remote()] = (number, None, -1)

    def _take(self, call: Any) -> None:
        """Take what a call returned, or queue its task again where its worker is lost."""
        number, task, version = self._calls.pop(call)
        errors = self._ray.exceptions
        try:
            result = self._ray.get(call)
        except errors.RayTaskError as error:
            # Weights that a worker could not fetch say that a node is lost, not that the worker is wrong.
            if not isinstance(error.cause, errors.ObjectLostError):
                # A caller who asks again gets another worker, and does not wait for this task for ever.
                self._ray.kill(self._workers.pop(number))
                if task is not None:
                    self._queue.waiting.add(task)
                raise failure(error, number) from error
            self._lose(number, task, cause_of(error.cause))
            return
        except errors.RayError as error:
            self._lose(number, task, cause_of(error))
            return
        if task is None:
            require_same(self._mine, result[1], result[0])
        else:
            self._barren = 0
            self._queue.finish(task, result, number, version)
        self._idle.append(number)

    def _lose(self, number: int, task: Task | None, cause: str) -> None:
        self._ray.kill(self._workers.pop(number))
        self._lost, self._barren = self._lost + 1, self._barren + 1
        again = "" if task is None else f"; {task.groups} are queued again"
        _log.warning("worker %d was lost: %s%s, another takes its place", number, cause, again)
        if task is not None:
            self._queue.lose(task, cause)
        if self._barren > 3 * self.options.workers:
            raise ProcessLostError(
                f"{self._barren} workers were lost in a row and none finished anything, the last because {cause}: look "
                "at memory and at the nodes, then run the same command again"
            )

    def _go_on(self) -> None:
        """Serve workers while the learner learns."""
        try:
            while not self._stop.is_set():
                self._pump(0.05)
        except Exception as error:
            self._error = error

    def _halt(self) -> None:
        """Stop serving in the background."""
        if self._between is not None:
            self._stop.set()
            self._between.join()
            self._between, self._stop = None, threading.Event()


def failure(error: Any, number: int) -> Exception:
    """Return what a worker's own error means: the error itself, or that a GPU is too small."""
    cause = error.cause if isinstance(error.cause, Exception) else error
    if type(cause).__name__ in ("ObjectStoreFullError", "OutOfDiskError"):
        return OSError(f"worker {number} cannot hand on its rollouts, {first_line(cause)}; {STORE_FULL}")
    if isinstance(cause, torch.OutOfMemoryError | MemoryError):
        return MemoryError(
            f"worker {number}: {first_line(cause)}; give a worker fewer sub-environments (--num-envs), more of a GPU "
            "(--gpus-per-worker), or --offload"
        )
    return cause


def cause_of(error: Exception) -> str:
    """Return in words why a worker was lost."""
    text = str(error)
    if type(error).__name__ == "OutOfMemoryError" or "low on memory" in text or "memory pressure" in text:
        return "it ran out of memory: give it fewer sub-environments (--num-envs), or start fewer --workers"
    if "node has died" in text or "node is dead" in text:
        return "its node was lost"
    if "connection error code" in text:
        return "its process ended; where nobody killed it, the kernel did since memory ran out"
    return first_line(error)
