"""Make a page for each registered environment: spaces, actions, rewards, starts, read from the env itself."""

import inspect
import io
from dataclasses import dataclass
from functools import cache

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import EnvSpec
from PIL import Image

import prophet_gym
from prophet_gym._registration import PERTURBED, REMOTE, SUITES
from prophet_gym.embodiments import get_embodiment
from prophet_gym.envs import InitialStates
from prophet_gym.errors import MissingWeightsError
from prophet_gym.sims.env import SimulatorVectorEnv
from prophet_gym.sims.simulator import check_task

SHEET = 5
"""Initial states beside each other in the image of an env's tasks."""
GOAL = {
    "Object": "Pick up the object that the instruction names and place it in the basket",
    "Spatial": "Pick the one of two bowls that the instruction locates and place it on the plate",
    "Goal": "Ten goals in one scene: open a drawer, push a plate, turn on the stove, place a bottle",
    "10": "Ten longer tasks, most of them of two steps, in kitchens, living rooms and a study",
}
CHANGED = {
    "Object": "the objects look different",
    "Swap": "objects stand in other places",
    "Language": "the instruction is said in other words",
    "Task": "the scene is the same and the task another",
}
FAMILIES = {"Prophet-": "Dreams", "RemoteProphet-": "Dreams", "LIBERO-": "Simulator", "LIBERO-PRO-": "Perturbed"}
"""Map how the ids of a family begin to the family; the longest that fits holds."""


@dataclass(frozen=True)
class Entry:
    """Describe an environment of the registry: its spec, and the family that it belongs to."""

    spec: EnvSpec
    family: str

    @property
    def at(self) -> str:
        """Return where its page stands on the site."""
        return f"envs/{self.spec.id}.md"

    @property
    def suite(self) -> str:
        """Return the part of the id that names the suite; empty for the ids of all suites."""
        return next((name for name, _ in SUITES.values() if f"-{name}-" in self.spec.id), "")


@cache
def entries() -> tuple[Entry, ...]:
    """Return the environments that `import prophet_gym` registers, the learned ones first."""
    assert prophet_gym  # importing it registers the ids
    found = [Entry(spec, family) for id_, spec in gym.registry.items() if (family := _family(id_))]
    return tuple(sorted(found, key=lambda entry: list(FAMILIES.values()).index(entry.family)))


def navigation() -> list[dict[str, object]]:
    """Return the pages by family."""
    families: dict[str, list[dict[str, str]]] = {}
    for entry in entries():
        families.setdefault(entry.family, []).append({entry.spec.id: entry.at})
    return [{family: pages} for family, pages in families.items()]


def overview() -> str:
    """Return the page that lists all environments."""
    rows = [
        f"| [`{entry.spec.id}`]({entry.spec.id}.md) | {entry.family.lower()} | {_first_sentence(entry)} |"
        for entry in entries()
    ]
    return "\n".join(
        [
            "# All environments",
            "",
            "`import prophet_gym` registers these ids. They share observations, actions and `info`, so code that runs",
            "in a dream runs in the simulator too; [the environments](../envs.md) describes what they have in common.",
            "",
            "| id | family | what it is |",
            "| --- | --- | --- |",
            *rows,
            "",
            "The number at the end rises when the same seed and actions would give another result.",
            "",
        ]
    )


def page(entry: Entry) -> str:
    """Return the page of an environment."""
    made = _made(entry.spec.id)
    lines = [f"# {entry.spec.id}", "", _first_sentence(entry) + ".", "", *_images(entry, made), ""]
    maker = "make_vec" if entry.spec.entry_point is None else "make"
    remote = ', url="http://127.0.0.1:8000", num_envs=4, token_file="token.txt"' if entry.spec.id == REMOTE else ""
    needed = _needed(made)
    lines += [
        "```python",
        "import gymnasium as gym",
        "import prophet_gym  # registers the ids",
        "",
        f'env = gym.{maker}("{entry.spec.id}"{remote}{needed})',
        "```",
        "",
        *_facts(entry, made),
        "",
        *_actions(entry),
        *_tasks(entry, made),
        "## Where to read on",
        "",
        *_further(entry),
    ]
    return "\n".join(lines) + "\n"


def sheets() -> dict[str, bytes]:
    """Return the images of initial states that pages show, as PNG, by where they stand on the site."""
    found = {}
    for entry in entries():
        made = _made(entry.spec.id)
        if isinstance(made, gym.Env):
            shown = [_starts(made).of_task(task)[0].frames[-1] for task in _starts(made).tasks]
            rows = [np.concatenate(shown[i : i + SHEET], axis=1) for i in range(0, len(shown) - SHEET + 1, SHEET)]
            if rows:
                file = io.BytesIO()
                Image.fromarray(np.concatenate(rows)).save(file, "PNG")
                found[_sheet(entry)] = file.getvalue()
    return found


@cache
def _made(id_: str) -> gym.Env | MissingWeightsError | None:
    """Return a dream's env, or why the bundled weights make none; None for ids that need more than this package."""
    if not id_.startswith("Prophet-"):
        return None
    try:
        return gym.make(id_)
    except MissingWeightsError as error:
        return error


def _family(id_: str) -> str | None:
    """Return the family of an id; None for ids of other packages."""
    return FAMILIES.get(max((start for start in FAMILIES if id_.startswith(start)), key=len, default=""))


def _starts(env: gym.Env) -> InitialStates:
    return env.unwrapped.starts  # type: ignore[attr-defined]


def _sheet(entry: Entry) -> str:
    return f"envs/{entry.spec.id}.png"


def _first_sentence(entry: Entry) -> str:
    if entry.family == "Perturbed":
        kind = next(kind for kind in PERTURBED if entry.spec.id.endswith(f"-{kind}-v0"))
        return f"LIBERO-PRO's form of `LIBERO-{entry.suite}-v0` in which {CHANGED[kind]}; for evaluation only"
    if entry.suite:
        world = "the dream" if entry.family == "Dreams" else "the LIBERO simulator"
        return f"{GOAL[entry.suite]}; in {world}"
    return {
        "Prophet-LIBERO-v0": "The dream of every LIBERO suite that the weights have initial states of",
        "Prophet-v0": "The dream of whatever robot the weights are for",
        "Prophet-BRIDGE-v0": "A dream of BRIDGE's WidowX robot, with released weights; never run with them",
        REMOTE: "A dream that a server generates, as a vector env",
    }.get(entry.spec.id, "An environment of this package")


def _images(entry: Entry, made: object) -> list[str]:
    if isinstance(made, gym.Env):
        return [
            "![an episode of LIBERO, its dream, and the dream under other actions](../images/demo.webp)",
            "",
            "*Left: LIBERO. Middle: the dream under the same actions. Right: the dream under other actions.*",
        ]
    if entry.spec.id == REMOTE:
        return ["![the arm driven in a dream, on the page that a server offers](../images/play.webp)"]
    if entry.family == "Simulator":
        return ["![scenes of LIBERO in three looks](../images/looks.webp)", "", "*Scenes of LIBERO in its looks.*"]
    return []


def _needed(made: object) -> str:
    return ', weights="FOLDER", starts="FOLDER/starts"' if isinstance(made, MissingWeightsError) else ""


def _facts(entry: Entry, made: object) -> list[str]:
    """Return the table of spaces, rewards and ends."""
    robot = get_embodiment(entry.spec.kwargs.get("embodiment") or "libero")
    facts = {"episode": f"at most {entry.spec.max_episode_steps} steps, each of which runs a chunk of actions"}
    if isinstance(made, gym.Env):
        starts = _starts(made)
        facts |= {
            "action space": f"`{made.action_space}`",
            "observation space": f"`{made.observation_space}`",
            "weights": f"bundled; they cover {', '.join(f'`{suite}`' for suite in starts.suites)}",
            "starts": f"{len(starts)} initial states of {len(starts.tasks)} tasks in the split `train`; "
            "`official` for evaluation",
            "reward": "the score of the checkpoint's success classifier on the generated frames, or any "
            "[reward model](../rewards.md)",
            "terminated": "the reward model finds the task done",
            "truncated": "the steps have run, or the uncertainty exceeds `max_uncertainty`",
        }
    elif isinstance(made, MissingWeightsError):
        h, w = robot.frame_size
        facts |= {
            "action space": "`(k, a)`, k actions of the weights' chunk in the robot's own units, below",
            "observation space": f"`image`, uint8 of the weights' size; {h}x{w} for the released ones",
            "weights": f"none bundled: `gym.make` says how to get them ([weights](../weights.md)). {_never_run(entry)}",
            "starts": "come with your weights, or are [rendered for them](../weights.md#initial-states)",
            "reward": "the weights' own success classifier if they have one, or any [reward model](../rewards.md)",
            "terminated": "the reward model finds the task done",
            "truncated": "the steps have run, or the uncertainty exceeds `max_uncertainty`",
        }
    elif entry.spec.id == REMOTE:
        facts |= {
            "spaces": "those of the env that the server runs",
            "weights": "the server's: [`prophet serve`](../how-to/serve.md)",
            "starts and reward": "the server's",
        }
    else:
        facts |= _simulated(entry)
    return ["| | |", "| --- | --- |", *(f"| {name} | {text} |" for name, text in facts.items())]


def _simulated(entry: Entry) -> dict[str, str]:
    """Return what holds of a simulator's env; nothing is simulated for it."""
    simulator = check_task(entry.spec.kwargs["suite"])
    robot = get_embodiment(simulator.robot)
    size = inspect.signature(SimulatorVectorEnv).parameters["size"].default
    space = gym.spaces.Box(
        np.tile(np.float32(robot.action_spec.low), (robot.chunk, 1)),
        np.tile(np.float32(robot.action_spec.high), (robot.chunk, 1)),
    )
    official = f"`official`, {simulator.official_states} published states of each of {simulator.tasks} tasks"
    return {
        "action space": f"`{space}`",
        "observation space": f"`image`, uint8 `({size}, {size}, 3)`; `size=` takes another. "
        "[Two cameras](../envs.md#cameras-and-the-robots-state) and the robot's state with `cameras=`",
        "needs": "the [LIBERO simulator](../commands.md#the-libero-simulator)"
        + (" and [LIBERO-PRO's files](../commands.md#perturbed-suites)" if entry.family == "Perturbed" else ""),
        "starts": f"{'' if entry.family == 'Perturbed' else '`train`, random placements; '}{official}, for evaluation",
        "reward": "1.0 when LIBERO's own predicate finds the task done, else 0.0",
        "terminated": "the task is done",
        "truncated": "the steps have run",
    }


def _never_run(entry: Entry) -> str:
    return "Never run with released ones" if entry.spec.kwargs.get("embodiment", "libero") else ""


def _actions(entry: Entry) -> list[str]:
    """Return what each dimension of an action means; nothing where that depends on the weights or the server."""
    name = entry.spec.kwargs.get("embodiment", "libero")
    if name is None or entry.spec.id == REMOTE:
        return []
    robot = get_embodiment(name)
    units = robot.action_spec.units or ("",) * robot.action_spec.dim
    rows = zip(robot.action_spec.names, robot.action_spec.bounds, units, strict=True)
    rate = f"at {robot.control_hz:g} Hz" if robot.control_hz else "at a rate that nobody published"
    return [
        "## Actions",
        "",
        f"Each action has {robot.action_spec.dim} dimensions, {rate}; the gripper is open at",
        f"{robot.gripper.open:g} and closed at {robot.gripper.closed:g}. [Robots](../embodiments.md) explains units.",
        "",
        "| dimension | unit | bounds |",
        "| --- | --- | --- |",
        *(f"| `{dimension}` | {unit} | {low:g} to {high:g} |" for dimension, (low, high), unit in rows),
        "",
    ]


def _tasks(entry: Entry, made: object) -> list[str]:
    if not isinstance(made, gym.Env):
        return []
    starts = _starts(made)
    image = [f"![the first initial state of each task]({entry.spec.id}.png)", ""] if _sheet(entry) in sheets() else []
    tasks = [
        f"| {suite} | {task} | {starts.of_suite(suite).of_task(task)[0].instruction} |"
        for suite in starts.suites
        for task in starts.of_suite(suite).tasks
    ]
    return ["## Tasks", "", *image, "| suite | task | instruction |", "| --- | ---: | --- |", *tasks, ""]


def _further(entry: Entry) -> list[str]:
    pages = {
        "Dreams": {
            "the environments: step, reset, batches, wrappers": "../envs.md",
            "how far to believe a dream": "../evaluation.md",
            "limits": "../limits.md",
        },
        "Simulator": {
            "the environments: step, reset, batches, wrappers": "../envs.md",
            "looks of the simulator": "../commands.md#looks",
            "do dreams rank policies as the simulator does?": "../evaluation.md#ranking-policies",
        },
        "Perturbed": {"perturbed suites": "../commands.md#perturbed-suites", "the environments": "../envs.md"},
    }[entry.family]
    return [f"* [{title[0].upper() + title[1:]}]({at})" for title, at in pages.items()]
