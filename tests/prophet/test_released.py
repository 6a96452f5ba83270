"""Released files: only tensors get in, a folder comes out whole or not at all, in little more memory than the file."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from prophet_gym.errors import CheckpointError, MissingWeightsError
from prophet_gym.prophet import FullConfig
from prophet_gym.prophet._presets import tiny_vae
from prophet_gym.prophet.convert import Conversion, convert_file
from prophet_gym.prophet.convert._released import read_released

TINY = {
    "num_attention_heads": 2, "attention_head_dim": 12, "num_layers": 2, "text_embed_dim": 6, "adaln_lora_dim": 4,
    "actions_per_slot": 4, "history_order": "oldest_finest", "action_frames": "pooled",
}  # fmt: skip
HOW = Conversion(frame_size=(64, 64))


@pytest.fixture(scope="module")
def state(release):
    return release(torch.bfloat16, **TINY)


@pytest.fixture
def file(state, tmp_path):
    torch.save(state, tmp_path / "prophet.pt")
    return tmp_path / "prophet.pt"


def test_the_folder_holds_the_weights_as_they_were(state, file, tmp_path):
    config = convert_file(file, tmp_path / "out", None, HOW)
    assert config == FullConfig(chunk=4, frame_size=(64, 64))
    written = load_file(tmp_path / "out" / "transformer" / "diffusion_pytorch_model.safetensors")
    source = state["net.blocks.1.self_attn.q_proj.weight"]
    assert torch.equal(written["transformer_blocks.1.attn1.to_q.weight"], source)
    assert {value.dtype for value in written.values()} == {torch.bfloat16}
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["prophet.json", "transformer"]


def test_safetensors_give_the_same_folder(state, file, tmp_path):
    save_file(state, tmp_path / "prophet.safetensors")
    for name in ("prophet.pt", "prophet.safetensors"):
        convert_file(tmp_path / name, tmp_path / f"of {name}", None, HOW)
    weights = "transformer/diffusion_pytorch_model.safetensors"
    first, second = ((tmp_path / f"of prophet.{kind}" / weights).read_bytes() for kind in ("pt", "safetensors"))
    assert first == second


class Command:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def cut(path, state):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path, state):
    content = bytearray(path.read_bytes())
    value = state["net.blocks.0.self_attn.q_proj.weight"]
    at = content.index(value.flatten()[:16].view(torch.uint8).numpy().tobytes())
    content[at] ^= 1
    path.write_bytes(content)


def arm(path, state):
    torch.save({**state, "net.extra": Command(path.parent / "executed")}, path)


def pack(path, state):
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)


def tie(path, state):
    torch.save({**state, "net.tied": state["net.blocks.0.self_attn.q_proj.weight"]}, path)


def save(changes):
    return lambda path, state: torch.save({**state, **changes}, path)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cut, "cannot read .* it is damaged or cut"),
        (flip, "is damaged: the checksum of its entry .* differs"),
        (lambda path, state: path.write_bytes(b""), "cannot read"),
        (lambda path, state: path.write_bytes(b"\x80\x04]." * 100), "cannot read"),
        (arm, "holds objects other than tensors, which are never unpickled"),
        (pack, "unpacks to more than its own size"),
        (save({"net.mem_to_k.weight": torch.zeros(1).expand(10**6, 10**6)}), "plain contiguous tensors, which net.mem"),
        (save({"net.mem_to_k.weight": torch.zeros(24, 24).to_sparse()}), "plain contiguous tensors"),
        (save({"net.note": "text"}), r"tensors alone, got net\.note \(str\)"),
        (save({"model": {"nested": torch.zeros(1)}}), r"tensors alone, got model \(dict\)"),
        (lambda path, state: torch.save([torch.zeros(1)], path), "must hold a state dict"),
        (lambda path, state: torch.save({1: torch.zeros(1)}, path), "must hold a state dict"),
        (save({"net.mem_to_k.weight": torch.zeros(3, 3)}), r"to_k\.weight has shape \(3, 3\), expected \(24, 24\)"),
        (save({"net.mem_to_k.weight": torch.zeros(24, 24, dtype=torch.int8)}), r"floating-point weights, got net\.mem"),
        (
            save({"net.mem_to_k.weight": torch.full((24, 24), torch.nan)}),
            r"mem_to_k\.weight hold numbers that are not fin",
        ),
        (save({"net.surprise": torch.zeros(2)}), r"1 unexpected: surprise \(2,\)"),
        (tie, r"share memory \(net\.blocks\.0\.self_attn\.q_proj\.weight, net\.tied\).*tensor\.clone\(\)"),
        (
            lambda path, state: torch.save(state, path, _use_new_zipfile_serialization=False),
            r"format of torch before 1\.6.*torch\.load\(FILE, weights_only=True\)",
        ),
        (
            lambda path, state: path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"),
            "Git LFS pointer",
        ),
        (lambda path, state: torch.save({"encoder.conv1.weight": torch.zeros(2)}, path), "not a Prophet transformer"),
    ],
)
def test_a_bad_file_gets_one_clear_error_and_leaves_nothing(state, file, damage, message):
    damage(file, state)
    with pytest.raises(CheckpointError, match=message) as error:
        convert_file(file, file.parent / "out", None, HOW)
    assert "\n" not in str(error.value)
    assert [path.name for path in file.parent.iterdir()] == ["prophet.pt"]


def test_a_damaged_safetensors_file_is_refused(state, tmp_path):
    save_file(state, tmp_path / "prophet.safetensors")
    cut(tmp_path / "prophet.safetensors", state)
    with pytest.raises(CheckpointError, match="cannot read"):
        read_released(tmp_path / "prophet.safetensors")


def test_wrong_names_of_files(tmp_path):
    with pytest.raises(MissingWeightsError, match="no weights at"):
        read_released(tmp_path / "nowhere.pt")
    (tmp_path / "prophet.txt").write_text("")
    with pytest.raises(CheckpointError, match=r"must end in \.safetensors"):
        read_released(tmp_path / "prophet.txt")


def test_nothing_is_overwritten(file, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "own").write_text("kept")
    with pytest.raises(CheckpointError, match="holds something already"):
        convert_file(file, tmp_path / "out", None, HOW)
    assert (tmp_path / "out" / "own").read_text() == "kept"


@pytest.mark.parametrize(
    ("how", "message"),
    [
        (Conversion(frame_size=(64, 72)), r"multiples of 16 of at least 64, got \(64, 72\)"),
        (Conversion(frame_size=(48, 64)), "multiples of 16 of at least 64"),
        (Conversion(action_dim=28), "chunk of 2 actions of 28 numbers is no multiple of 4"),
    ],
)
def test_choices_that_cannot_be_dreamt_are_refused(file, how, message):
    with pytest.raises(CheckpointError, match=message):
        convert_file(file, file.parent / "out", None, how)
    assert not (file.parent / "out").exists()


def test_another_vae_is_refused_and_nothing_is_left(file, tmp_path):
    with pytest.raises(MissingWeightsError, match="no Wan VAE at"):
        convert_file(file, tmp_path / "out", tmp_path, HOW)
    vae = tmp_path / "vae"
    tiny_vae().save_pretrained(vae)
    (vae / "config.json").write_text((vae / "config.json").read_text().replace('"base_dim": 4', '"base_dim": 8'))
    with pytest.raises(CheckpointError, match="no Wan VAE of its own config"):
        convert_file(file, tmp_path / "out", tmp_path, HOW)
    assert not (tmp_path / "out").exists()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


MEASURE = """
import sys
from pathlib import Path
from prophet_gym.prophet.convert import Conversion, convert_file

def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))

before = peak()
convert_file(sys.argv[1], sys.argv[2], None, Conversion())
print(peak() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak memory from Linux's /proc")
def test_memory_stays_near_the_size_of_the_file(release, tmp_path):
    wide = {"num_attention_heads": 8, "attention_head_dim": 96, "num_layers": 12, "text_embed_dim": 256}
    torch.save(release(torch.bfloat16, **TINY | wide), tmp_path / "wide.pt")
    size = (tmp_path / "wide.pt").stat().st_size
    command = [sys.executable, "-c", MEASURE, str(tmp_path / "wide.pt"), str(tmp_path / "out")]
    result = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
    assert size > 2e8
    assert int(result.stdout) < 1.3 * size
