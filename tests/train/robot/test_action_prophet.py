"""The Prophet that reads actions alone: its contract, its conditions, its config; and robots as plug-ins."""

from dataclasses import replace
from importlib.metadata import EntryPoint

import gymnasium as gym
import numpy as np
import pytest
import torch

from prophet_gym import embodiments
from prophet_gym.data._latents import LatentEpisodes
from prophet_gym.data._reading import success_of
from prophet_gym.data._windows import fitted
from prophet_gym.embodiments import get_embodiment, get_robot, named_robot
from prophet_gym.errors import CheckpointError, UnknownOptionError
from prophet_gym.prophet import ActionProphet, Prophet
from prophet_gym.prophet._gripper import Untracked
from prophet_gym.testing import check_world_model
from prophet_gym.train._autoencoder import moving_places
from prophet_gym.train._dynamics import Dreams, dream_loss
from prophet_gym.world_model import TracksGripper
from tests.train.robot.tiny import tiny_action_prophet


def seeded() -> list[torch.Generator]:
    return [torch.Generator().manual_seed(0)]


def noise(*shape: int) -> torch.Tensor:
    return torch.randint(256, shape, generator=torch.Generator().manual_seed(1), dtype=torch.uint8)


def test_it_is_a_world_model_that_tracks_nothing():
    model = tiny_action_prophet()
    check_world_model(model, tolerance=2)
    assert not isinstance(model, TracksGripper)


def test_before_its_first_action_a_robot_was_asked_for_the_same():
    model, frames = tiny_action_prophet(), noise(1, 1, 64, 64, 3)
    actions = torch.linspace(-1, 1, 56).reshape(1, 8, 7)
    begun = model.rollout(model.encode(frames), actions, generators=seeded())
    told = model.resume(frames, actions[:, :1].expand(-1, 8, -1))
    assert torch.equal(begun.frames, model.rollout(told, actions, generators=seeded()).frames)
    other = model.resume(frames, -actions[:, :1].expand(-1, 8, -1))
    assert not torch.equal(begun.frames, model.rollout(other, actions, generators=seeded()).frames)
    # From the second chunk on, the chunk before counts.
    assert begun.state["led"].all()
    assert torch.equal(begun.state["commands"], actions)


def test_actions_count_in_deviations_of_the_data():
    plain, frames = tiny_action_prophet(), noise(1, 1, 64, 64, 3)
    scaled = tiny_action_prophet(action_mean=(30.0,) * 7, action_std=(10.0,) * 7)
    actions = torch.linspace(-1, 1, 56).reshape(1, 8, 7)
    one = plain.rollout(plain.encode(frames), actions, generators=seeded()).frames
    other = scaled.rollout(scaled.encode(frames), 10 * actions + 30, generators=seeded()).frames
    assert (one.int() - other.int()).abs().max() <= 1


def test_the_first_frame_is_read_at_every_age():
    model = tiny_action_prophet()
    state = model.encode(noise(1, 1, 64, 64, 3))
    for _ in range(3):
        state = model.rollout(state, torch.zeros(1, 8, 7), generators=seeded()).state
    other = {**state, "initial": -state["initial"]}
    one, two = (model.rollout(each, torch.zeros(1, 8, 7), generators=seeded()) for each in (state, other))
    assert not torch.equal(one.state["latents"], two.state["latents"])


def test_a_checkpoint_knows_its_robot_and_a_damaged_description_is_refused(tmp_path):
    tiny_action_prophet(embodiment="my_arm", fps=5.0).save_pretrained(tmp_path)
    model = Prophet.from_pretrained(tmp_path)
    assert isinstance(model, ActionProphet)
    assert model.config == replace(model.config, embodiment="my_arm")
    path = tmp_path / "prophet.json"
    path.write_text(path.read_text().replace('"action_low": [\n    -1.0,', '"action_low": [\n    1.0,'))
    with pytest.raises(CheckpointError, match="bounds must be finite with low < high"):
        Prophet.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"frame_size": (72, 64)}, "must be multiples of 16 of at least 64"),
        ({"frame_size": (64, 48)}, "must be multiples of 16 of at least 64"),
        ({"frame_size": (64, 64), "cameras": ("a", "b", "c")}, "as high for each of 3 cameras"),
        ({"action_std": (0.0,) * 7}, "deviations above 0"),
        ({"rest_action": (0.0,)}, "must have action_dim=7 entries"),
        ({"fps": 0.0}, "fps=0.0 must be above 0"),
    ],
)
def test_a_config_that_cannot_be_is_refused(changes, said):
    with pytest.raises(ValueError, match=said):
        tiny_action_prophet(**changes)


def test_networks_of_another_model_are_refused():
    model, narrower = tiny_action_prophet(), {"action_dim": 6, "action_names": tuple("abcdef")}
    narrower |= {
        f"action_{name}": (one,) * 6 for name, one in [("mean", 0.0), ("std", 1.0), ("low", -1.0), ("high", 1.0)]
    }
    config = tiny_action_prophet(**narrower).config
    with pytest.raises(CheckpointError, match="reads 7 numbers a frame, which must be 6 of the action"):
        ActionProphet(model.transformer, model.autoencoder, config)


@pytest.fixture
def own_robots(tmp_path, monkeypatch):
    """A module of a robot, which some package could install as an entry point."""
    (tmp_path / "own_robots.py").write_text(
        "from prophet_gym.embodiments import Robot\nfrom prophet_gym.specs import ActionSpec\n"
        "SPEC = ActionSpec(tuple('abcdef'), (-200.0,) * 6, (200.0,) * 6)\n"
        "ARM = Robot(name='my_arm', action_spec=SPEC, control_hz=10.0, chunk=8)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.usefixtures("own_robots")
def test_a_robot_of_an_installed_package_is_known_by_its_name(monkeypatch):
    entry = EntryPoint("my_arm", "own_robots:ARM", "prophet_gym.embodiments")
    monkeypatch.setattr(embodiments, "entry_points", lambda group: [entry] if group == entry.group else [])
    assert (get_robot("my_arm").name, get_robot("my_arm").chunk) == ("my_arm", 8)
    with pytest.raises(ValueError, match="my_arm must be an Embodiment, which also says how its actions move"):
        get_embodiment("my_arm")
    with pytest.raises(UnknownOptionError, match=r"unknown embodiment 'my_arms'. Did you mean 'my_arm'\?"):
        get_robot("my_arms")


@pytest.mark.usefixtures("own_robots")
def test_a_robot_of_a_module_is_for_who_names_it_and_not_for_files(joint_set, train):
    assert named_robot("own_robots:ARM").name == "my_arm"
    with pytest.raises(ValueError, match="own_robots:SPEC must be a Robot or an Embodiment, got ActionSpec"):
        named_robot("own_robots:SPEC")
    with pytest.raises(UnknownOptionError, match="unknown embodiment 'own_robots:ARM'"):
        get_robot("own_robots:ARM")
    folder = train(f"lerobot:{joint_set()}", embodiment="own_robots:ARM", chunk=None, single_until=1.0)
    for options in ({"id": "Prophet-v0"}, {"id": "Prophet-LIBERO-v0", "embodiment": "own_robots:ARM"}):
        space = gym.make(**options, weights=folder, reward=None).action_space
        assert (space.shape, space.low.min(), space.high.max()) == ((8, 6), -200.0, 200.0)


def test_rows_that_say_success_become_labels_of_frames():
    labels = lambda *rows: success_of(np.array(rows, bool)).astype(int).tolist()  # noqa: E731
    assert labels(0, 0, 1, 1) == [0, 0, 0, 1]
    assert labels(0, 0, 0, 1) == [0, 0, 0, 1], "the last row's frame was not recorded"
    assert labels(0, 1, 0, 0) == [0, 0, 1, 0]
    assert labels(1, 1, 1, 1) == [0, 0, 0, 1], "an outcome, which does not say when"
    assert labels(0, 0, 0, 0) == [0, 0, 0, 0]


def test_frames_are_cut_about_their_middle_and_then_resized():
    frame = np.zeros((1, 40, 100, 3), np.uint8)
    frame[:, :, 30:70] = 200
    assert (fitted(frame, (40, 40)) == 200).all()
    assert (fitted(frame, (20, 20)) == 200).all()
    assert fitted(frame, (64, 128)).shape == (1, 64, 128, 3)
    np.testing.assert_array_equal(fitted(frame, (40, 100)), frame)


def test_crops_are_taken_where_something_moves():
    video = np.full((5, 64, 64, 3), 90, np.uint8)
    for number, frame in enumerate(video):
        frame[8:16, 8 * number : 8 * number + 8] = 250
    places = moving_places(video)
    assert places.shape == (5, 2, 2)
    for number in range(1, 5):
        (y, x), (top, left) = places[number]
        assert y == 12
        assert x in (8 * number + 4, 8 * number - 4)
        assert top == 12
        assert left in (8 * number + 4, 4)


def test_training_learns_what_actions_do_without_a_tracker():
    """A pattern grows by the first action, in degrees; copying the last frame is what must be beaten."""
    generator = torch.Generator().manual_seed(0)
    rows, pattern = 40, torch.randn(4, 8, 8, generator=generator).numpy()
    moves = 90 + 30 * torch.randn(rows, 6, generator=generator).numpy()
    level = np.concatenate([np.zeros(1), np.cumsum((moves[:-1, 0] - 90) / 30)])
    data = LatentEpisodes(
        latents=(0.3 * level[:, None, None, None] * pattern).astype(np.float16),
        actions=moves.astype(np.float32),
        gripper=np.zeros((rows, 0), np.float32),
        starts=np.array([0, rows]),
    )
    numbers = {"mean": 90.0, "std": 30.0, "low": -180.0, "high": 180.0}
    told = {f"action_{name}": (number,) * 6 for name, number in numbers.items()}
    prophet = tiny_action_prophet(action_dim=6, action_names=tuple("abcdef"), chunk=4, past_frames=8, **told)
    transformer, tracker = prophet.transformer.train().requires_grad_(), Untracked(4, torch.device("cpu"))
    optimizer = torch.optim.AdamW(transformer.parameters(), lr=4e-3)
    errors = []
    for _ in range(120):
        dreams = Dreams.begin(data, tracker, 16, 8, generator)
        loss, figures, _ = dream_loss(transformer, tracker, data, prophet.config, dreams, generator)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        errors.append(figures["against_copy"])
    assert np.mean(errors[-10:]) < 0.5
