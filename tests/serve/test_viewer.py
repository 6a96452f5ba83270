"""`render_mode="human"` shows every frame of an env in the browser, at its rate."""

import copy
import threading
import time
import urllib.error
import urllib.request

import gymnasium as gym
import numpy as np
import pytest

from prophet_gym._io.pictures.viewer import Viewer
from prophet_gym.envs import ProphetEnv, ProphetVectorEnv
from prophet_gym.testing import CountingWorldModel, counting_starts
from tests.serve.conftest import wait_until

SHOWN = "document.querySelector('img').naturalWidth"
COLOUR = """(() => {
  const image = document.querySelector('img'), canvas = document.createElement('canvas');
  canvas.width = image.naturalWidth; canvas.height = image.naturalHeight;
  const context = canvas.getContext('2d');
  context.drawImage(image, 0, 0);
  return [...context.getImageData(20, 40, 1, 1).data].slice(0, 3);
})()"""


@pytest.fixture
def opened(monkeypatch):
    """The addresses that a browser was asked to open."""
    asked = []
    monkeypatch.setattr("webbrowser.open", lambda url: asked.append(url))  # None: nobody waits for a browser
    return asked


def single(**kwargs):
    return ProphetEnv(CountingWorldModel(chunk=4), counting_starts(), render_mode="human", **kwargs)


def get(url):
    with urllib.request.urlopen(url, timeout=5) as answer:
        return answer.read()


def test_every_frame_is_shown_in_the_page_and_reset_and_step_need_no_render(opened, browser, tmp_path):
    env = single(fps=20.0)
    assert "human" in env.metadata["render_modes"]
    env.reset(seed=0, options={"start": 0})
    (url,) = opened
    browser.open(url, 900)
    browser.wait(f"{SHOWN} > 0")
    colours, done = [], threading.Event()

    def step():
        for _ in range(3):
            env.step(env.action_space.sample())
        done.set()

    thread = threading.Thread(target=step)
    began = time.monotonic()
    thread.start()
    while not done.is_set() or browser.value(COLOUR)[0] < 12:
        colours.append(browser.value(COLOUR)[0])
        assert time.monotonic() < began + 20
    thread.join()
    assert time.monotonic() - began >= 10 / 20.0  # 12 frames at 20 in a second, however fast they were generated
    assert colours == sorted(colours)
    assert len(set(colours)) >= 5
    assert env.render() is None
    browser.screenshot(tmp_path / "human.png")
    env.close()
    with pytest.raises(urllib.error.URLError):
        get(url)


def test_nothing_is_shown_without_the_secret_of_the_address(opened):
    env = single(fps=1000.0)
    env.reset(seed=0)
    (url,) = opened
    assert b"<img" in get(url)
    for path in ("", "/", "/frames", "/wrong", "/wrong/frames"):
        with pytest.raises(urllib.error.HTTPError, match="404"):
            get(url.rsplit("/", 1)[0] + path)
    env.close()


def test_several_sub_environments_are_shown_side_by_side_and_a_closed_page_holds_nothing_up(opened):
    envs = ProphetVectorEnv(CountingWorldModel(chunk=4), counting_starts(), 3, render_mode="human", fps=500.0)
    envs.reset(seed=0)
    envs.step(envs.action_space.sample())
    envs.set_state(envs.get_state(0))
    copy.deepcopy(envs).step(envs.action_space.sample())
    (url,) = opened
    with urllib.request.urlopen(f"{url}/frames", timeout=5) as stream:
        assert stream.readline() == b"--image\r\n"
        kind, length = stream.readline(), int(stream.readline().split()[1])
        stream.readline()
        image = stream.read(length)
    assert kind == b"Content-Type: image/png\r\n"
    width, height = (int.from_bytes(image[place : place + 4], "big") for place in (16, 20))
    assert width > 2.5 * height
    for _ in range(5):
        envs.step(envs.action_space.sample())
    envs.close()
    wait_until(lambda: not [each for each in threading.enumerate() if each.name == "prophet-viewer"])


def test_the_last_image_is_sent_though_the_viewer_closes_before(opened):
    viewer = Viewer(1000.0)
    (url,) = opened
    images = viewer.images(f"/{url.rsplit('/', 1)[1]}/frames")
    viewer.show({"env": [np.zeros((8, 8, 3), np.uint8)]})
    first = next(images)
    viewer.show({"env": [np.full((8, 8, 3), 255, np.uint8)]})
    viewer.close()
    (last,) = images
    assert last != first


def test_gymnasium_makes_it_for_an_id(opened, checkpoint):
    env = gym.make("Prophet-LIBERO-v0", weights=str(checkpoint), render_mode="human", device="cpu")
    env.reset(seed=0)
    env.step(env.action_space.sample())
    assert len(opened) == 1
    env.close()


def test_frames_that_are_not_decoded_cannot_be_shown():
    with pytest.raises(ValueError, match="render_mode='human' shows every frame"):
        ProphetVectorEnv(CountingWorldModel(chunk=4), counting_starts(), 1, render_mode="human", render="chunk")
