"""Folders of policies with damaged bytes, JSON values, statistics, shards and adapters: read right, or refused.

Whatever the damage, a policy comes out whose velocity is finite, or one of the documented errors that names a file, a
folder, a tensor or an option.
"""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from prophet_gym._io.tensor_files import read_tensors
from prophet_gym.errors import ProphetError
from prophrl_algos import LoadOptions, load_policy
from prophrl_algos.vla import SmallVLA
from prophrl_algos.vla.io._statistics import openpi_scales

from ..prophrl_algos.vla import tiny
from ..prophrl_algos.vla.tiny import tiny_vla_adapter

pytest.importorskip("peft")
pytest.importorskip("transformers", minversion="5.4", reason="pi0 needs transformers >= 5.4")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
SHOWN = {"image": np.full((2, 32, 32, 3), 90, np.uint8)}
TEXTS = ["pick up the milk", "stop"]
ODD = [
    None,
    True,
    -1,
    0,
    1,
    3,
    2.5,
    1e30,
    float("nan"),
    float("inf"),
    "",
    "x",
    "../x",
    [],
    [1],
    {},
    {"a": 1},
    10**6,
    2**70,
]
OPTIONS = LoadOptions(dtype=torch.float32, without_state="mean")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Policies as they are saved, and one as transformers publishes it; each with how it is loaded."""
    root = tmp_path_factory.mktemp("policies")
    tiny.tiny_pi0(train="lora").save_pretrained(root / "pi0")
    tiny_vla_adapter(train="lora").save_pretrained(root / "vla_adapter")
    SmallVLA(width=16, places=4, layers=1, heads=2).save_pretrained(root / "small")
    published = root / "published"
    tiny.pi0_network(4).save_pretrained(published)
    (published / "config.json").write_text(json.dumps(tiny.pi0_config(4)))
    numbers = {"actions": 7, "state": 8}
    read = {f"{name}_{key}": [0.5] * count for name, count in numbers.items() for key in ("mean", "std")}
    (published / "processor_config.json").write_text(json.dumps(read))
    words = replace(OPTIONS, tokenizer=tiny.char_tokenizer())
    options = {"pi0": replace(OPTIONS, train="lora"), "vla_adapter": replace(OPTIONS, train="lora")}
    return {path: options.get(path.name, words if path.name == "published" else OPTIONS) for path in root.iterdir()}


@pytest.fixture
def damaged(folders, tmp_path):
    """`damaged(rng, damage)`: load a copy of a folder after `damage(rng, copy)`."""

    def run(rng, damage):
        source = sorted(folders)[rng.integers(len(folders))]
        copy = tmp_path / source.name
        shutil.copytree(source, copy)
        try:
            damage(rng, copy)
            check(lambda: load_policy(copy, folders[source]), copy)
        finally:
            shutil.rmtree(copy)

    return run


def check(load, *names):
    """It loads and speaks in finite numbers, or a documented error names what is wrong."""
    policy, message = attempt(load)
    if message is not None:
        assert 10 < len(message) < 4000, message
        assert any(str(name) in message for name in names), message
        return None
    spec = policy.spec
    with torch.no_grad():
        obs = policy.prepare(SHOWN, TEXTS)
        velocity = policy.velocity(
            policy.encode(obs, grad=False), torch.zeros(2, spec.horizon, spec.latent_dim), torch.ones(2)
        )
    assert velocity.shape == (2, spec.horizon, spec.latent_dim)
    assert velocity.dtype == torch.float32
    return policy


def attempt(load):
    """What is loaded, or the message of a documented error."""
    try:
        return load(), None
    except (ProphetError, ValueError) as error:
        return None, str(error)


def files_of(folder, suffix=""):
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.name.endswith(suffix))


def bytes_changed(rng, folder):
    """Flip, cut, repeat or insert bytes of any file; bits of the weights' numbers may change them to any number."""
    files = files_of(folder)
    path = files[rng.integers(len(files))]
    content = bytearray(path.read_bytes())
    place = int(rng.integers(len(content)))
    kind = rng.integers(5)
    if kind == 0:
        content[place] ^= 1 << rng.integers(8)
    elif kind == 1:
        content = content[:place]
    elif kind == 2:
        content[place:place] = rng.bytes(int(rng.integers(1, 64)))
    elif kind == 3:
        content[place : place + 64] = rng.bytes(64)
    else:
        content = bytearray(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    path.write_bytes(bytes(content))


def json_changed(rng, folder):
    """Exchange, drop or add a value anywhere in a JSON file."""
    files = [path for path in files_of(folder, ".json") if path.name != "tokenizer.json"]
    path = files[rng.integers(len(files))]
    content = json.loads(path.read_text())
    places = list(leaves(content))
    for _ in range(int(rng.integers(1, 3))):
        holder, key = places[rng.integers(len(places))]
        if rng.integers(4) == 0 and isinstance(holder, dict):
            holder.pop(key, None)
        else:
            holder[key] = ODD[rng.integers(len(ODD))]
    path.write_text(json.dumps(content))


def leaves(value):
    """Every place of a nested value, as the container and the key."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in pairs:
        yield value, key
        yield from leaves(inner)


def shards_changed(rng, folder):
    """Split the weights into shards with an index, and then lose, mix up or leave something."""
    whole = load_file(folder / "model.safetensors")
    names = sorted(whole)
    count = int(rng.integers(2, 5))
    places = {name: f"model-{rng.integers(count) + 1:05d}-of-{count:05d}.safetensors" for name in names}
    header = json.loads((folder / "config.json").read_text()).get("save")
    for place in set(places.values()):
        shard = {name: whole[name] for name in names if places[name] == place}
        save_file(shard, folder / place, metadata={"save": header} if header else None)
    kind = rng.integers(6)
    some = names[rng.integers(len(names))]
    if kind == 0:
        (folder / places[some]).unlink()
    elif kind == 1:
        places.pop(some)
    elif kind == 2:
        places[some] = [places[some], "../x", 3][rng.integers(3)]
    elif kind == 3:
        save_file({"more": torch.zeros(1)}, folder / places[some])
    if kind != 4:
        (folder / "model.safetensors").unlink()
    if kind != 5:
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))


def tensors_changed(rng, folder):
    """Drop, add, rename, reshape or spoil tensors."""
    path = folder / "model.safetensors"
    mark = json.loads((folder / "config.json").read_text()).get("save")
    save_file(spoilt(rng, load_file(path)), path, metadata={"save": mark} if mark else None)


def spoilt(rng, state):
    state = dict(state)
    names = sorted(state)
    for _ in range(int(rng.integers(1, 3))):
        name = names[rng.integers(len(names))]
        kind = rng.integers(7)
        tensor = state.pop(name, torch.zeros(1))
        if kind == 1:
            state[name] = tensor[..., :1].contiguous() if tensor.ndim else tensor
        elif kind == 2:
            state[name] = torch.full_like(tensor.float(), [float("nan"), float("inf"), -float("inf")][rng.integers(3)])
        elif kind == 3:
            state[f"{name}.more"] = tensor
        elif kind == 4:
            state[["module.", "base_model.model.", "net_ema."][rng.integers(3)] + name] = tensor
        elif kind == 5:
            state[name] = tensor.to([torch.float16, torch.int64, torch.float64][rng.integers(3)])
        elif kind == 6:
            state = {f"module.{each}": value for each, value in {**state, name: tensor}.items()}
            names = sorted(state)
    return state or {"none": torch.zeros(1)}


@pytest.mark.parametrize("damage", [bytes_changed, json_changed, shards_changed, tensors_changed])
def test_a_damaged_folder_is_read_right_or_refused(cases, damaged, damage):
    for rng in cases(8):
        damaged(rng, damage)


def test_adapters_that_do_not_fit_change_nothing(cases, folders):
    policies = {
        name: load_policy(path, folders[path]) for path in folders if (name := path.name) in ("pi0", "vla_adapter")
    }
    for rng in cases(8):
        policy = policies[sorted(policies)[rng.integers(len(policies))]]
        before = {name: tensor.clone() for name, tensor in policy.state_dict().items()}
        given = spoilt(rng, before)
        found = check(lambda policy=policy, given=given: loaded(policy, given), "the adapters")
        if found is None:
            assert all(torch.equal(tensor, before[name]) for name, tensor in policy.state_dict().items())
        policy.load_weights(before, source="the adapters")


def loaded(policy, given):
    policy.load_weights(given, source="the adapters")
    return policy


def test_statistics_scale_to_finite_numbers_or_are_refused(cases, tmp_path):
    good = {"q01": [-1.0] * 7, "q99": [1.0] * 7, "mean": [0.0] * 7, "std": [0.5] * 7}
    path = tmp_path / "norm_stats.json"
    for rng in cases(10):
        content = json.loads(json.dumps({"norm_stats": {"actions": good, "state": good}}))
        places = list(leaves(content))
        for _ in range(int(rng.integers(1, 4))):
            holder, key = places[rng.integers(len(places))]
            holder[key] = ODD[rng.integers(len(ODD))]
        path.write_text(json.dumps(content))
        scaling = ["QUANTILES", "MEAN_STD"][rng.integers(2)]
        scales, message = attempt(lambda scaling=scaling: openpi_scales(tmp_path, scaling, 1e-6))
        if scales is None:
            assert "norm_stats.json" in message
            continue
        for scale in (scales.actions, scales.state):
            assert scale is None or (scale.offset.isfinite().all() and (scale.scale > 0).all())


def test_heads_of_others_are_read_or_refused(cases, tmp_path):
    path = tmp_path / "action_head--1_checkpoint.pt"
    for rng in cases(8):
        given = spoilt(rng, {f"layer{n}.weight": torch.full((3, 3), 0.1) for n in range(3)})
        torch.save(given, path, _use_new_zipfile_serialization=bool(rng.integers(6)))
        content = bytearray(path.read_bytes())
        if rng.integers(2):
            content[rng.integers(len(content))] ^= 1 << rng.integers(8)
        if rng.integers(4) == 0:
            content = content[: rng.integers(len(content))]
        path.write_bytes(bytes(content))
        state, message = attempt(lambda: read_tensors(path))
        if state is None:
            assert path.name in message
        else:
            assert all(tensor.isfinite().all() for tensor in state.values())
