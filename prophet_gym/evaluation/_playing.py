"""Policies by name, and their episodes from given initial states, the same way in the dream and in the simulator."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import cache
from itertools import chain, repeat
from typing import Any, cast
from urllib.parse import parse_qsl

import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv

from prophet_gym._checks import imported, require_known, require_number, unknown_option
from prophet_gym.checkpoint import Checkpoint
from prophet_gym.embodiments._libero import EMBODIMENT
from prophet_gym.envs._episodes import sub_env_info
from prophet_gym.sims._initial_states import TRAIN_SEED
from prophet_gym.sims.libero._believed import SEEN_WEIGHT, BelievedArm, Layout
from prophet_gym.sims.libero._experts import MODES, script
from prophet_gym.sims.simulator import simulator_of

_MEMORY = 0.7
"""Keep this part of a script's noise from one action to the next: white noise hardly moves an arm."""
_NOISE = np.array([1.0, 1.0, 1.0, 0.4, 0.4, 0.4, 0.0])
"""Noise of an action's dimensions beside each other, as in recordings."""


@dataclass(frozen=True)
class Played:
    """Hold an episode as its policy knows it: what the env says of the start, noise of its own, and a memory."""

    start: Mapping[str, Any]
    random: np.random.Generator
    memory: dict[str, Any] = field(default_factory=dict)


ActingPolicy = Callable[[Mapping[str, np.ndarray], Sequence[Played]], np.ndarray]
"""A policy: the next chunks (b, k, a) of the live episodes, element i from element i of what is seen and of these."""


def make_acting_policy(name: str, env: VectorEnv, checkpoint: Checkpoint, look: str) -> ActingPolicy:
    """Make the policy that `name` describes; options follow a question mark, joined by `&`.

        script:expert?noise=0.3&seen=0.5  a script of LIBERO, under noise of this size (1 is a whole action); `seen` is
                                          how much it trusts the gripper that it sees, 0 that it never looks
        my_policies:make?temperature=0.5  a function of yours, from the env and these options (texts) to the policy

    Args:
        name: One of the forms above.
        env: With the spaces that it acts in.
        checkpoint: Whose object reader scripts look with; without one they trust that they hold what they grasped.
        look: Of the simulator that tells scripts the layout.

    Raises:
        UnknownOptionError: There is no such form, script or option of a script.
        ValueError: A function cannot be imported, or the value of an option is outside its range.
    """
    base, _, given = name.partition("?")
    module, _, rest = base.partition(":")
    options = dict(parse_qsl(given, keep_blank_values=True))
    if module == "script":
        for key in options:
            require_known("option of a script", key, ("noise", "seen"))
        numbers = {key: require_number(key, float(text), least=0) for key, text in options.items()}
        return ScriptedPolicy(rest, checkpoint, look, **numbers)
    if not all(part.isidentifier() for part in (*module.split("."), rest)):
        raise unknown_option("policy", name, ["script:MODE?noise=0.3", "MODULE:FUNCTION?option=value"])
    make: Callable[..., ActingPolicy] = imported("policy", base)
    return make(env, **options)


class ScriptedPolicy:
    """Run a script of LIBERO that knows the layout of the start, then sees gripper and image once per chunk.

    In the dream and in the simulator it knows the same, so that its success in both can be compared.
    """

    def __init__(
        self, mode: str, checkpoint: Checkpoint, look: str, *, noise: float = 0.0, seen: float = SEEN_WEIGHT
    ) -> None:
        require_known("script", mode, MODES)
        self.mode, self.noise, self.seen, self.look = mode, noise, seen, look
        self.reader, self.chunk = checkpoint.object_reader(), int(checkpoint.config["chunk"])

    def __call__(self, observation: Mapping[str, np.ndarray], episodes: Sequence[Played]) -> np.ndarray:
        """Return the next actions of every script; needs an env with `proprioception`."""
        seen = zip(observation["gripper_position"], observation["image"], episodes, strict=True)
        return np.stack([self._next(*each) for each in seen])

    def _next(self, gripper: np.ndarray, image: np.ndarray, episode: Played) -> np.ndarray:

        memory, start = episode.memory, episode.start
        if memory:
            memory["arm"].see(gripper, image, self._reading(str(start["instruction"])))
        else:
            where = (start[key] for key in ("suite", "task", "start", "split"))
            arm = BelievedArm(_layout(*where, self.look), self.seen)
            # Noise of its own, so that it is the same in both worlds, whatever a script draws on its way.
            drawn, random = episode.random.spawn(2)
            actions = chain(*script(arm, drawn, cast(Any, self.mode)), repeat(np.array(EMBODIMENT.rest_action)))
            memory |= {"arm": arm, "actions": actions, "random": random, "noise": np.zeros(7)}
        chunk = np.empty((self.chunk, 7), np.float32)
        for number in range(self.chunk):
            fresh = np.sqrt(1 - _MEMORY**2) * self.noise * _NOISE * memory["random"].standard_normal(7)
            memory["noise"] = _MEMORY * memory["noise"] + fresh
            chunk[number] = np.clip(next(memory["actions"]) + memory["noise"], -1.0, 1.0)
            memory["arm"].act(chunk[number])
        return chunk

    def _reading(self, instruction: str) -> Callable[[np.ndarray], np.ndarray] | None:
        if (reader := self.reader) is None:
            return None
        return lambda image: reader.positions(torch.from_numpy(image.copy())[None], instruction)[0].numpy()


@cache
def _layout(suite: str, task: int, start: int, split: str, look: str) -> Layout:
    """Ask the simulator once; it is not kept, since each holds 0.3 GB."""
    with closing(simulator_of(suite)(suite, task, look=look, size=64)) as sim:
        sim.reset(**({"official": start} if split == "official" else {"seed": TRAIN_SEED + start}))
        return Layout.of(sim)


def play(
    policy: ActingPolicy, env: VectorEnv, episodes: Sequence[tuple[int, int]], *, seed: int, shuffled: bool = False
) -> list[bool | None]:
    """Run an episode from each initial state, all at once; return whether it succeeded, None where nobody can say.

    Nobody can say where the reward model abstained at the episode's last step, and had seen no success before.

    Args:
        policy: Acts; its noise in episode i is drawn from `seed + i`, whatever the env.
        env: With autoreset DISABLED, and at least as many sub-environments as there are episodes.
        episodes: The task and the number of the initial state of each episode.
        seed: Episode i has the seed `seed + i` in the env too.
        shuffled: Give each episode the actions that were meant for the next one, in a drawn order.

    Raises:
        ValueError: The env does not fit.
    """
    mode = env.metadata.get("autoreset_mode")
    if mode != AutoresetMode.DISABLED or env.num_envs < len(episodes):
        raise ValueError(
            f"the env must have autoreset DISABLED and at least {len(episodes)} sub-environments, got {mode} and "
            f"{env.num_envs}"
        )
    # A first reset must begin every sub-environment: those that are not needed begin as the first, and rest.
    padded = [*range(len(episodes)), *[0] * (env.num_envs - len(episodes))]
    options = {name: [episodes[i][place] for i in padded] for place, name in enumerate(("task", "start"))}
    reset: dict[str, Any] = {"seed": [seed + i for i in padded], "options": options}
    observation, infos = env.reset(**reset)
    live = np.arange(len(episodes))
    played = [Played(sub_env_info(infos, row), np.random.default_rng([seed + row, 1])) for row in live.tolist()]
    order = np.random.default_rng([seed, 2])
    found: list[bool | None] = [None] * len(episodes)
    while len(live):
        seen = {name: value[live] for name, value in observation.items()}
        chosen = policy(seen, [played[row] for row in live.tolist()])
        actions = np.zeros((env.num_envs, *chosen.shape[1:]), np.float32)
        actions[live] = np.roll(chosen, 1, 0)[:, order.permutation(chosen.shape[1])] if shuffled else chosen
        observation, rewards, terminated, truncated, infos = env.step(actions)
        for row in live.tolist():
            info = sub_env_info(infos, row)
            # Envs from elsewhere say nothing of success; there it is to end by itself with a reward.
            success = bool(info.get("success", terminated[row] and rewards[row] > 0))
            found[row] = True if found[row] or success else (False if info.get("scored", True) else None)
        live = live[~(terminated | truncated)[live]]
    return found
