"""Damaged and killed checkpoints: the old or the new is loaded whole, or one clear error says what is wrong."""

import json
import os
import shutil
import signal
import struct
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from prophet_gym._io import atomic
from prophet_gym._io.hub._manifest import verified, write_manifest
from prophet_gym.envs._initial_states import INDEX_NAME, read_initial_states, write_initial_states
from prophet_gym.errors import CheckpointError, InvalidStartError
from prophet_gym.prophet import Prophet, tiny_full_prophet, tiny_prophet
from prophet_gym.rewards import SuccessHead, SuccessHeadConfig
from prophet_gym.specs import InitialState
from prophrl_algos._checkpoint import load_checkpoint, save_checkpoint

DOCUMENTED = (CheckpointError, FileNotFoundError)  # which MissingWeightsError is, too
ODD = [
    None, True, -1, 0, 3, 10**9, 2**70, -1e30, float("nan"), float("inf"), "", "x" * 5000, "../../x", [], {}, [[]],
    [1, 2], ["a"], {"a": 1}, "\u0000\n", 1e-30, 4096, [4096] * 3,
]  # fmt: skip


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    """A checkpoint of each kind."""
    folders = {name: tmp_path_factory.mktemp(name) for name in ("small", "full", "head", "starts", "trainer")}
    tiny_prophet().save_pretrained(folders["small"])
    tiny_full_prophet().save_pretrained(folders["full"])
    SuccessHead(SuccessHeadConfig(width=4, image_size=16)).save_pretrained(folders["head"])
    frames = np.random.default_rng(0).integers(0, 256, (8, 1, 16, 16, 3), dtype=np.uint8)
    write_initial_states(folders["starts"], [InitialState(f, "do", "suite", n % 2, n) for n, f in enumerate(frames)])
    save_checkpoint(folders["trainer"] / "last.pt", {"policy": {"weight": torch.rand(64, 64)}, "step": 3})
    write_manifest(folders["small"])
    return folders


def error_of(call, *known):
    """What a documented error says; None if there is none."""
    try:
        call()
    except (*DOCUMENTED, *known) as error:
        return str(error)
    return None


def use(kind, folder):
    """Load it and compute something; what comes out must be finite."""
    if kind in ("small", "full"):
        prophet = Prophet.from_pretrained(verified(folder))
        frames = torch.full((1, 1, *prophet.frame_size, 3), 60, dtype=torch.uint8)
        state = prophet.encode(frames)
        actions = torch.zeros(1, prophet.chunk, prophet.action_dim)
        chunk = prophet.rollout(state, actions, generators=[torch.Generator().manual_seed(0)])
        numbers = [value for value in chunk.state.values() if value.is_floating_point()]
        assert all(value.isfinite().all() for value in numbers)
    elif kind == "head":
        video = torch.zeros(4, 16, 16, 3, dtype=torch.uint8)
        output = SuccessHead.from_pretrained(folder).score([video], ["do"])
        assert output.probability.isfinite().all()
    elif kind == "starts":
        assert all(state.frames.dtype == np.uint8 for state in read_initial_states(folder))
    else:
        weight = load_checkpoint(folder / "last.pt")["policy"]["weight"]
        assert weight.shape == (64, 64)
        assert weight.isfinite().all()


def flip(path, generator):
    content = bytearray(path.read_bytes())
    # The front of a file says what the rest is, so damage there is the more telling.
    end = len(content) if generator.random() < 0.5 else min(len(content), 600)
    for place in generator.integers(0, end, generator.integers(1, 8)):
        content[place] ^= int(generator.integers(1, 256))
    path.write_bytes(content)


def cut(path, generator):
    content = path.read_bytes()
    path.write_bytes(content[: generator.integers(0, len(content))])


def grow(path, generator):
    path.write_bytes(path.read_bytes() + generator.bytes(int(generator.integers(1, 64))))


def vanish(path, generator):
    path.unlink()
    if generator.random() < 0.3:
        path.mkdir()


def reword(path, generator):
    """Another value, a missing or a surplus key, or another name in a JSON file; other numbers in weights."""
    if path.suffix == ".safetensors":
        return renumber(path, generator)
    if path.suffix != ".json":
        return flip(path, generator)
    value = json.loads(path.read_text())
    places = []

    def walk(node):
        for key in list(node) if isinstance(node, dict) else range(len(node)):
            places.append((node, key))
            if isinstance(node[key], dict | list):
                walk(node[key])

    walk(value)
    node, key = places[generator.integers(len(places))]
    what = generator.random()
    if what < 0.1:
        del node[key]
    elif what < 0.2 and isinstance(node, dict):
        node[str(ODD[generator.integers(len(ODD))])[:200]] = node.pop(key)
    else:
        node[key] = ODD[generator.integers(len(ODD))]
    path.write_text(json.dumps(value))
    return None


def renumber(path, generator):
    state = load_file(path)
    name = sorted(state)[generator.integers(len(state))]
    what = generator.integers(5)
    if what == 0:
        state[name] = torch.full_like(state[name], [torch.nan, torch.inf, -torch.inf][generator.integers(3)])
    elif what == 1:
        state["../" + name * 50] = state.pop(name)
    elif what == 2:
        state[name] = state[name].flatten()[:1]
    elif what == 3:
        state[name] = torch.ones(state[name].shape, dtype=torch.int8)
    else:
        state[name].view(-1)[0] = torch.nan
    save_file(state, path, metadata={"format": "pt"})


def claim(path, generator):
    """A safetensors header, or any other start, that claims another length."""
    content = path.read_bytes()
    path.write_bytes(struct.pack("<Q", int(generator.integers(0, 2**62))) + content[8:])


DAMAGES = [flip, cut, grow, vanish, reword, reword, reword, claim]


@pytest.mark.parametrize("kind", ["small", "full", "head", "starts", "trainer"])
def test_a_damaged_file_is_used_whole_or_refused_with_its_name(kind, originals, cases, tmp_path):
    for number, generator in enumerate(cases(10)):
        folder = shutil.copytree(originals[kind], tmp_path / str(number))
        if generator.random() < 0.7:
            (folder / "manifest.json").unlink(missing_ok=True)
        files = sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix != ".md")
        path = files[generator.integers(len(files))]
        DAMAGES[generator.integers(len(DAMAGES))](path, generator)
        said = error_of(lambda folder=folder: use(kind, folder), *([InvalidStartError] if kind == "starts" else []))
        assert said is None or str(folder) in said, said
        assert said is None or (len(said) < 6000 and "\n" not in said), said
        shutil.rmtree(folder)


KILLED = """
import os, signal, sys
import numpy as np
from prophet_gym._io import atomic
from prophet_gym.envs._initial_states import write_initial_states
from prophet_gym.prophet import tiny_prophet
from prophet_gym.specs import InitialState
from prophrl_algos._checkpoint import save_checkpoint
import torch
torch.manual_seed(0)

def starts(shade):
    frames = np.full((4, 1, 16, 16, 3), shade, np.uint8)
    return [InitialState(f, f"shade {shade}", "suite", n % 2, n) for n, f in enumerate(frames)]

def save(folder, number):
    tiny_prophet(seed=number).save_pretrained(folder + "/model")
    write_initial_states(folder + "/starts", starts(50 + 100 * number), quality=101)
    save_checkpoint(atomic.Path(folder) / "trainer.pt", {"policy": {"weight": torch.full((64,), float(number))}})
"""
CHILDREN = """
# Python reports these calls to an audit hook before they are made: a save is killed between two of them.
CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "shutil.rmtree")

def end_at(count):
    left = [count]
    def hook(event, arguments):
        if event in CHANGES:
            left[0] -= 1
            if not left[0]:
                os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(hook)

for line in sys.stdin:
    folder, count = line.rstrip("\\n").rsplit(" ", 1)
    save(folder, 0)
    child = os.fork()
    if not child:
        end_at(int(count))
        save(folder, 1)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are killed between two calls")
def test_a_killed_save_leaves_the_old_or_the_new_or_says_what_to_do(cases, tmp_path, monkeypatch):
    """Whatever the moment: each part is of one save, and a folder that was caught between two renames is refused."""
    monkeypatch.setattr(atomic, "PAUSE", 0.0)  # nobody will finish these saves
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    whole = [total(tiny_prophet(seed=number).half()) for number in (0, 1)]
    command = [sys.executable, "-c", KILLED + CHILDREN]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as saver:  # fmt: skip
        assert saver.stdin is not None
        assert saver.stdout is not None
        for number, generator in enumerate(cases(8)):
            folder = tmp_path / str(number)
            folder.mkdir()
            saver.stdin.write(f"{folder} {generator.integers(1, 45)}\n")
            saver.stdin.flush()
            assert int(saver.stdout.readline()) in (0, -signal.SIGKILL)
            found = []
            said = error_of(lambda place=folder / "model", found=found: found.append(Prophet.from_pretrained(place)))
            assert "two different saves" in said or "cannot load" in said if said else total(found[0]) in whole
            shades = {(state.instruction, int(state.frames.max())) for state in read_initial_states(folder / "starts")}
            assert shades in ({("shade 50", 50)}, {("shade 150", 150)})
            assert len(load_checkpoint(folder / "trainer.pt")["policy"]["weight"].unique()) == 1
            shutil.rmtree(folder)
        saver.stdin.close()


def total(model):
    return sum(parameter.double().sum().item() for parameter in model.parameters())


def test_the_index_of_a_set_cannot_name_files_outside(originals, cases, tmp_path):
    for number, generator in enumerate(cases(5)):
        folder = shutil.copytree(originals["starts"], tmp_path / str(number))
        index = json.loads((folder / INDEX_NAME).read_text())
        names = ["../x.webp", "/etc/hostname", "..", ".", "", "a/b.webp", "x" * 300, "\u0000"]
        index["starts"][generator.integers(8)]["sheet"] = names[generator.integers(len(names))]
        (folder / INDEX_NAME).write_text(json.dumps(index))
        with pytest.raises(CheckpointError, match=r"own folder|missing or damaged"):
            read_initial_states(folder)
