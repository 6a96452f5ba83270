import numpy as np
import pytest

from prophet_gym.embodiments._libero import camera
from prophet_gym.errors import InvalidActionError, UnknownOptionError
from prophet_gym.sims.libero import _install as install
from prophet_gym.sims.libero.simulator import _WAIT_ACTION, LiberoSimulator

pytestmark = [
    pytest.mark.libero,
    pytest.mark.skipif(install.missing() is not None, reason=str(install.missing())),
]
TASK = 3


@pytest.fixture(scope="module")
def light():
    sim = LiberoSimulator("libero_object", TASK)
    yield sim
    sim.close()


@pytest.fixture(scope="module")
def full():
    """The light look with all faces of its meshes."""
    from prophet_gym.sims.libero._rendering import Renderer

    sim = LiberoSimulator("libero_object", TASK)
    sim._renderer = Renderer(sim.model, sim.model, camera="agentview", size=sim.size)
    yield sim
    sim.close()


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    return 10 * np.log10(255**2 / np.mean((one.astype(float) - other) ** 2))


def push(steps: int) -> np.ndarray:
    """Commands that drive the closing hand to the floor, with noise."""
    noise = np.random.default_rng(1).normal(0, 0.3, (steps, 7))
    return np.clip(np.array([0.3, 0.1, -0.9, 0, 0, 0.2, 1]) + noise, -1, 1)


def put_target_in_basket(sim: LiberoSimulator) -> None:
    """Drop the target from just over the bottom of the basket."""
    basket = sim.object_positions()["basket_1"]
    joint = sim.model.joint(sim._env.env.objects_dict[sim.target_name].joints[-1])
    address = joint.qposadr[0]
    sim.data.qpos[address : address + 3] = basket + np.array([0, 0, 0.12])


def test_fewer_faces_leave_physics_alone_and_the_pictures_close(full, light):
    full.reset(seed=7)
    light.reset(seed=7)
    for action in push(30):
        full.step(action)
        light.step(action)
        np.testing.assert_allclose(light.data.qpos, full.data.qpos, rtol=0, atol=1e-9)
        assert light.success() == full.success()
    assert psnr(full.render(), light.render()) > 30


def test_light_v2_has_exactly_the_official_physics():
    states, models = [], []
    for look in ("official", "light-v2"):
        sim = LiberoSimulator("libero_object", TASK, look=look)
        sim.reset(seed=7)
        if look == "light-v2":
            sim.render()
        for action in push(20):
            sim.step(action)
        states.append(sim.get_state())
        models.append(
            [getattr(sim.model, name).copy() for name in ("body_mass", "geom_size", "mesh_vert", "mesh_face")]
        )
        sim.close()
    np.testing.assert_array_equal(*states)
    for official, drawn in zip(*models, strict=True):
        np.testing.assert_array_equal(drawn, official)


def test_a_step_is_bit_for_bit_that_of_libero(light):
    light.reset(seed=2)
    start = light.get_state()
    actions = push(12)
    for action in actions:
        light._env.step(action)
    expected = light.data.qpos.copy()
    light.set_state(start)
    for action in actions:
        light.step(action)
    np.testing.assert_array_equal(light.data.qpos, expected)


def test_an_action_outside_the_bounds_is_clipped_as_liberos_controller_does(light):
    light.reset(seed=2)
    start = light.get_state()
    actions = 3 * push(12)
    for action in actions:
        light._env.step(action)
    expected = light.data.qpos.copy()
    for taken in (actions, np.clip(actions, -1, 1)):
        light.set_state(start)
        for action in taken:
            light.step(action)
        np.testing.assert_array_equal(light.data.qpos, expected)


@pytest.mark.parametrize(
    "action", [np.full(7, np.nan), [0, 0, np.inf, 0, 0, 0, 1], np.zeros(6), np.zeros((1, 7)), "up"]
)
def test_what_is_no_action_is_refused_and_nothing_moves(light, action):
    light.reset(seed=2)
    before = light.get_state()
    with pytest.raises(InvalidActionError, match=r"7 (finite )?numbers"):
        light.step(action)
    np.testing.assert_array_equal(light.get_state(), before)


def test_a_seed_gives_its_placement_whatever_came_before(light):
    light.reset(seed=5)
    first, image = light.data.qpos.copy(), light.render()
    light.step(np.ones(7))
    light.reset(official=1)
    other = light.data.qpos.copy()
    light.reset(seed=5)
    np.testing.assert_array_equal(light.data.qpos, first)
    np.testing.assert_array_equal(light.render(), image)
    light.reset(seed=6)
    assert np.abs(light.data.qpos - first).max() > 0.01
    assert np.abs(other - first).max() > 0.01


def test_the_callers_global_randomness_is_left_alone(light):
    np.random.seed(0)
    expected = np.random.random(3)
    np.random.seed(0)
    light.reset(seed=9)
    np.testing.assert_array_equal(np.random.random(3), expected)


def test_an_official_start_is_the_published_state_after_the_wait(light):
    states = light._official_starts
    assert len(states) == 50
    light.reset(official=4)
    # flattened MuJoCo state: time, positions, velocities; the seven arm joints come first
    arm = states[4, 1:8]
    # the controller turns the hand back to where a reset leaves it, as under LIBERO's own evaluation
    np.testing.assert_allclose(light.data.qpos[:7], arm, atol=0.05)
    published = states[4, 1 : 1 + light.model.nq]
    assert np.abs(light.data.qpos - published).max() < 0.05
    assert light.gripper_opening() == pytest.approx(0.08, abs=0.005)


def test_a_state_is_continued_exactly(light):
    light.reset(seed=1)
    for action in push(20):
        light.step(action)
    state = light.get_state()
    for action in push(8):
        light.step(action)
    expected = light.data.qpos.copy()
    light.reset(seed=3)
    light.set_state(state)
    np.testing.assert_array_equal(light.get_state(), state)
    for action in push(8):
        light.step(action)
    np.testing.assert_array_equal(light.data.qpos, expected)
    with pytest.raises(ValueError, match=r"has shape \(\d+,\), got \(5,\)"):
        light.set_state(np.zeros(5))


def test_the_goal_predicate_holds_when_the_target_is_in_the_basket(light):
    light.reset(seed=0)
    assert not light.success()
    put_target_in_basket(light)
    for _ in range(4):
        light.step(_WAIT_ACTION)
    assert light.success()


def test_commands_move_the_hand_along_the_worlds_axes(light):
    light.reset(seed=0)
    start = light.gripper_position()
    for _ in range(8):
        light.step(np.array([0, 1, 0, 0, 0, 0, 1.0]))
    moved = light.gripper_position() - start
    assert moved[1] > 0.08
    assert np.abs(moved[[0, 2]]).max() < 0.02
    assert light.gripper_opening() < 0.03
    turned = light.gripper_quaternion()
    assert np.linalg.norm(turned) == pytest.approx(1)


def test_the_camera_matrix_says_where_a_marker_is_drawn(light):
    light.reset(seed=0)
    before = light.render().astype(float)
    site = light._env.robots[0].eef_site_id
    colour, size, place = light.model.site_rgba[site].copy(), light.model.site_size[site].copy(), light.data.site_xpos
    light.model.site_rgba[site] = [0, 1, 0, 1]
    light.model.site_size[site] = 0.02
    try:
        for point in ([0.3, 0.0, 0.4], [0.1, 0.2, 0.35], [0.3, -0.15, 0.2]):
            place[site] = point
            changed = np.abs(light.render() - before).max(axis=-1) > 20
            x, y, z = light.camera_matrix() @ [*point, 1]
            rows, columns = np.nonzero(changed)
            assert len(rows) > 5
            assert (columns.mean() + 0.5) / light.size == pytest.approx(x / z, abs=0.5 / light.size)
            assert (rows.mean() + 0.5) / light.size == pytest.approx(y / z, abs=0.5 / light.size)
            eye = light.data.cam_xpos[light.model.camera("agentview").id]
            assert 0 < z <= np.linalg.norm(eye - point)
    finally:
        light.model.site_rgba[site], light.model.site_size[site] = colour, size


def test_the_camera_is_the_one_known_without_the_simulator(light):
    np.testing.assert_allclose(light.camera_matrix(), camera("libero_object", TASK).matrix, atol=1e-8)


def test_the_hand_is_drawn_where_its_position_projects(light):
    images = []
    for command in (-1.0, 1.0):
        light.reset(seed=0)
        for _ in range(6):
            light.step(np.array([0, command, 0, 0, 0, 0, -1.0]))
        u, v, z = light.camera_matrix() @ [*light.gripper_position(), 1]
        images.append((light.render().astype(float), u / z, v / z))
    (left, u_left, v), (right, u_right, _) = images
    assert u_right - u_left > 0.1
    changed = np.abs(left - right).max(axis=-1) > 30
    row = int(v * light.size) - 6
    columns = np.nonzero(changed[row])[0] / light.size
    assert columns.min() < u_left < u_right < columns.max() + 0.05


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"suite": "libero_objekt", "task": 0}, "Did you mean 'libero_object'"),
        ({"suite": "libero_object", "task": 10}, "unknown task 10"),
        ({"suite": "libero_object", "task": 0, "look": "dark"}, "unknown look 'dark'"),
    ],
)
def test_names_that_do_not_exist_are_refused(arguments, message):
    with pytest.raises(UnknownOptionError, match=message):
        LiberoSimulator(**arguments)


def test_starts_that_do_not_exist_are_refused(light):
    with pytest.raises(ValueError, match=r"official must be in 0\.\.49, got 50"):
        light.reset(official=50)
    with pytest.raises(ValueError, match="not both"):
        light.reset(seed=0, official=0)
