"""Whatever reads weights: only finite tensors get in, no small file fills the memory, messages fit a terminal."""

import pickle
import resource
import subprocess
import sys
import zipfile

import pytest
import torch
from safetensors.torch import save_file

from prophet_gym._io.tensor_files import read_mark, read_tensors, read_torch, write_tensors
from prophet_gym.errors import CheckpointError, MissingWeightsError

STATE = {"weight": torch.arange(6.0).view(2, 3), "count": torch.tensor(3), "half": torch.ones(2, dtype=torch.float16)}


class Command:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def write(path, state):
    save_file(state, path) if path.suffix == ".safetensors" else torch.save(state, path)


@pytest.mark.parametrize("name", ["a.safetensors", "a.pt", "a.bin"])
def test_a_state_dict_comes_back(name, tmp_path):
    write(tmp_path / name, STATE)
    found = read_tensors(tmp_path / name)
    assert found.keys() == STATE.keys()
    assert all(torch.equal(found[key], STATE[key]) and found[key].dtype == STATE[key].dtype for key in STATE)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float8_e5m2])
@pytest.mark.parametrize("name", ["a.safetensors", "a.pt"])
def test_numbers_that_are_not_finite_are_refused_with_their_names(name, dtype, value, tmp_path):
    bad = torch.ones(3, 4)
    bad[1, 2] = value
    write(tmp_path / name, {"fine": torch.ones(2), "broken": bad.to(dtype)})
    with pytest.raises(CheckpointError, match=rf"{name} is damaged: broken hold numbers that are not finite"):
        read_tensors(tmp_path / name)


def test_finite_numbers_whose_sum_is_not_are_fine(tmp_path):
    save_file({"large": torch.full((4,), 3e38)}, tmp_path / "a.safetensors")
    assert read_tensors(tmp_path / "a.safetensors")["large"].sum() == torch.inf


def test_what_could_not_be_loaded_is_not_written(tmp_path):
    with pytest.raises(CheckpointError, match="cannot be written: weight hold numbers that are not finite"):
        write_tensors({"weight": torch.tensor([torch.nan])}, tmp_path / "a.safetensors")
    assert not (tmp_path / "a.safetensors").exists()


@pytest.mark.parametrize("read", [read_tensors, read_torch])
def test_a_packed_file_is_refused_before_it_is_unpacked(read, tmp_path):
    torch.save({"weight": torch.zeros(1)}, tmp_path / "a.pt")
    with zipfile.ZipFile(tmp_path / "a.pt") as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(tmp_path / "a.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            archive.writestr(name, bytes(1 << 28) if name.endswith("data/0") else content)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(CheckpointError, match="unpacks to more than its own size"):
        read(tmp_path / "a.pt")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1 << 17  # kB


@pytest.mark.parametrize("read", [read_tensors, read_torch])
def test_a_pickle_is_refused_without_advice_to_run_it(read, tmp_path):
    torch.save({"weight": torch.zeros(1), "extra": Command(tmp_path / "ran")}, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match="never unpickled") as error:
        read(tmp_path / "a.pt")
    assert "weights_only" not in str(error.value)
    assert not (tmp_path / "ran").exists()
    code = f"from prophet_gym._io.tensor_files import {read.__name__} as read; read({str(tmp_path / 'a.pt')!r})"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "never unpickled" in shown.stderr  # and the traceback of one who does not catch it
    assert "weights_only=False" not in shown.stderr


def damage_of(content):
    cut, flipped = content[: len(content) // 2], bytearray(content)
    flipped[len(content) // 2] ^= 0xFF
    return {"cut": cut, "flipped": bytes(flipped), "empty": b"", "text": b"weights", "pickle": pickle.dumps({"a": 1})}


@pytest.mark.parametrize("kind", ["cut", "flipped", "empty", "text", "pickle"])
@pytest.mark.parametrize("name", ["a.safetensors", "a.pt"])
def test_a_damaged_file_is_one_clear_line(name, kind, tmp_path):
    write(tmp_path / name, {"weight": torch.zeros(64, 64)})
    (tmp_path / name).write_bytes(damage_of((tmp_path / name).read_bytes())[kind])
    if (name, kind) == ("a.safetensors", "flipped"):  # it has no checksum, and a number changed by a bit is a number
        assert read_tensors(tmp_path / name)["weight"].count_nonzero() == 1
        return
    with pytest.raises(CheckpointError, match=name) as error:
        read_tensors(tmp_path / name)
    assert "\n" not in str(error.value)


def test_a_tensor_that_claims_more_than_is_stored_is_refused(tmp_path):
    torch.save({"weight": torch.zeros(1).expand(10**6, 10**6)}, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match="plain contiguous tensors, which weight are not"):
        read_tensors(tmp_path / "a.pt")


def test_long_and_odd_names_are_cut(tmp_path):
    names = ["x" * 5000 + "\n", *(f"name.{n}" for n in range(50))]
    save_file({name: torch.tensor([torch.nan]) for name in names}, tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match="and 41 more") as error:
        read_tensors(tmp_path / "a.safetensors")
    assert len(str(error.value)) < 1000
    assert "\n" not in str(error.value)


def test_other_files_and_none_at_all(tmp_path):
    with pytest.raises(MissingWeightsError, match="no weights at"):
        read_tensors(tmp_path / "nowhere.pt")
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(CheckpointError, match=r"must end in \.safetensors"):
        read_tensors(tmp_path / "a.txt")


def test_the_mark_of_a_save(tmp_path):
    write_tensors(STATE, tmp_path / "a.safetensors", "some save")
    save_file(STATE, tmp_path / "b.safetensors")
    assert read_mark(tmp_path / "a.safetensors") == "some save"
    assert read_mark(tmp_path / "b.safetensors") is None
