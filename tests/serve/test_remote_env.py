"""The remote env keeps the contract of the local one, and dreams what it dreams."""

import re
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict

import gymnasium as gym
import jaxtyping
import numpy as np
import pytest
import torch

import prophet_gym  # noqa: F401 registers the ids
from benchmarks.toys import TinyFlowPolicy
from prophet_gym.checkpoint import bundled_checkpoints
from prophet_gym.envs import ProphetVectorEnv
from prophet_gym.errors import UnknownOptionError
from prophet_gym.factory import EnvOptions, make_vector_env
from prophet_gym.serve import RemoteProphetVectorEnv
from prophet_gym.serve._sessions import Limits
from prophet_gym.specs import InitialState
from prophet_gym.testing import CountingWorldModel, assert_same, check_prophet_env
from prophrl_algos._named import make_env
from prophrl_algos.flow import FlowSchedule, FlowSpec
from prophrl_algos.rollout import GroupPlan, collect
from tests.serve.conftest import ROOT, TOKEN, counting_parts, served


def local(num_envs=2, **kwargs):
    return ProphetVectorEnv(num_envs=num_envs, **counting_parts() | kwargs)


def still(envs):
    return np.zeros(envs.action_space.shape, np.float32)


@pytest.mark.parametrize("mode", ["NextStep", "SameStep", "Disabled"])
def test_it_passes_the_checks_of_the_local_env(server, mode):
    envs = server.env(3, autoreset_mode=mode, max_episode_steps=5)
    check_prophet_env(envs)
    envs.close()
    assert len(server.sessions) == 0


@pytest.mark.parametrize("mode", ["NextStep", "SameStep", "Disabled"])
def test_all_results_are_those_of_the_local_env_to_the_bit(server, mode):
    options = {"autoreset_mode": mode, "max_episode_steps": 3}
    remote, envs = server.env(3, **options), local(3, **options)
    rng = np.random.default_rng(0)
    assert remote.action_space == envs.action_space
    assert remote.observation_space == envs.observation_space
    assert_same(remote.reset(seed=7, options={"task": 1}), envs.reset(seed=7, options={"task": 1}))
    for _ in range(8):
        actions = rng.uniform(-1, 1, envs.action_space.shape).astype(np.float32)
        assert_same(remote.step(actions), envs.step(actions))
    assert remote.served["elapsed"] == list(envs.elapsed)
    assert (remote.finished, remote.served["usage"]) == (envs.finished, asdict(envs.usage))
    remote.close()


def test_snapshots_and_queues_are_those_of_the_local_env(server):
    remote, envs = server.env(max_episode_steps=None), local(max_episode_steps=None)
    for each in (remote, envs):
        each.reset(seed=1)
        each.step(still(each))
    saved = [remote.get_state(row) for row in range(2)]
    expected = envs.step(still(envs))
    assert_same(remote.set_state(saved)[0], envs.set_state(saved)[0])  # the local env reads what the server wrote
    assert_same(remote.step(still(remote)), expected)
    assert_same(envs.step(still(envs)), expected)
    assert_same(remote.set_state(saved[0], [1], seed=5)[0], envs.set_state(saved[0], [1], seed=5)[0])
    queue = list(counting_parts()["starts"])[:3]
    assert_same(remote.reset(seed=2, options={"queue": queue}), envs.reset(seed=2, options={"queue": queue}))
    mine = InitialState(np.full((2, 8, 8, 3), 7, np.uint8), "mine", extra={"state": np.arange(3.0)})
    assert_same(remote.reset(seed=3, options={"starts": mine}), envs.reset(seed=3, options={"starts": mine}))


@pytest.mark.parametrize(
    "call",
    [
        lambda envs: envs.step(np.zeros((2, 4, 7), np.float32)),
        lambda envs: envs.get_state(0),
        lambda envs: (envs.reset(), envs.get_state(2)),
        lambda envs: (envs.reset(), envs.get_state("a")),
        lambda envs: envs.reset(options={"task": 9}),
        lambda envs: envs.reset(options={"tusk": 1}),
        lambda envs: envs.reset(options=3),
        lambda envs: envs.reset(seed=-1),
        lambda envs: envs.reset(seed="one"),
        lambda envs: (envs.reset(), envs.step(np.full((2, 4, 7), 3.0))),
        lambda envs: envs.set_state(b"no snapshot"),
        lambda envs: envs.set_state(7),
        lambda envs: (envs.close(), envs.reset()),
    ],
)
def test_errors_are_those_of_the_local_env(shared, call, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # what users read, who have no such checks
    found = []
    for envs in (shared.env(), local()):
        with pytest.raises(Exception) as raised:  # noqa: PT011 the two are compared
            call(envs)
        found.append((raised.type, str(raised.value)))
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"num_envs": 0}, ValueError, "num_envs must be an integer of at least 1"),
        ({"num_envs": 65}, ValueError, "num_envs must be at most 64 here, got 65"),
        ({"max_episode_step": 3}, UnknownOptionError, "Did you mean 'max_episode_steps'"),
        ({"autoreset_mode": "Never"}, UnknownOptionError, "autoreset mode"),
        ({"starts": "official"}, UnknownOptionError, "split of this server 'official'"),
        ({"starts": "/etc/passwd"}, UnknownOptionError, "split of this server"),
        ({"tasks": [5]}, UnknownOptionError, "task"),
        ({"tasks": []}, ValueError, "tasks must be task numbers"),
        ({"render": "never"}, UnknownOptionError, "render"),
        ({"render_mode": "human"}, UnknownOptionError, "render mode"),
        ({"cameras": ["agentview", "wrist"]}, ValueError, "wrist camera"),
        ({"proprioception": True}, ValueError, "tracks the gripper"),
        ({"max_uncertainty": -1}, ValueError, "max_uncertainty"),
        ({"snapshot_every": 0}, ValueError, "snapshot_every"),
        ({"timeout": 0}, ValueError, "timeout"),
        ({"url": "ftp://host"}, ValueError, "url must be http://HOST:PORT"),
    ],
)
def test_a_wrong_option_is_one_clear_error(shared, options, error, message, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # what users read, who have no such checks
    before = len(shared.sessions)
    with pytest.raises(error, match=message):
        RemoteProphetVectorEnv(**{"url": shared.url} | options)
    assert len(shared.sessions) == before


def test_gymnasium_makes_it_and_its_spec_has_no_secret(server):
    envs = gym.make_vec("RemoteProphet-v0", 2, url=server.url, tasks=np.array([1]), max_episode_steps=2)
    assert "tests" not in envs.spec.to_json().replace(server.url, "")
    _, info = envs.reset(seed=0)
    assert info["task"].tolist() == [1, 1]
    envs.step(still(envs))
    assert envs.step(still(envs))[3].all()
    assert set(envs.served) == {"ms", "model_ms", "batch", "memory_bytes", "elapsed", "finished", "usage"}
    assert envs.served["batch"] == 2
    assert envs.served["memory_bytes"] > 0
    envs.close()


def test_it_renders_the_last_image(server):
    envs = server.env(render_mode="rgb_array")
    assert envs.render() is None
    observation, _ = envs.reset(seed=0)
    np.testing.assert_array_equal(envs.render(), observation["image"])


def test_prophet_dreams_the_same_to_the_bit_where_the_batch_is_the_same(running, checkpoint):
    """The success head looks at frames on demand, through the batches."""
    parts = EnvOptions(weights=checkpoint).parts()
    for options in ({"render": "chunk"}, {"render": "step", "max_uncertainty": 1e9, "proprioception": True}):
        server = running(**{name: parts[name] for name in ("world_model", "reward_model", "starts", "action_spec")})
        remote, envs = server.env(3, **options), make_vector_env(3, weights=checkpoint, **options)
        rng = np.random.default_rng(0)
        assert_same(remote.reset(seed=0), envs.reset(seed=0))
        for _ in range(3):
            actions = rng.uniform(-1, 1, envs.action_space.shape).astype(np.float32)
            assert_same(remote.step(actions), envs.step(actions))
    assert "uncertainty" in remote.step(actions)[4]


def test_prophet_dreams_nearly_the_same_beside_other_clients(running, checkpoint, monkeypatch):
    monkeypatch.setattr("prophet_gym.serve._batching.RECENT", 60.0)  # a busy machine is slow to come back
    parts = EnvOptions(weights=checkpoint, render="chunk").parts()
    server = running(
        Limits(window_ms=3000.0), **{name: parts[name] for name in ("world_model", "reward_model", "starts")}
    )
    envs = [server.env(2, render="chunk") for _ in range(3)]
    alone = make_vector_env(2, weights=checkpoint, render="chunk")
    actions = np.random.default_rng(0).uniform(-1, 1, (3, *alone.action_space.shape)).astype(np.float32)

    together = threading.Barrier(3)

    def play(number):
        envs[number].reset(seed=number)
        together.wait()
        return [(envs[number].step(action)[0]["image"], envs[number].served["batch"]) for action in actions]

    with ThreadPoolExecutor(3) as threads:
        played = list(threads.map(play, range(3)))
    assert max(batch for seen in played for _, batch in seen) == 6
    for number, seen in enumerate(played):
        alone.reset(seed=number)
        for action, (image, _) in zip(actions, seen, strict=True):
            assert np.abs(alone.step(action)[0]["image"].astype(int) - image).max() <= 2


def test_reinforcement_learning_collects_the_same_rollouts(running, monkeypatch):
    server = running(world_model=CountingWorldModel(chunk=2, action_dim=2))
    monkeypatch.setenv("PROPHET_URL", server.url)
    remote = make_env("RemoteProphet-v0", 8, starts="train", options={"max_episode_steps": 3})
    options = {"max_episode_steps": 3, "autoreset_mode": "Disabled"}
    here = local(8, world_model=CountingWorldModel(chunk=2, action_dim=2), **options)
    policy = TinyFlowPolicy(FlowSpec(horizon=3, latent_dim=3, action_dim=2, exec_steps=2, num_steps=3), hidden=16)
    found, expected = (collect(policy, env, FlowSchedule(3, 0.5), GroupPlan(2, 4), seed=5) for env in (remote, here))
    assert torch.equal(found.path.latents, expected.path.latents)
    assert torch.equal(found.returns, expected.returns)
    assert found.returns.any()
    remote.close()


@pytest.mark.slow
@pytest.mark.skipif(not bundled_checkpoints().get("libero_small"), reason="no checkpoint is bundled")
def test_the_code_of_the_page_runs(running, tmp_path, monkeypatch, capsys):
    """Its Python, as it stands but for the port, and its requests of curl."""
    server = running(**EnvOptions().parts())
    monkeypatch.chdir(tmp_path)
    (tmp_path / "token.txt").write_text(TOKEN)
    page = (ROOT / "docs" / "how-to" / "serve.md").read_text().replace("http://127.0.0.1:8000", server.url)
    for code in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(compile(code, "serve.md", "exec"), {})
    assert "'batch': 4" in capsys.readouterr().out
    shell = next(code for code in re.findall(r"```sh\n(.*?)```", page, re.DOTALL) if "curl" in code)
    done = subprocess.run(["bash", "-euc", shell], capture_output=True, text=True, check=True)
    assert done.stdout.startswith('{"observation":{"image":["iVBOR')
    assert done.stdout.endswith('{"closed":true}')


@pytest.mark.slow
@pytest.mark.skipif(not bundled_checkpoints().get("libero_small"), reason="no checkpoint is bundled")
def test_the_bundled_model_dreams_the_same_to_the_bit_for_two_hundred_steps(tmp_path, monkeypatch):
    """Over whole episodes and the resets between them; the server is `prophet serve` in a process of its own."""
    options = {"render": "chunk", "max_episode_steps": 30, "autoreset_mode": "SameStep"}
    monkeypatch.delenv("PROPHET_TOKEN", raising=False)
    with served("bundled", tmp_path / "token") as (_, url):
        remote = RemoteProphetVectorEnv(url, 2, token_file=tmp_path / "token", **options)
        envs = make_vector_env(2, weights="bundled", device="cpu", **options)
        rng = np.random.default_rng(0)
        assert_same(remote.reset(seed=0), envs.reset(seed=0))
        ends = 0
        for _ in range(200):
            actions = rng.uniform(-0.5, 0.5, envs.action_space.shape).astype(np.float32)
            found, expected = remote.step(actions), envs.step(actions)
            assert_same(found, expected)
            ends += int((expected[2] | expected[3]).sum())
        remote.close()
    assert ends >= 12


@pytest.mark.slow
def test_stable_baselines_trains_through_a_server_process_what_it_trains_here(checkpoint, tmp_path, monkeypatch):
    """PPO itself, some hundreds of steps; its weights are those of the same training on the local env, to the bit."""
    sb3 = pytest.importorskip("stable_baselines3")
    from prophet_gym.interop.sb3 import Sb3VecEnv

    options = {"render": "chunk", "max_episode_steps": 10, "autoreset_mode": "SameStep"}
    monkeypatch.delenv("PROPHET_TOKEN", raising=False)

    def train(envs):
        envs.seed(0)
        model = sb3.PPO("MultiInputPolicy", envs, n_steps=32, batch_size=32, n_epochs=2, seed=0, device="cpu")
        before = {name: each.clone() for name, each in model.policy.state_dict().items()}
        model.learn(256)
        assert model.num_timesteps == 256
        after = model.policy.state_dict()
        assert any(not torch.equal(each, after[name]) for name, each in before.items())
        envs.close()
        return after

    with served(checkpoint, tmp_path / "token") as (_, url):
        there = train(Sb3VecEnv(RemoteProphetVectorEnv(url, 4, token_file=tmp_path / "token", **options)))
    here = train(Sb3VecEnv(make_vector_env(4, weights=checkpoint, device="cpu", **options)))
    assert there.keys() == here.keys()
    assert all(torch.equal(each, here[name]) for name, each in there.items())
