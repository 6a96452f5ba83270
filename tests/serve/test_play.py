"""The page of `prophet play` in a browser, on the counting model: colours say which actions it sent, and how many."""

import io
import json
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from prophet_gym.embodiments import EMBODIMENTS, get_embodiment
from prophet_gym.serve import _play
from prophet_gym.serve._messages import pack
from prophet_gym.serve._play import FILES, encode_clip, page_routes, require_drivable, view_of
from prophet_gym.sims import simulator
from prophet_gym.sims.simulator import register_simulator
from prophet_gym.specs import InitialState
from prophet_gym.testing import CountingWorldModel, counting_starts
from tests.serve.conftest import TOKEN, wait_until

PIXEL = "[...document.querySelectorAll('canvas')[{}].getContext('2d').getImageData(3, 3, 1, 1).data].slice(0, 3)"
SAID = "document.querySelector('#say').textContent"
FRAMES = "Number(document.querySelector('#seek').max)"
SHOWN = "Number(document.querySelector('#seek').value)"
WAITING = "document.querySelector('#views').dataset.waiting === '0'"
FAST = 30
"""Changes of the robot's speed in the tests: x, times 100, in each of them."""


class TwoCameras(CountingWorldModel):
    """See at the hand half of what the scene's camera saw first."""

    def read_wrist(self, state):
        return state["start"] // 2

    def read_robot_state(self, state):
        return state["start"].new_zeros((len(state["start"]), 8))

    def read_state_error(self, state):
        return None


def routes(sessions, **kwargs):
    return page_routes(sessions, get_embodiment("libero"), "counting", **kwargs)


@pytest.fixture
def playing(running, browser):
    """Start a server and load its page; ready to be driven."""

    def start(width=1100, beside=None, dark=False, still=False, **parts):
        server = running(routes=lambda sessions: routes(sessions, beside=beside), fps=20.0, **parts)
        browser.open(f"{server.url}/?token={TOKEN}", width, dark=dark, still=still)
        browser.wait(f"{SAID}.includes('Press a key')")
        browser.value(f"document.querySelector('#speed').value = {FAST / 100}")
        return server

    yield start
    browser.call("Page.navigate", url="about:blank")


def drive(browser, code="KeyW", frames=8):
    """Hold a key until so many more frames are there; pause."""
    wanted = browser.value(FRAMES) + frames
    browser.key(code, "w", down=True)
    browser.wait(f"{FRAMES} >= {wanted}")
    browser.key(code, "w", down=False)
    browser.key("Escape", "Escape", down=True)
    browser.wait("document.querySelector('#play').textContent === 'Drive'")
    browser.wait(WAITING)


def seek(browser, frame):
    browser.value(
        f"{{const s = document.querySelector('#seek'); s.value = {frame}; s.dispatchEvent(new Event('input'))}}"
    )
    return browser.value(PIXEL.format(0))


def choose(browser, name, value):
    browser.value(f"document.querySelector('#{name}').value = '{value}'")
    browser.value(f"document.querySelector('#{name}').dispatchEvent(new Event('change'))")


def click(browser, name):
    browser.value(f"document.querySelector('#{name}').click()")


def test_the_address_with_the_token_becomes_a_cookie_and_the_token_opens_nothing_else(running):
    server = running(routes=routes, fps=20.0)
    assert server.ask("/", token=None)[0] == 401
    assert server.ask("/?token=wrong", token=None)[0] == 401
    for path in ("/about", "/metrics", "/page/main.js"):
        assert server.ask(f"{path}?token={TOKEN}", token=None)[0] == 401
    cookie = {"Cookie": f"prophet-{server.port}={TOKEN}"}
    status, page = server.ask("/", headers=cookie, token=None)
    assert status == 200
    assert b"prophet play" in page
    assert server.ask("/about", headers={"Cookie": f"prophet-{server.port + 1}={TOKEN}"}, token=None)[0] == 401
    told = json.loads(server.ask("/about", headers=cookie, token=None)[1])
    assert [len(told["starts"]["train"]), told["chunk"], told["cameras"]] == [6, 4, ["agentview"]]


def test_the_page_drives_the_dream_and_shows_what_it_generates(playing, browser):
    server = playing()
    assert browser.value("location.search") == ""
    drive(browser, frames=12)
    total = browser.value(FRAMES)
    assert total % 4 == 0
    colours = np.array([seek(browser, frame) for frame in range(total + 1)])
    np.testing.assert_array_equal(colours[:, 0], np.arange(total + 1))  # no frame is lost or shown twice
    moved = np.diff(colours[:, 1]) % 256
    assert set(moved.tolist()) == {0, FAST} or set(moved.tolist()) == {FAST}
    assert moved[0] == FAST
    assert len(np.flatnonzero(np.diff(moved))) <= 1  # held, then let go of
    assert server.sessions.counts["step", 200] >= total / 4
    asked = [event["request"]["url"] for event in browser.happened("Network.requestWillBeSent")]
    assert asked
    assert all(url.startswith((server.url, "data:")) for url in asked)
    assert browser.happened("Runtime.exceptionThrown", "Log.entryAdded") == []
    delays = browser.value("performance.getEntriesByName('input to frame').map((each) => each.duration)")
    assert len(delays) >= 1
    assert min(delays) > 0


def test_a_key_that_is_pressed_for_a_moment_counts_for_one_action(playing, browser):
    playing()
    browser.value("document.querySelector('#still').click()")
    browser.value("for (const kind of ['keydown', 'keyup']) dispatchEvent(new KeyboardEvent(kind, {code: 'KeyW'}))")
    browser.wait(f"{SHOWN} >= 4")
    assert [seek(browser, frame)[1] for frame in range(5)] == [0, *[FAST] * 4]


class Slow(CountingWorldModel):
    """Takes as long for a chunk as the bundled model on a slow core."""

    def rollout(self, state, actions, *, generators):
        time.sleep(0.1)
        return super().rollout(state, actions, generators=generators)


def test_an_input_waits_for_two_dreams_and_not_for_the_end_of_the_chunk(playing, browser):
    """What was shown stays, and what is kept is the dream of the actions that were taken, from the chunk's start."""
    server = playing(world_model=Slow(chunk=40))
    for place in range(4):
        browser.key("KeyS" if place % 2 else "KeyW", "w", down=True)
        browser.wait(f"{SHOWN} >= {15 * (place + 1)}")
        browser.key("KeyS" if place % 2 else "KeyW", "w", down=False)
    browser.key("Escape", "Escape", down=True)
    browser.wait(WAITING)
    delays = browser.value("performance.getEntriesByName('input to frame').map((each) => each.duration)")
    assert len(delays) >= 2
    assert float(np.median(delays)) < 1200  # a chunk takes two seconds, and a busy machine some
    colours = np.array([seek(browser, frame) for frame in range(81)])
    moved = np.diff(colours[:, 1]) % 256
    assert set(moved.tolist()) >= {FAST, 256 - FAST}
    assert len(np.flatnonzero(np.diff(moved))) <= 8
    np.testing.assert_array_equal(colours[:, 0], np.arange(81))
    assert server.sessions.counts["restore", 200] >= 3
    (session,) = server.sessions._open.values()
    assert session.envs.elapsed == (2,)


@pytest.mark.parametrize("held", [0, 70])
def test_no_key_is_lost_while_the_model_dreams(playing, browser, held):
    """Neither one that is pressed for less than a step, nor one that is let go of before a dream has ended."""
    playing(world_model=Slow(chunk=8))
    click(browser, "play")
    browser.wait(f"{SHOWN} >= 4")
    for place in range(12):
        code = "KeyS" if place % 2 else "KeyW"
        down, up = (f"dispatchEvent(new KeyboardEvent('{kind}', {{code: '{code}'}}))" for kind in ("keydown", "keyup"))
        browser.value(down if held else f"{down}; {up}")
        if held:
            time.sleep(held / 1000)
            browser.value(up)
        time.sleep(0.23)
    total = browser.value(FRAMES) + 8
    browser.wait(f"{FRAMES} >= {total}")
    browser.key("Escape", "Escape", down=True)
    browser.wait(WAITING)
    moved = np.diff([seek(browser, frame)[1] for frame in range(browser.value(FRAMES) + 1)]) % 256
    begun = [move for before, move in zip([0, *moved], moved, strict=False) if move and move != before]
    assert begun == [FAST, 256 - FAST] * 6
    if not held:
        assert np.count_nonzero(moved) == 12


def test_a_drag_on_the_image_and_the_buttons_move_the_hand(playing, browser):
    playing()
    box = browser.value("{const {x, y} = document.querySelector('canvas').getBoundingClientRect(); [x, y]}")
    at = {"x": box[0] + 100, "y": box[1] + 150}
    mouse = {"button": "left", "buttons": 1, "clickCount": 1}
    browser.call("Input.dispatchMouseEvent", type="mousePressed", **at, **mouse)
    browser.call("Input.dispatchMouseEvent", type="mouseMoved", x=at["x"], y=at["y"] - 70, **mouse)
    browser.wait(f"{FRAMES} >= 8")
    browser.call("Input.dispatchMouseEvent", type="mouseReleased", x=at["x"], y=at["y"] - 70, **mouse)
    browser.key("Escape", "Escape", down=True)
    total = browser.value(FRAMES)
    assert seek(browser, total)[1] - seek(browser, total - 1)[1] in (0, FAST)
    assert seek(browser, 8)[1] >= 3 * FAST
    click(browser, "gripper")
    assert browser.value("document.querySelector('#gripper').getAttribute('aria-pressed')") == "true"


def test_rewind_forgets_what_follows_and_fork_keeps_it(playing, browser):
    server = playing()
    drive(browser, frames=12)
    total = browser.value(FRAMES)
    before = [seek(browser, frame) for frame in range(total + 1)]
    seek(browser, 6)
    click(browser, "fork")
    browser.wait(f"{SAID}.includes('From frame 4')")
    assert browser.value("document.querySelectorAll('#branch option').length") == 2
    (session,) = server.sessions._open.values()
    assert session.envs.elapsed == (1,)
    drive(browser, "KeyS", 4)
    after = [seek(browser, frame) for frame in range(9)]
    assert after[:5] == before[:5]
    assert after[5][1] == (before[4][1] - FAST) % 256
    assert after[5][2] == before[5][2]  # the noise is what it was
    choose(browser, "branch", 0)
    browser.wait(f"{FRAMES} === {total}")
    assert [seek(browser, frame) for frame in range(total + 1)] == before
    assert session.envs.elapsed == (total // 4,)
    seek(browser, 4)
    click(browser, "rewind")
    browser.wait(f"{FRAMES} === 4")
    assert session.envs.elapsed == (1,)
    assert browser.value("document.querySelectorAll('#branch option').length") == 2


def test_another_start_begins_there(playing, browser):
    playing()
    for name, value in (("task", "count task 1"), ("start", "4")):
        choose(browser, name, value)
        browser.wait(f"{SAID}.startsWith('count task 1')")
    browser.wait("document.querySelector('#start').value === '4'")
    browser.wait(f"{PIXEL.format(0)}[0] === 44")


def test_the_reward_models_verdict_ends_the_episode(playing, browser):
    from prophet_gym.rewards import FunctionReward

    reward = FunctionReward(lambda video, _: float(video[-1, ..., 0].float().mean() >= 8), max_frames=3)
    playing(reward_model=reward)
    browser.key("KeyW", "w", down=True)
    browser.wait(f"{SAID}.includes('finds the task done')")
    browser.key("KeyW", "w", down=False)
    assert browser.value(FRAMES) == 8
    assert browser.value("document.querySelector('#reward').value") == "1.00"


def test_the_clip_has_every_frame_of_every_view(playing, browser, tmp_path):
    playing(world_model=TwoCameras(chunk=4, frame_size=(64, 64)), starts=counting_starts(size=(64, 64)))
    browser.call("Page.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
    assert browser.value("document.querySelectorAll('canvas').length") == 2
    drive(browser, frames=8)
    total = browser.value(FRAMES)
    click(browser, "clip")
    browser.wait(f"{SAID}.includes('Saved')")
    wait_until(lambda: (tmp_path / "dream.webp").is_file() and (tmp_path / "dream.webp").stat().st_size)
    with Image.open(tmp_path / "dream.webp") as clip:
        # An encoder may join equal frames, but not the time that they are shown.
        shown = 0
        for frame in range(clip.n_frames):
            clip.seek(frame)
            clip.load()
            shown += clip.info["duration"]
        assert shown == 50 * (total + 1)
        assert clip.size[0] > 2 * 256


def test_the_simulator_begins_at_the_same_start_and_takes_the_same_actions(playing, browser, monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "sims")
    monkeypatch.setattr(simulator, "_REGISTERED", dict(simulator._REGISTERED))
    register_simulator(["counting"], "pushing:Pushing")
    playing(
        beside="simulator",
        world_model=CountingWorldModel(chunk=4, frame_size=(32, 32)),
        starts=counting_starts(size=(32, 32)),
    )
    from pushing import Pushing

    drive(browser, frames=8)
    total = browser.value(FRAMES)
    seek(browser, total)
    moves = np.diff([seek(browser, frame)[1] for frame in range(total + 1)])
    own = Pushing("counting", 0, size=32)
    own.reset(seed=1_000_000)
    for move in moves:
        own.step(np.array([(move % 256) / 100, 0, 0, 0, 0, 0, -1]))
    shown = browser.value(
        "[...document.querySelectorAll('canvas')[1].getContext('2d').getImageData(0, 0, 32, 32).data]"
    )
    np.testing.assert_array_equal(np.reshape(shown, (32, 32, 4))[..., :3], own.render())
    sys.modules.pop("pushing", None)


@pytest.mark.parametrize("width", [390, 1100])
@pytest.mark.parametrize("dark", [False, True])
def test_everything_fits_has_a_name_and_follows_the_scheme(playing, browser, width, dark, tmp_path):
    playing(width=width, dark=dark)
    assert browser.value("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    nodes = browser.call("Accessibility.getFullAXTree")["nodes"]
    controls = [
        node for node in nodes if node["role"]["value"] in ("button", "combobox", "slider", "checkbox", "image", "img")
    ]
    assert len(controls) >= 18
    assert [node for node in controls if not node["ignored"] and not node["name"]["value"].strip()] == []
    browser.screenshot(tmp_path / "page.png")
    image = cv2.imread(str(tmp_path / "page.png"))
    assert bool(image[2, 2].mean() < 60) == dark


def test_time_stands_still_for_those_who_want_less_motion(playing, browser):
    server = playing(still=True)
    assert browser.value("document.querySelector('#still').checked")
    browser.value("document.querySelector('#play').click()")
    time.sleep(0.6)
    assert server.sessions.counts["step", 200] == 0
    drive(browser, frames=4)
    assert server.sessions.counts["step", 200] >= 1


def test_the_view_of_a_start_tells_left_from_right():
    frames = np.zeros((1, 8, 8, 3), np.uint8)
    libero, droid = get_embodiment("libero"), get_embodiment("droid")
    # LIBERO's camera faces the robot: away from it is back, and its right is the robot's left.
    assert view_of(InitialState(frames, "lift", suite="libero_object", task=3), libero) == ([-1, 0], [0, 1])
    assert view_of(InitialState(frames, "lift"), droid) == ([1, 0], [0, -1])


def test_robots_that_keys_cannot_drive_are_refused():
    for name, robot in EMBODIMENTS.items():
        if robot.arms == 1 and robot.rest_action is not None and robot.action_spec.names[-1] == "gripper":
            assert require_drivable(robot) is robot
        else:
            with pytest.raises(ValueError, match=f"motions and a gripper, and those of {name} are "):
                require_drivable(robot)
    with pytest.raises(ValueError, match="agibot"):
        require_drivable(EMBODIMENTS["agibot"])


VIDEO = np.zeros((3, 8, 8, 3), np.uint8)


@pytest.mark.parametrize(
    "message",
    [
        {},
        {"videos": {}, "fps": 20},
        {"videos": {"a": VIDEO, "b": VIDEO[1:]}, "fps": 20},
        {"videos": {"a": VIDEO[0]}, "fps": 20},
        {"videos": {"a": VIDEO.astype(np.float32)}, "fps": 20},
        {"videos": {"a": VIDEO}, "fps": 0},
        {"videos": {"a": np.broadcast_to(VIDEO[:1], (2402, 8, 8, 3))}, "fps": 20},
        {"videos": {"a": "text"}, "fps": 20},
        {"videos": {"a": VIDEO[:, :0]}, "fps": 20},
    ],
)
def test_a_clip_of_something_else_is_refused(running, message):
    with pytest.raises(ValueError, match="a clip"):
        encode_clip(message)
    if not message:
        status, body = running(routes=routes, fps=20.0).ask("/clip", pack(message))
        assert status == 400
        assert "a clip is of videos" in json.loads(body)["error"]["message"]


def test_the_clip_of_the_longest_episode_has_its_first_image_too(running, monkeypatch):
    monkeypatch.setattr(_play, "LONGEST", 2)
    video = VIDEO + 99 * np.arange(3, dtype=np.uint8)[:, None, None, None]
    with Image.open(io.BytesIO(encode_clip({"videos": {"a": video}, "fps": 20}))) as clip:
        assert clip.n_frames == 3
    told = json.loads(running(routes=routes, fps=20.0).ask("/about")[1])
    assert told["longest"] == 2


def test_the_page_is_small_and_loads_nothing_from_elsewhere():
    files = sorted(FILES.iterdir())
    assert {path.name for path in files} >= {"index.html", "main.js", "play.css"}
    text = "".join(path.read_text(encoding="utf-8") for path in files)
    assert sum(bool(line.strip()) for line in text.splitlines()) <= 600
    assert text.count("http://") == text.count("http://www.w3.org/2000/svg")
    assert "https://" not in text
