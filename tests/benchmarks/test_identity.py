"""The identity benchmark tells an object that stays itself in a dream from one that turns into another."""

import numpy as np
import pytest

from benchmarks.identity import __main__ as identity
from benchmarks.identity import judge
from prophet_gym.data import Simulation, held_out, list_episodes, read_episode
from prophet_gym.data._recording import META, episode_path, name_of, simulated_episode, write_episode
from prophet_gym.prophet import tiny_prophet

NAMES = ("bottle_1", "box_1", "can_1")
COLOURS = ((220, 40, 40), (40, 200, 60), (50, 70, 220))
STEPS, GRASP, SIZE = 32, 10, 64
CAMERA = np.array([[0.5, 0, 0, 0.5], [0, 0.5, 0, 0.5], [0, 0, 0, 1]])


def draw(frame, place, colour):
    column, row = ((place[:2] * 0.5 + 0.5) * SIZE).astype(int)
    frame[row - 3 : row + 6, column - 3 : column + 4] = colour


def carrying(task, seed, shown_as=None):
    """The hand goes to the target, closes at frame 10 and carries it away; the camera looks straight down."""
    random = np.random.default_rng(seed)
    stands = np.array([[-0.5, -0.4, 0], [0.5, -0.4, 0], [0.0, 0.5, 0]], np.float32)
    stands[:, :2] += random.uniform(-0.1, 0.1, (3, 2))
    path = np.tile(np.float32([-0.5, 0.5, 0.5]), (STEPS + 1, 1))
    path[GRASP:] = np.linspace(stands[task], [0.4, 0.3, 0.2], STEPS + 1 - GRASP)
    path[GRASP:, 2] += 0.1
    objects = np.tile(stands, (STEPS + 1, 1, 1))
    objects[GRASP:, task] = path[GRASP:]
    actions = np.zeros((STEPS, 7), np.float32)
    actions[:, -1] = np.where(np.arange(STEPS) < GRASP - 1, -1, 1)
    frames = np.full((STEPS + 1, SIZE, SIZE, 3), 90, np.uint8)
    for frame, at in zip(frames, objects, strict=True):
        for number, place in enumerate(at):
            draw(frame, place, COLOURS[number])
    if shown_as is not None:
        for frame, at in zip(frames[GRASP:], objects[GRASP:], strict=True):
            draw(frame, at[task], COLOURS[shown_as])
    simulation = Simulation(
        gripper_position=path,
        gripper_quaternion=np.tile(np.float32([0, 0, 0, 1]), (STEPS + 1, 1)),
        gripper_opening=np.full(STEPS + 1, 0.04, np.float32),
        object_positions=objects,
        object_names=NAMES,
        target=NAMES[task],
        success=np.zeros(STEPS + 1, bool),
        init_state=np.zeros(1),
        suite="blocks",
        task=task,
        mode="expert",
        seed=seed,
        look="plain",
    )
    return simulated_episode(actions, f"take the {NAMES[task]}", CAMERA, simulation), frames


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The measure of an untrained dream, and of dreams put in its place: true ones, but the bottle becomes a can."""
    folder = tmp_path_factory.mktemp("identity")
    data = folder / "data"
    data.mkdir()
    (data / META).write_text("{}")
    for task in range(3):
        for index in range(6):
            write_episode(episode_path(data, task, index), *carrying(task, 10 * task + index))
    tiny_prophet().save_pretrained(folder / "tiny")
    chosen = {"data": data, "out": folder / "out", "checkpoint": str(folder / "tiny"), "images": folder}
    args = identity.Args(official=0, held_out=0.5, others=1, steps=150, **chosen)
    first = identity.measure(args)
    for path in list_episodes(data):
        if held_out(name_of(path), args.held_out):
            episode = read_episode(path)
            task, seed = episode.sim.task, episode.sim.seed
            (each,) = identity.carried([path], "random", 8)
            frames = carrying(task, seed, shown_as=2 if task == 0 else None)[1][each.moments]
            stored = args.out / "dreams" / f"{each.name}.npz"
            np.savez_compressed(stored, frames=frames, gripper=episode.gripper_position[each.moments])
    return folder, first, identity.measure(args)


def test_a_target_is_held_while_it_is_up_in_the_closed_hand():
    episode, _ = carrying(1, 0)
    assert np.flatnonzero(judge.held(episode)).tolist() == list(range(GRASP, STEPS + 1))


def test_a_crop_lies_around_its_place_also_at_the_edge():
    frames = np.arange(64, dtype=np.uint8)[None, None, :, None] + np.zeros((1, 64, 64, 3), np.uint8)
    assert judge.cut(frames, np.array([[0.5, 0.5]]))[0, 0, :, 0].tolist() == list(range(24, 40))
    assert judge.cut(frames, np.array([[0.0, 0.5]]))[0, 0, :, 0].tolist() == [0] * 8 + list(range(8))


def test_an_object_that_changes_in_the_dream_is_found_and_one_that_stays_is_not(run):
    _, _, found = run
    assert found["classifier"]["held_out"]["held"]["accuracy"] > 0.9
    assert found["becomes"]["bottle_1"]["can_1"] > 0.9
    assert found["becomes"]["can_1"]["can_1"] > 0.9
    bottle, can = (found["objects"][name]["dream"] for name in ("bottle_1", "can_1"))
    assert bottle["true"]["mean"] < 0.1
    assert can["true"]["mean"] > 0.9
    # Video compression alone separates a true dream from its recording.
    assert bottle["colour"]["mean"] > 20 > 8 > can["colour"]["mean"]


def test_controls_show_what_the_numbers_can_say(run):
    conditions = run[2]["conditions"]
    assert conditions["recorded"]["colour"]["mean"] == 0
    assert conditions["recorded"]["right"]["mean"] > 0.9
    assert conditions["recorded_at_dream"]["true"]["mean"] == pytest.approx(conditions["recorded"]["true"]["mean"])
    assert conditions["another_object"]["true"]["mean"] < 0.1
    assert conditions["background"]["true"]["mean"] < 0.2


def test_moments_with_the_hand_elsewhere_are_counted_and_left_out(run):
    folder, untrained, found = run
    assert untrained["hand_elsewhere"]["mean"] > 0.5
    assert found["hand_elsewhere"]["mean"] == 0
    assert found["moments"] == 3 * found["episodes"]["random"]
    assert (folder / "identity.png").stat().st_size > 1000
    assert (folder / "identity_worst.png").stat().st_size > 1000
