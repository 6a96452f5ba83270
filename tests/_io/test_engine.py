"""What runs the transformer: the same dreams from each engine, and PyTorch wherever OpenVINO cannot."""

import copy
import json
import logging
import os
import shutil
import subprocess
import sys

import gymnasium as gym
import numpy as np
import pytest
import torch

from prophet_gym._io import engine as _engine
from prophet_gym._io.engine import OpenVino, make_engine
from prophet_gym.envs import write_initial_states
from prophet_gym.errors import UnknownOptionError
from prophet_gym.prophet import tiny_full_prophet, tiny_prophet
from prophet_gym.specs import InitialState
from prophet_gym.testing import check_world_model


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A cache with the tiny model's export, which takes seconds to make."""
    folder = tmp_path_factory.mktemp("exported")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PROPHET_CACHE", str(folder))
        dreamt(prophet())
    return folder


@pytest.fixture(autouse=True)
def cache(exported, tmp_path, monkeypatch):
    """A copy of it for each test."""
    shutil.copytree(exported, tmp_path / "cache")
    monkeypatch.setenv("PROPHET_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "engines"


def prophet(engine="openvino"):
    torch.manual_seed(0)
    model = tiny_prophet()
    model.use_engine(engine)
    return model


def dreamt(model, count=2, chunks=2):
    """Latents after some chunks: nothing is rounded to bytes."""
    state = model.encode(torch.randint(0, 256, (count, 1, 64, 64, 3), dtype=torch.uint8, generator=seeded(1)))
    for _ in range(chunks):
        actions = torch.rand(count, 8, 7, generator=seeded(2)) * 2 - 1
        state = model.advance(state, actions, generators=[seeded(i) for i in range(count)])
    return state["latents"]


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def test_openvino_dreams_as_pytorch_does_at_every_batch_size(monkeypatch):
    model, eager = prophet(), prophet("eager")
    calls = []
    monkeypatch.setattr(_engine, "_infer", lambda *given, run=_engine._infer: calls.append(1) or run(*given))
    for count in (3, 1, 5):
        torch.testing.assert_close(dreamt(model, count), dreamt(eager, count), atol=1e-4, rtol=1e-4)
    assert len(calls) == 1 + 3 * 2  # once to compare, then for each chunk


def test_a_world_model_with_an_engine_keeps_the_contract():
    check_world_model(prophet(), tolerance=2)


def test_torch_compile_dreams_as_without_it():
    # In a process without the checks of shapes, which dynamo cannot trace; inductor would need a C++ compiler.
    code = """
import torch
from functools import partial
torch.compile = partial(torch.compile, backend="eager")
from prophet_gym.prophet import tiny_full_prophet, tiny_prophet
def dream(engine):
    model = tiny_prophet()
    model.use_engine(engine)
    state = model.encode(torch.zeros(2, 1, 64, 64, 3, dtype=torch.uint8))
    return model.advance(state, torch.ones(2, 8, 7), generators=[torch.Generator(), torch.Generator()])["latents"]
torch.testing.assert_close(dream("compiled"), dream("eager"), atol=1e-5, rtol=1e-5)
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)


def test_an_export_is_kept_and_read_again(cache, monkeypatch):
    first = dreamt(prophet())
    assert [path.name for path in sorted(next(cache.iterdir()).iterdir())] == ["model.bin", "model.xml"]
    monkeypatch.setattr(_engine, "_export", lambda *_: pytest.fail("exported again"))
    assert torch.equal(dreamt(prophet()), first)


def test_other_weights_have_an_export_of_their_own(cache):
    model = prophet()
    with torch.no_grad():
        model.transformer.proj_out.weight.mul_(2)
    expected = dreamt(model)  # by PyTorch, since OpenVINO holds the old ones
    model.use_engine("openvino")
    torch.testing.assert_close(dreamt(model), expected, atol=1e-4, rtol=1e-4)
    assert len(list(cache.iterdir())) == 2


def test_a_layer_that_was_replaced_or_wrapped_is_run_by_pytorch(monkeypatch):
    model = prophet()
    dreamt(model)
    monkeypatch.setattr(_engine, "_infer", lambda *_: pytest.fail("run by OpenVINO"))
    layer = model.transformer.proj_out
    for other in (copy.deepcopy(layer), torch.nn.Sequential(layer)):
        model.transformer.proj_out = other
        dreamt(model)
    model.transformer.proj_out = layer
    with pytest.raises(pytest.fail.Exception):
        dreamt(model)


def test_a_damaged_export_is_made_again(cache):
    first = dreamt(prophet())
    path = next(cache.glob("*/model.xml"))
    path.write_text("damaged")
    assert torch.equal(dreamt(prophet()), first)
    assert path.read_text() != "damaged"


def test_a_cache_that_cannot_be_written_costs_time_alone(tmp_path, monkeypatch, caplog):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("PROPHET_CACHE", str(tmp_path / "file"))
    with caplog.at_level(logging.WARNING):
        torch.testing.assert_close(dreamt(prophet()), dreamt(prophet("eager")), atol=1e-4, rtol=1e-4)
    assert "cannot be kept" in caplog.text


def test_weights_that_changed_are_those_that_dream():
    model, eager = prophet(), prophet("eager")
    before = dreamt(model)
    for each in (model, eager):
        with torch.no_grad():
            each.transformer.proj_out.weight.mul_(2)
    assert torch.equal(dreamt(model), dreamt(eager))
    assert not torch.allclose(dreamt(model), before)


def test_an_output_that_differs_is_not_used(monkeypatch, caplog):
    monkeypatch.setattr(_engine, "_EQUAL", -1.0)
    with caplog.at_level(logging.WARNING):
        assert torch.equal(dreamt(prophet()), dreamt(prophet("eager")))
    assert "differs" in caplog.text


def test_a_copy_begins_again():
    model = prophet()
    first = dreamt(model)
    other = copy.deepcopy(model)
    assert isinstance(other._engine, OpenVino)
    assert other._engine._transformer is other.transformer
    assert torch.equal(dreamt(other), first)


FORK = """
import os
import torch
from prophet_gym._io import engine
from tests._io.test_engine import dreamt, prophet

model = prophet()
first = dreamt(model)
engine._infer = None  # which cannot be called
if (child := os.fork()) == 0:
    os._exit(0 if torch.allclose(dreamt(model), first, atol=1e-4) else 1)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks are of POSIX")
def test_a_forked_process_dreams_by_pytorch():
    # In a process of its own: a fork of this one that failed would go on with the tests.
    command = [sys.executable, "-W", "ignore", "-c", FORK]
    assert subprocess.run(command, capture_output=True, text=True, check=True, timeout=240).stdout == "0\n"


SIGNAL = """
import gc
import os
import signal
from tests._io.test_engine import dreamt, prophet

first, second = prophet(), prophet()
dreamt(first), dreamt(second)
del first
gc.collect()
del second
gc.collect()
signal.signal(signal.SIGUSR1, lambda *_: print("handled"))
os.kill(os.getpid(), signal.SIGUSR1)
"""


@pytest.mark.skipif(os.name != "posix", reason="signals are of POSIX")
def test_signals_are_handled_after_engines_are_gone():
    # On processors with AVX-512 the process died here, see `_core`.
    command = [sys.executable, "-W", "ignore", "-c", SIGNAL]
    assert subprocess.run(command, capture_output=True, text=True, check=True, timeout=240).stdout == "handled\n"


@pytest.mark.parametrize("faster", [True, False])
def test_auto_takes_what_is_faster_and_remembers_it(faster, cache, monkeypatch):
    monkeypatch.setattr(_engine, "_faster", lambda *_: faster)
    first = dreamt(prophet("auto"))
    assert json.loads(next(cache.glob("*/faster-*.json")).read_text()) is faster
    monkeypatch.setattr(_engine, "_faster", lambda *_: pytest.fail("measured again"))
    assert torch.equal(dreamt(prophet("auto")), first)
    assert torch.equal(first, dreamt(prophet("openvino" if faster else "eager")))


def test_other_dtypes_are_left_to_pytorch(monkeypatch):
    monkeypatch.setattr(_engine, "_infer", lambda *_: pytest.fail("run by OpenVINO"))
    model, other = (tiny_full_prophet() for _ in range(2))
    model.use_engine("openvino")
    chunks = []
    for each in (model, other):
        each.transformer.to(torch.bfloat16)
        state = each.encode(torch.zeros(1, 1, 32, 32, 3, dtype=torch.uint8))
        chunks.append(each.rollout(state, torch.zeros(1, 4, 7), generators=[seeded(0)]).frames)
    assert torch.equal(*chunks)


def test_the_full_prophet_has_engines_too(monkeypatch):
    calls = []
    model = tiny_full_prophet()
    monkeypatch.setattr(model, "_engine", lambda *given, **named: calls.append(1) or model.transformer(*given, **named))
    state = model.encode(torch.zeros(1, 1, 32, 32, 3, dtype=torch.uint8))
    model.rollout(state, torch.zeros(1, 4, 7), generators=[seeded(0)])
    assert len(calls) == model.config.steps + 1


def test_auto_leaves_large_networks_to_pytorch(monkeypatch):
    monkeypatch.setattr(_engine, "_LARGEST", 10)
    assert make_engine(prophet("eager").transformer, "auto") is None


def test_auto_measures():
    model = prophet("auto")
    torch.testing.assert_close(dreamt(model), dreamt(prophet("eager")), atol=1e-4, rtol=1e-4)
    assert len(model._engine._requests) == 1


def test_an_answer_that_cannot_be_kept_costs_time_alone(monkeypatch, caplog):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(_engine, "atomic_write", full)
    with caplog.at_level(logging.WARNING):
        dreamt(prophet("auto"))
    assert "measures again" in caplog.text


def test_what_cannot_be_exported_is_left_to_pytorch_or_named(cache, monkeypatch, caplog):
    def fails(*_):
        raise ValueError("an operation that it does not know")

    shutil.rmtree(cache)
    monkeypatch.setattr(_engine, "_export", fails)
    with caplog.at_level(logging.WARNING):
        assert torch.equal(dreamt(prophet("auto")), dreamt(prophet("eager")))
    assert "an operation that it does not know" in caplog.text
    with pytest.raises(RuntimeError, match=r"an operation that it does not know.*use engine='eager'"):
        dreamt(prophet("openvino"))


def test_gradients_are_left_to_pytorch():
    model = prophet()
    model.transformer.requires_grad_(requires_grad=True)
    chunk = torch.zeros(1, 16, 3, 8, 8)
    given = {"actions": torch.zeros(1, 12, 11), "action_frames": torch.zeros(1, 12, 3, 8, 8)}
    out = model._network(chunk, torch.zeros(1, 3), condition_mask=torch.zeros(1, 1, 3, 8, 8), **given)
    assert out.requires_grad


def test_a_model_made_in_inference_mode_dreams():
    with torch.inference_mode():
        model = prophet()
        torch.testing.assert_close(dreamt(model), dreamt(prophet("eager")), atol=1e-4, rtol=1e-4)


def test_openvino_is_refused_elsewhere_than_in_float32():
    model = tiny_full_prophet()
    model.transformer.to(torch.bfloat16)
    with pytest.raises(UnknownOptionError, match="not on the CPU in float32"):
        model.use_engine("openvino")
    model.use_engine("auto")
    assert model._engine is None


def test_without_openvino_auto_is_pytorch(monkeypatch):
    monkeypatch.setattr(_engine, "find_spec", lambda _: None)
    model = prophet("eager")
    assert make_engine(model.transformer, "auto") is None
    with pytest.raises(UnknownOptionError, match=r"pip install 'prophet-gym\[fast\]'"):
        make_engine(model.transformer, "openvino")


def test_an_engine_that_does_not_exist_is_named():
    with pytest.raises(UnknownOptionError, match=r"engine 'openvin'\. Did you mean 'openvino'"):
        prophet("openvin")


def test_gym_make_takes_an_engine(tmp_path):
    tiny_prophet().save_pretrained(tmp_path, half=False)
    frames = np.zeros((1, 64, 64, 3), np.uint8)
    write_initial_states(tmp_path / "starts" / "train", [InitialState(frames, "stay", "libero_object")])
    images = []
    for engine in ("eager", "openvino"):
        env = gym.make("Prophet-LIBERO-v0", weights=tmp_path, reward=None, render="chunk", engine=engine)
        env.reset(seed=0)
        images.append(env.step(np.zeros(env.action_space.shape, np.float32))[0]["image"].astype(int))
        assert isinstance(env.unwrapped.world_model._engine, OpenVino) == (engine == "openvino")
    assert abs(images[0] - images[1]).max() <= 2
