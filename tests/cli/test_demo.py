"""The demo: what is filmed is what was recorded and what was dreamt, in that order."""

import json

import imageio.v3 as iio
import numpy as np
import pytest

from prophet_gym._io.pictures.panels import GAP, STRIP, side_by_side, write_animation
from prophet_gym.checkpoint import Checkpoint, bundled_checkpoints
from prophet_gym.cli._demo import DREAM, LIBERO, OTHER, Args, demo_episodes, dream_scene
from prophet_gym.cli.main import main
from prophet_gym.data import list_episodes, read_episode
from prophet_gym.data._video import frame_times


@pytest.fixture(scope="module")
def scene(checkpoint, recording):
    first, second = map(read_episode, list_episodes(recording, evaluating=True))
    return dream_scene(Checkpoint.named(checkpoint).world_model(), first, second.actions, 240, seed=0), first


def test_a_scene_shows_the_recording_and_two_dreams_from_its_first_frame(scene):
    scene, episode = scene
    assert scene.steps == 16  # whole chunks of 8 that both action sequences have
    np.testing.assert_array_equal(scene.videos[LIBERO], episode.frames()[:17])
    for label in (DREAM, OTHER):
        np.testing.assert_array_equal(scene.videos[label][0], episode.frames()[0])
    assert (scene.videos[DREAM][1:] != scene.videos[OTHER][1:]).any()


def test_the_second_dream_depends_on_the_actions_alone(scene, checkpoint):
    scene, episode = scene
    again = dream_scene(Checkpoint.named(checkpoint).world_model(), episode, episode.actions, 16, seed=0)
    np.testing.assert_array_equal(again.videos[DREAM], again.videos[OTHER])
    np.testing.assert_allclose(again.videos[DREAM].astype(int), scene.videos[DREAM], atol=2)


def test_panels_stand_side_by_side_enlarged():
    red, blue = (np.full((8, 8, 3), colour, np.uint8) for colour in ((200, 0, 0), (0, 0, 200)))
    image = side_by_side({"a": red, "b": blue}, "", scale=3)
    assert image.shape[0] % 2 == image.shape[1] % 2 == 0
    assert (image[STRIP : STRIP + 24, :24] == (200, 0, 0)).all()
    assert (image[STRIP : STRIP + 24, 24 + GAP : 48 + GAP] == (0, 0, 200)).all()


def test_the_command_writes_film_sheet_picture_and_numbers(checkpoint, recording, tmp_path, capsys):
    image, numbers = tmp_path / "dream.webp", tmp_path / "demo.json"
    main([
        "demo", "--world-model", str(checkpoint), "--data", str(recording), "--out", str(tmp_path), "--scale", "1",
        "--animation", str(image), "--json", str(numbers),
    ])  # fmt: skip
    assert len(frame_times(tmp_path / "demo.mp4")) == 2 * 17
    assert len(iio.imread(image, plugin="pillow", index=...)) == 9
    assert iio.imread(tmp_path / "demo.png").shape[1] == 150 + 8 * 64
    found = json.loads(numbers.read_text())
    assert found["metrics"].keys() == {DREAM, OTHER, "last frame copied"}
    assert "32 frames" not in capsys.readouterr().err
    assert found["speed"]["frames_per_second"] > 0


@pytest.mark.skipif(not bundled_checkpoints().get("libero_small"), reason="no checkpoint is bundled")
def test_the_bundled_episode_that_is_dreamt_best_comes_first_and_a_task_chooses():
    tasks = [episode.sim.task for episode, _ in demo_episodes(Args(episodes=9))]
    assert tasks[0] == 3
    assert sorted(tasks) == [0, 3, 5, 8]
    chosen = demo_episodes(Args(tasks=(8, 5)))
    assert [episode.sim.task for episode, _ in chosen] == [8, 5]
    # Whose actions an episode lends does not depend on what else is shown.
    lent = dict(zip(tasks, (actions for _, actions in demo_episodes(Args(episodes=9))), strict=True))
    np.testing.assert_array_equal(chosen[0][1], lent[8])


def test_a_task_without_a_recorded_episode_is_refused(checkpoint, recording, capsys):
    with pytest.raises(SystemExit):
        main(["demo", "--world-model", str(checkpoint), "--data", str(recording), "--tasks", "9"])
    assert "none of [9]" in capsys.readouterr().err


def test_one_episode_is_not_enough(checkpoint, tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["demo", "--world-model", str(checkpoint), "--data", str(tmp_path)])
    assert "at least two recorded episodes, found 0" in capsys.readouterr().err


def test_a_moving_picture_of_another_kind_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"ends in \.gif or \.webp"):
        write_animation(tmp_path / "dream.avi", [np.zeros((8, 8, 3), np.uint8)])
