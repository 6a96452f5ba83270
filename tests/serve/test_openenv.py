"""The client of OpenEnv itself plays on the server; skipped where `openenv-core` is not installed."""

import base64

import cv2
import numpy as np
import pytest

from tests.serve.conftest import TOKEN, wait_until
from tests.serve.test_remote_env import local, still

pytest.importorskip("openenv", reason="needs openenv-core, whose client brings a server of its own with it")
client = pytest.importorskip("openenv.core.generic_client", exc_type=ImportError)


def image(text):
    return cv2.imdecode(np.frombuffer(base64.b64decode(text), np.uint8), cv2.IMREAD_COLOR)[..., ::-1]


def test_its_generic_client_resets_steps_asks_for_the_state_and_closes(server):
    envs = local(1, autoreset_mode="Disabled", max_episode_steps=2)
    address = f"http://any:{TOKEN}@127.0.0.1:{server.port}"
    with client.GenericEnvClient(base_url=address).sync() as env:
        result = env.reset(seed=5, task=1, render="step", max_episode_steps=2)
        observation, info = envs.reset(seed=5, options={"task": 1})
        np.testing.assert_array_equal(image(result.observation["image"]), observation["image"][0])
        assert result.observation["instruction"] == info["instruction"][0]
        for _ in range(2):
            result = env.step({"actions": still(envs)[0].tolist()})
            _, reward, _, truncated, info = envs.step(still(envs))
            assert (result.reward, result.done) == (reward[0], truncated[0])
            frames = [image(each) for each in result.observation["frames"]]
            np.testing.assert_array_equal(frames, info["frames"][0])
        assert env.state()["step_count"] == 2
        with pytest.raises(RuntimeError, match="VALIDATION_ERROR"):
            env.step({"actions": [[9.0] * 7] * 4})
        assert len(server.sessions) == 1
    wait_until(lambda: len(server.sessions) == 0)


def test_its_client_is_refused_without_the_token(server):
    with pytest.raises(ConnectionError, match="401"):
        client.GenericEnvClient(base_url=server.url).sync().connect()
