"""Policies through a Hub on loopback: pushed, fetched into an empty cache, loaded, verified, damaged."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard

from prophet_gym._io.hub import MANIFEST
from prophet_gym.checkpoint import bundled_checkpoints
from prophet_gym.errors import CheckpointError
from prophet_gym.train._run_folder import begin_run
from prophrl_algos import LoadOptions, load_policy
from prophrl_algos._checkpoint import save_checkpoint
from prophrl_algos.cli import main
from prophrl_algos.cli._train import Args
from prophrl_algos.vla import SmallVLA
from prophrl_algos.vla._load import BUNDLED
from prophrl_algos.vla._lora import has_lora
from tests.hub.conftest import error_of
from tests.prophrl_algos.vla import tiny

NAME = "SmallVLA-LIBERO-object-sft"
REPORT = {
    "weights": "/home/me/outputs/sft/policy",
    "env": "LIBERO-Object-v0",
    "starts": "official",
    "metrics": {"success": 0.5, "success_low": 0.25, "success_high": 0.75, "episodes": 12.0},
    "episodes": [{"task": 3}, {"task": 5}],
}
pytestmark = [
    pytest.mark.skipif(not bundled_checkpoints().get("libero_small"), reason="no checkpoint is bundled"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
]


@pytest.fixture
def measured(tmp_path):
    """A copy of the bundled policy, with a report."""
    folder = tmp_path / "policy"
    shutil.copytree(BUNDLED[NAME], folder)
    (folder / "evaluation.json").write_text(json.dumps(REPORT))
    return folder


def assert_same(one, other):
    weights = one.state_dict(), other.state_dict()
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_a_round_trip_of_a_policy_that_is_evaluated_from_the_hub(hub, client, measured, capsys):
    main(["push", str(measured), "me/policy", "--license", "apache-2.0"])
    said, first = capsys.readouterr().out, hub.repos["me/policy"].branches["main"]
    assert said.strip().endswith(f'load_policy("me/policy@{first}")')
    assert_same(load_policy("me/policy"), load_policy(measured))
    main(["pull", "me/policy", "--verify"])
    assert "the policy acts" in capsys.readouterr().out
    # The commands take it by its name, and what they report becomes the card's figure.
    report = measured / "evaluation.json"
    main(["evaluate", "--policy", "me/policy", "--tasks", "3", "--episodes", "1", "--json", str(report)])
    main(["push", str(measured), "me/policy"])
    card = ModelCard(hub.files("me/policy")["README.md"].decode())
    (figure,) = card.data.eval_results
    assert figure.dataset_name == "Prophet-LIBERO-v0, official starts, tasks 3"
    assert figure.metric_value == json.loads(report.read_text())["metrics"]["success"]
    assert card.data.pipeline_tag == "robotics"
    before = ModelCard(hub.files("me/policy", first)["README.md"].decode())
    assert (before.data.license, before.data.eval_results[0].metric_value) == ("apache-2.0", 0.5)


def test_adapters_come_back_as_they_were(hub, client, tmp_path):
    pytest.importorskip("peft")
    policy = tiny.tiny_vla_adapter(train="lora")
    for number, weight in enumerate(each for each in policy.parameters() if each.requires_grad):
        torch.nn.init.normal_(weight, std=0.02, generator=torch.Generator().manual_seed(number))
    policy.save_pretrained(tmp_path / "adapted")
    (tmp_path / "adapted" / "evaluation.json").write_text(json.dumps(REPORT))
    main(["push", str(tmp_path / "adapted"), "me/adapted"])
    assert "tokenizer.json" in hub.files("me/adapted")
    again = load_policy("me/adapted", LoadOptions(train="lora", without_state="mean", dtype=torch.float32))
    assert has_lora(again)
    assert_same(again, policy)
    main(["pull", "me/adapted", "--verify"])


def test_a_run_is_made_a_policy(hub, client, tmp_path):
    run, policy = tmp_path / "run", load_policy(NAME, LoadOptions(num_steps=4))
    assert isinstance(policy, SmallVLA)
    begin_run(run, Args(policy="small-k4", policy_weights=Path(NAME), out=run), begun=False)
    with torch.no_grad():
        for weight in policy.parameters():
            weight.add_(0.01)
    save_checkpoint(run / "best.pt", {"policy": policy.state_dict(), "updates": 1, "score": 0.5})
    (run / "evaluation.json").write_text(json.dumps(REPORT))
    before = {path.name for path in run.iterdir()}
    main(["push", str(run), "me/learnt"])
    assert {path.name for path in run.iterdir()} == before
    assert hub.files("me/learnt").keys() == {
        *(".gitattributes", "README.md", "config.json", "evaluation.json", MANIFEST, "model.safetensors"),
    }
    again = load_policy("me/learnt")
    assert again.spec.num_steps == 4
    assert_same(again, policy)


def test_a_damaged_policy_is_one_error(hub, client, measured, capsys):
    main(["push", str(measured), "me/policy"])
    main(["pull", "me/policy"])
    path = Path(capsys.readouterr().out.splitlines()[-1]) / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.resolve().write_bytes(content)
    assert "model.safetensors has another sha-256" in error_of(main, capsys, "pull", "me/policy", "--verify")
    with pytest.raises(CheckpointError, match="another sha-256"):
        load_policy("me/policy")
    main(["pull", "me/policy", "--verify", "--again"])


def test_a_world_model_is_not_replaced_by_a_policy(hub, client, measured, capsys):
    files = {MANIFEST: json.dumps({"format": 1, "kind": "world model", "files": {}}).encode(), "prophet.json": b"{}"}
    hub.add("me/dream", files)
    assert "says that it holds a world model" in error_of(main, capsys, "push", measured, "me/dream")
    assert hub.files("me/dream") == files


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda folder: (folder / "evaluation.json").unlink(), "has no card, and nothing in it was measured"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"1"), "model.safetensors"),
        (lambda folder: (folder / "config.json").write_text("{}"), "no layout that is known"),
        (lambda folder: (folder / "config.json").unlink(), "holds no policy"),
        (shutil.rmtree, "no folder at"),
    ],
)
def test_what_does_not_load_is_not_sent(hub, client, measured, capsys, damage, said):
    damage(measured)
    assert said in error_of(main, capsys, "push", measured, "me/policy")
    assert not hub.asked


def test_a_dry_run_says_nothing_to_the_hub(hub, client, measured, capsys):
    SmallVLA.from_pretrained(measured).save_pretrained(measured)
    assert (measured / "README.md").is_file(), "a card that huggingface_hub wrote, which says nothing"
    main(["push", str(measured), "me/policy", "--dry-run"])
    assert "nothing was sent to me/policy" in capsys.readouterr().out
    assert not hub.asked
    main(["push", str(measured), "me/policy"])
    assert "## Measured" in hub.files("me/policy")["README.md"].decode()
    assert json.loads(hub.files("me/policy")["evaluation.json"]) == REPORT | {"weights": "policy"}, "no place is told"


def test_a_policy_pushes_itself(hub, client, tmp_path):
    policy = SmallVLA(num_steps=4, width=32, layers=1, seed=1)
    policy.push_to_hub("me/small")
    assert_same(load_policy("me/small"), policy)
