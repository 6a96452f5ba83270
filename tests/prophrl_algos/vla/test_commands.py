"""The commands that begin docs/policies.md, run as they stand there on tiny policies in the published layouts."""

import json
import re
import shlex
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from prophet_gym.checkpoint import bundled_checkpoints
from prophrl_algos import LoadOptions, load_policy
from prophrl_algos._checkpoint import load_checkpoint
from prophrl_algos.cli import main

from . import tiny

pytest.importorskip("peft")
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
    pytest.mark.skipif(not bundled_checkpoints().get("libero_small"), reason="no checkpoint is bundled"),
]
DOCS = Path(__file__).parents[3] / "docs" / "policies.md"
WORDS = 600
SMALL = {
    "sft": ["--config.steps", "2", "--config.batch-size", "2"],
    "train": ["--config.updates", "1", "--config.groups", "1", "--config.group-size", "2"],
}


def commands():
    """The lines of the first block of commands, as a shell splits them."""
    block = re.search(r"```sh\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    return [shlex.split(line, comments=True)[1:] for line in block.group(1).splitlines()]


def pi0(folder):
    """As transformers writes it."""
    pytest.importorskip("transformers", minversion="5.4", reason="pi0 needs transformers >= 5.4")
    from prophrl_algos.vla._experts import Pi0Policy

    config = tiny.pi0_config(8)
    config["vlm_config"]["text_config"]["vocab_size"] = config["vlm_config"]["image_token_id"] = WORDS
    network = Pi0Policy.make_network(config)
    tiny.randomise(network)
    network.save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(config))
    numbers = {"actions": 7, "state": 8}
    read = {f"{name}_mean": [0.0] * count for name, count in numbers.items()}
    read |= {f"{name}_std": [0.5] * count for name, count in numbers.items()}
    (folder / "processor_config.json").write_text(json.dumps(read))
    return nullcontext


def smolvla(folder):
    """As lerobot writes it."""
    pytest.importorskip("lerobot", reason="lerobot is not installed: make test-vla")
    from prophrl_algos.vla._experts import SmolVLAPolicy

    config = {"chunk_size": 8, "n_action_steps": 8, "num_steps": 2, **tiny.SMOLVLA_CONFIG}
    with tiny.smolvlm_sizes():
        network = SmolVLAPolicy.make_network(config)
    tiny.randomise(network)
    return lerobot(folder, "smolvla", network, {**config, "resize_imgs_with_padding": [32, 32]}, tiny.smolvlm_sizes)


def pi05(folder):
    """As lerobot writes it."""
    pytest.importorskip("lerobot", reason="lerobot is not installed: make test-vla")
    from prophrl_algos.vla._experts import Pi05Policy

    config = {"chunk_size": 8, "n_action_steps": 8, "num_inference_steps": 2, **tiny.PI05_CONFIG}
    with tiny.pi05_sizes():
        network = Pi05Policy.make_network(config)
    tiny.randomise(network)
    return lerobot(folder, "pi05", network, {**config, "tokenizer_max_length": 400}, tiny.pi05_sizes)


def lerobot(folder, kind, network, config, sizes):
    folder.mkdir()
    state = {f"model.{name}": tensor.clone() for name, tensor in network.state_dict().items()}
    save_file(state, folder / "model.safetensors")
    features = {"action": {"type": "ACTION", "shape": [7]}}
    (folder / "config.json").write_text(json.dumps({"type": kind, "output_features": features, **config}))
    for which, name, feature, count in (
        ("pre", "normalizer", "observation.state", 8),
        ("post", "unnormalizer", "action", 7),
    ):
        file = f"policy_{which}processor_step_2_{name}_processor.safetensors"
        read = {f"{feature}.mean": torch.zeros(count), f"{feature}.std": torch.full((count,), 0.5)}
        save_file(read, folder / file)
        step = {
            "registry_name": f"{name}_processor",
            "config": {"norm_map": {"STATE": "MEAN_STD", "ACTION": "MEAN_STD"}},
            "state_file": file,
        }
        (folder / f"policy_{which}processor.json").write_text(json.dumps({"steps": [step]}))
    return sizes


def small_words(folder):
    """A tokenizer in Hugging Face's files; its tokens are those of the tiny networks."""
    from transformers import PreTrainedTokenizerFast

    PreTrainedTokenizerFast(tokenizer_object=tiny.byte_tokenizer("<s>")).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    "write",
    [pi0, *(pytest.param(each, marks=pytest.mark.vla) for each in (pi05, smolvla))],
    ids=lambda write: write.__name__,
)
def test_the_documented_commands_clone_and_then_learn(write, tmp_path, record, monkeypatch):
    if write is not pi0:
        monkeypatch.setattr(tiny, "VOCABULARY", WORDS)
    sizes = write(tmp_path / "published")
    record(tmp_path / "outputs" / "recordings", 0, success=True)
    monkeypatch.chdir(tmp_path)
    words = ["--load.tokenizer", str(small_words(tmp_path / "words"))]
    clone, learn = commands()
    assert (clone[0], learn[0]) == ("sft", "train")
    with sizes():
        main([str(tmp_path / "published") if word == "owner/repo" else word for word in clone] + words + SMALL["sft"])
        # The saved policy has its tokenizer, chunk and scales; nothing of it is asked for again.
        main(learn + SMALL["train"])
        options = LoadOptions(train="lora", without_state="mean")
        cloned = load_policy(Path("outputs/sft/policy"), options)
    state = load_checkpoint(Path("outputs/rl/last.pt"))["trainer"]
    assert state["done"] == 1
    assert state["policy"].keys() == cloned.state_dict().keys()
    trained = {name: weight for name, weight in cloned.named_parameters() if weight.requires_grad}
    assert any(".lora_" in name for name in trained)
    # The reference of the run is the cloned policy, whose adapters are not zero.
    assert state["reference"].keys() == trained.keys()
    for name, weight in trained.items():
        assert torch.equal(state["reference"][name], weight), name
    assert any(weight.any() for name, weight in trained.items() if ".lora_B." in name)
    assert np.isfinite(cloned.prepare({"image": np.zeros((1, 64, 64, 3), np.uint8)}, ["stop"])["tokens"]).all()
