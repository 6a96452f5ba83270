"""Simulators with the interface of `ProphetVectorEnv`: action chunks in, the last frame out, all frames in `info`."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from jaxtyping import Bool, Float, Float32, UInt8

from prophet_gym._checks import require_count, require_known, unknown_option
from prophet_gym.embodiments import get_embodiment
from prophet_gym.envs._episodes import EVERY_FRAME, FPS, EpisodeVectorEnv, Observation, Outcome, chunk_box
from prophet_gym.envs._options import per_row_integers, reset_rows
from prophet_gym.envs._plain import Cameras, require_flag, require_tasks
from prophet_gym.envs._require import require_actions
from prophet_gym.envs.single_env import SingleEnv
from prophet_gym.errors import InvalidStartError
from prophet_gym.sims._episodes import Advance, Hand, LocalStages, Opening, Scene, WorkerStages
from prophet_gym.sims._initial_states import TRAIN_SEED
from prophet_gym.sims._require import check_cameras, check_split
from prophet_gym.sims.simulator import check_task
from prophet_gym.specs import CAMERAS, FIRST_CAMERA, WRIST_CAMERA, InitialState

_RESET_OPTIONS = ("reset_mask", "start", "task")


class SimulatorVectorEnv(EpisodeVectorEnv):
    """Run episodes of one suite in its simulator; observation, actions and info as in `ProphetVectorEnv`.

    One step runs a chunk of actions in the robot's own units; LIBERO's are (k, 7) in [-1, 1]: six operational-space
    deltas (1 is 5 cm or 0.5 rad) and the gripper (-1 open, +1 close), at 20 Hz. The reward is 1.0 when the task's own
    predicate holds; the episode then terminates, and `info["executed"]` counts the actions that were run (the last
    frame fills the rest of `info["frames"]`).

    Options of `reset`: `task` (LIBERO: 0..9), `start` (`official`: the state's index, 0..49; `train`: the seed of the
    placement), each an integer or one per sub-environment, and `reset_mask`. What is not given is drawn by the seed.

    Arguments that are not listed are those of `ProphetVectorEnv`.

    Args:
        suite: `libero_spatial`, `libero_object`, `libero_goal`, `libero_10`, one of these perturbed as in LIBERO-PRO
            (`_object`, `_swap`, `_lan`, `_task` at the end), or one of a registered simulator.
        look: How it is drawn; LIBERO's are `light` (the default), `light-v2` and `official`.
        starts: `train` (random placements) or `official` (the 50 states of a task: evaluation and demo only); perturbed
            suites have the latter alone.
        tasks: Tasks to draw from; all if not given.
        size: Height and width of a frame, pixels.
        chunk: Actions in one step; the robot's own number if not given.
        render: `step` draws every frame; `chunk` only the last one of a step, and there is no `info["frames"]`.
        workers: Processes that sub-environments are spread over; 0 simulates them here, one after the other.
        proprioception: Adds `gripper_position` to the observation, float32 (b, 3) in metres: the true one, where a
            learned simulator's is an estimate.
        cameras: Which cameras are shown: `("agentview",)`, or `("agentview", "wrist")`, which adds `wrist_image`,
            drawn once a step, and `state`, the numbers of `specs.STATE_NAMES`. Episodes are the same with both.

    Raises:
        UnknownOptionError: A suite, look, split, task or camera that does not exist.
        MissingAssetsError: The simulator or its assets are missing.

    Example:
        >>> envs = SimulatorVectorEnv("libero_object", num_envs=2)
        >>> observation, info = envs.reset(seed=0, options={"task": 3})
        >>> observation, reward, *_ = envs.step(np.zeros((2, 8, 7), np.float32))
    """

    def __init__(
        self,
        suite: str,
        num_envs: int = 1,
        *,
        look: str | None = None,
        starts: str = "train",
        tasks: Sequence[int] | np.ndarray | None = None,
        size: int = 128,
        chunk: int | None = None,
        render: str = "step",
        max_episode_steps: int | None = 30,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        render_mode: str | None = None,
        workers: int = 0,
        proprioception: bool = False,
        cameras: Cameras = (FIRST_CAMERA,),
    ) -> None:
        """Check that the simulator can run; simulations are built at the first reset."""
        simulator = check_task(suite, look=look)
        robot = get_embodiment(simulator.robot)
        pool = tuple(range(simulator.tasks)) if tasks is None else tuple(require_tasks(tasks))
        for task in pool:
            check_task(suite, task)
        look = str(look or simulator.looks[0])
        check_split(suite, starts)
        require_known("choice of frames", render, ("step", "chunk"))
        workers = require_count("workers", workers, 0)
        chunk = require_count("chunk", robot.chunk if chunk is None else chunk)
        size = require_count("size", size)
        self._bounds = robot.action_spec
        self._tells_gripper = require_flag("proprioception", proprioception)
        cameras = check_cameras(suite, cameras)
        super().__init__(
            num_envs,
            chunk_box(self._bounds, chunk),
            (size, size),
            max_episode_steps=max_episode_steps,
            autoreset_mode=autoreset_mode,
            render_mode=render_mode,
            proprioception=self._tells_gripper,
            cameras=cameras,
            fps=robot.control_hz or FPS,
        )
        self.suite, self.look, self.split, self.tasks = suite, look, starts, pool
        # Placements of the split `train` are numbered by their seed.
        self._limit = simulator.official_states if starts == "official" else 2**31
        self._every_frame = render == "step"
        self._grippers = np.zeros((num_envs, 3), np.float32)
        self._hands: dict[int, Hand] = {}
        simulator.require(look)
        scene, wrist = (suite, look, size), len(cameras) > 1
        self._stages = (
            WorkerStages(*scene, min(workers, num_envs), wrist=wrist) if workers else LocalStages(*scene, wrist=wrist)
        )

    def close_extras(self, **kwargs: Any) -> None:
        """Free all simulations and end the workers."""
        del kwargs
        self._started = False
        self._stages.close()

    def go_on(self, row: int, actions: Float[np.ndarray, "k a"]) -> UInt8[np.ndarray, "k h w 3"]:
        """Return what is seen after an episode has ended, under further actions; the episode stays as it ended.

        LIBERO says success while the object still falls; a reward model that reads images needs the moments after.
        """
        if not self._started or not self._rows[row].ended:
            raise ValueError(f"the episode of sub-environment {row} has not ended: continue it with step")
        actions = require_actions(actions, chunk_box(self._bounds, len(actions)))
        return self._stages.advance({row: actions}, every_frame=True, to_the_end=True)[row].frames

    def _plan(self, options: Mapping[str, Any] | None) -> dict[int, tuple[int | None, int | None]]:
        given = dict(options or {})
        rows = reset_rows(given, _RESET_OPTIONS, self.num_envs)
        tasks = per_row_integers("task", given.get("task"), self.num_envs)
        starts = per_row_integers("start", given.get("start"), self.num_envs)
        for row in rows:
            task, start = tasks[row], starts[row]
            if task is not None and task not in self.tasks:
                raise unknown_option("task", task, map(str, self.tasks))
            if start is not None and not 0 <= start < self._limit:
                raise InvalidStartError(
                    f"options['start'] must be in 0..{self._limit - 1} for the split {self.split!r}, got {start}"
                )
        return {row: (tasks[row], starts[row]) for row in rows}

    def _begin(self, plans: Mapping[int, tuple[int | None, int | None]]) -> None:
        scenes = {row: self._draw(row, *plan) for row, plan in plans.items()}
        for row, opening in self._stages.begin(scenes).items():
            scene = scenes[row]
            index = scene.seed if scene.official is None else scene.official
            assert index is not None
            image, task = opening.image[None], scene.task
            start = InitialState(image, opening.instruction, self.suite, task, index, split=self.split)
            self._rows[row].begin(start, 0, None)
            self._see(row, opening)

    def _observation(self, rows: Sequence[int]) -> Observation:
        seen = super()._observation(rows)
        if len(self.cameras) > 1:
            hands = [self._hands[row] for row in rows]
            seen[CAMERAS[WRIST_CAMERA]] = np.stack([hand.image for hand in hands])
            seen["state"] = np.stack([hand.state for hand in hands]).astype(np.float32)
        return seen | {"gripper_position": self._grippers[list(rows)]} if self._tells_gripper else seen

    def _see(self, row: int, moment: Opening | Advance) -> None:
        """Keep what a sub-environment shows beside its frames."""
        self._grippers[row] = moment.gripper
        if moment.hand is not None:
            self._hands[row] = moment.hand

    def _draw(self, row: int, task: int | None, start: int | None) -> Scene:
        random = self._row_random(row)
        # Both are always drawn, so that naming the one leaves the other as it would have been.
        drawn_task = self.tasks[int(random.integers(len(self.tasks)))]
        drawn_start = int(random.integers(self._limit))
        task, start = drawn_task if task is None else task, drawn_start if start is None else start
        return Scene(task, official=start) if self.split == "official" else Scene(task, seed=start)

    def _advance(self, live: Sequence[int], actions: np.ndarray) -> dict[int, Outcome]:
        outcomes = {}
        results = self._stages.advance({row: actions[row] for row in live}, every_frame=self._every_frame)
        for row, result in results.items():
            self._rows[row].extend(result.frames, collect=self.render_mode in EVERY_FRAME)
            self._see(row, result)
            said = {"executed": result.executed, "scored": True, "success": result.success, "live": True}
            info = self._rows[row].start_info() | said | ({"frames": result.frames} if self._every_frame else {})
            outcomes[row] = Outcome(info, float(result.success), result.success, self._at_horizon(row))
        return outcomes


class SimulatorEnv(SingleEnv):
    """Run one episode of a simulator at a time, an action chunk per step: the vector env of one, with its arguments.

    `reset(seed=s)` and the same actions give the episode of a vector env that was seeded with `s`. After its end
    an episode absorbs: nothing changes until `reset`.

    Example:
        >>> env = SimulatorEnv("libero_object")
        >>> observation, info = env.reset(seed=0, options={"task": 3})
        >>> info["instruction"]
        'pick up the bbq sauce and place it in the basket'
    """

    def __init__(self, suite: str, *, max_episode_steps: int | None = None, **options: Any) -> None:
        """Take the options of `SimulatorVectorEnv`; the horizon is left to a TimeLimit, which `gym.make` adds."""
        options |= {"max_episode_steps": max_episode_steps, "autoreset_mode": AutoresetMode.DISABLED}
        super().__init__(SimulatorVectorEnv(suite, **options))


# Gymnasium reads the signature of an entry point; the classes are their own.
make_env = SimulatorEnv


def make_vec_env(num_envs: int = 1, *, suite: str, **arguments: Any) -> SimulatorVectorEnv:
    """Build a `SimulatorVectorEnv` as `gym.make_vec` asks for it."""
    return SimulatorVectorEnv(suite, num_envs, **arguments)


def true_outcomes(
    env: VectorEnv,
    tasks: Sequence[int],
    starts: Sequence[int],
    chunks: Float32[np.ndarray, "b n k a"],
    lengths: Sequence[int] | None = None,
) -> Bool[np.ndarray, " b"]:
    """Replay a dream's actions where the reward is the truth; tell in which sub-environments they solve the task.

    `env` is a `SimulatorVectorEnv`, or another one with the reset options `task` and `start` whose reward of 1.0 is
    true: as many sub-environments as `chunks`, autoreset disabled. `tasks` and `starts` are what `info` of the dream
    says, `lengths` the chunks of each that count, all if not given.
    """
    if env.num_envs != len(chunks) or env.metadata.get("autoreset_mode") is not AutoresetMode.DISABLED:
        raise ValueError(
            f"the env must have {len(chunks)} sub-environments and autoreset DISABLED, got {env.num_envs} and "
            f"{env.metadata.get('autoreset_mode')}"
        )
    train = getattr(env.unwrapped, "split", "") == "train"
    numbers = [TRAIN_SEED + start if train else start for start in starts]
    env.reset(options={"task": list(tasks), "start": numbers})
    done = np.zeros(len(chunks), bool)
    count = np.full(len(chunks), chunks.shape[1]) if lengths is None else np.asarray(lengths)
    for step in range(chunks.shape[1]):
        _, rewards, *_ = env.step(chunks[:, step])
        done |= (np.asarray(rewards) >= 1.0) & (step < count)
    return done
