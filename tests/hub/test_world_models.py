"""World models through a Hub on loopback: pushed, fetched into an empty cache, dreamt, verified, damaged."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
import yaml
from huggingface_hub import ModelCard

from prophet_gym._io.hub import MANIFEST
from prophet_gym._io.hub._manifest import write_manifest
from prophet_gym.checkpoint import Checkpoint, bundled_checkpoints
from prophet_gym.cli.main import main
from prophet_gym.envs import write_initial_states
from prophet_gym.errors import CheckpointError, MissingWeightsError
from prophet_gym.interop.lerobot import make_env
from prophet_gym.prophet import ActionProphet, Prophet
from prophet_gym.specs import InitialState
from prophet_gym.train._robot import Args as RobotArgs
from prophet_gym.train._robot import main as train_robot
from tests.hub.conftest import error_of
from tests.hub.server import READER, STRANGER
from tests.train.robot.conftest import JointWriter
from tests.train.robot.tiny import tiny_action_prophet

BUNDLED = Path(Checkpoint.named("bundled").folder)
pytestmark = pytest.mark.skipif(not bundled_checkpoints().get("libero_small"), reason="no checkpoint is bundled")


def rewards(weights: str) -> tuple[np.ndarray, float, bool]:
    """The last frames of two steps, and whether they were scored."""
    with gym.make("Prophet-LIBERO-v0", weights=weights, tasks=[3]) as env:
        env.reset(seed=0)
        env.step(np.zeros(env.action_space.shape, np.float32))
        observation, reward, *_, info = env.step(np.zeros(env.action_space.shape, np.float32))
    return observation["image"], float(reward), bool(info["scored"])


def test_a_round_trip_from_push_to_a_dream_with_reward(hub, client, folder, capsys):
    (folder / "notes.pt").write_bytes(b"optimizer")
    main(["push", str(folder), "me/dream", "--license", "apache-2.0"])
    said = capsys.readouterr().out
    assert "left out       notes.pt" in said
    assert not (folder / MANIFEST).exists(), "the folder itself stays as it is"
    commit = hub.repos["me/dream"].branches["main"]
    assert said.strip().endswith(f'weights="me/dream@{commit}")')
    assert len(hub.repos["me/dream"].commits) == 2  # the repository was made, and one commit
    assert not client.exists(), "pushing fetches nothing"

    image, reward, scored = rewards("me/dream")
    assert scored
    assert image.shape == (128, 128, 3)
    own = rewards(str(folder))
    np.testing.assert_array_equal(image, own[0])
    assert reward == own[1]
    assert Checkpoint.named("me/dream").object_reader() is not None

    main(["pull", f"me/dream@{commit}", "--verify"])
    printed = capsys.readouterr().out.splitlines()
    assert printed[-2].startswith("verified: every file")
    assert (Path(printed[-1]) / "prophet.json").is_file()


def test_what_the_hub_shows(hub, client, folder):
    main(["push", str(folder), "me/dream"])
    files = hub.files("me/dream")
    listing = json.loads(files[MANIFEST])
    assert (listing["format"], listing["kind"]) == (1, "world model")
    assert listing["files"].keys() == files.keys() - {MANIFEST, ".gitattributes"}
    assert all(listing["files"][name]["size"] == len(files[name]) for name in listing["files"])
    assert {"env.py", "requirements.txt", "calibration.json"} <= files.keys()
    card = ModelCard(files["README.md"].decode())
    assert card.data.library_name == "prophet-gym"
    assert "envhub" in card.data.tags
    measured = {(each.dataset_name, each.metric_type): each.metric_value for each in card.data.eval_results}
    report = json.loads((BUNDLED / "calibration.json").read_text())
    for world, on in (("real", "recorded episodes"), ("dream", "dreams of recorded actions")):
        said = measured[f"{on}, libero_object, official starts", "precision"]
        assert said == report[world]["episodes"]["precision"]["mean"]
    assert 'weights="me/dream"' in card.text
    assert "10 of 10 tasks" in card.text


def test_a_dry_run_says_nothing_to_the_hub(hub, client, folder, capsys):
    main(["push", str(folder), "me/dream", "--dry-run"])
    assert "nothing was sent to me/dream" in capsys.readouterr().out
    assert not hub.asked


def test_a_later_push_takes_away_what_is_no_longer_there(hub, client, folder, capsys):
    main(["push", str(folder), "me/dream"])
    first = hub.repos["me/dream"].branches["main"]
    uploads = hub.asked["upload"]
    shutil.rmtree(folder / "success_head")
    main(["push", str(folder), "me/dream"])
    said = capsys.readouterr().out
    assert "removed there  success_head/model.safetensors" in said
    assert "no reward model" in said
    assert hub.asked["upload"] == uploads, "large files that are there are not sent again"
    assert not any(name.startswith("success_head") for name in hub.files("me/dream"))
    with pytest.warns(UserWarning, match="no success head"):
        assert not rewards("me/dream")[2]
    assert rewards(f"me/dream@{first}")[2]


def test_branches_are_made(hub, client, folder):
    main(["push", str(folder), "me/dream", "--revision", "next"])
    assert "prophet.json" not in hub.files("me/dream")
    assert "prophet.json" in hub.files("me/dream", "next")
    assert Checkpoint.named("me/dream@next").suites == ("libero_object",)


def test_a_damaged_file_of_the_cache_is_one_error_and_fetched_again(hub, client, folder, capsys):
    main(["push", str(folder), "me/dream"])
    main(["pull", "me/dream"])
    path = Path(capsys.readouterr().out.splitlines()[-1]) / "transformer" / "diffusion_pytorch_model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1  # the last weight
    path.resolve().write_bytes(content)
    said = error_of(main, capsys, "pull", "me/dream", "--verify")
    assert "transformer/diffusion_pytorch_model.safetensors has another sha-256" in said
    assert "prophet pull owner/repo --again" in said
    with pytest.raises(CheckpointError, match="another sha-256"):
        gym.make("Prophet-LIBERO-v0", weights="me/dream")
    main(["pull", "me/dream", "--again", "--verify"])
    assert "verified" in capsys.readouterr().out


def test_a_damaged_file_on_the_hub_is_one_error(hub, client, folder, capsys):
    main(["push", str(folder), "me/dream"])
    files = hub.files("me/dream")
    hub.add("me/dream", files | {"tracker/config.json": files["tracker/config.json"][:-4]})
    size = len(files["tracker/config.json"])
    said = error_of(main, capsys, "pull", "me/dream", "--verify")
    assert f"tracker/config.json has {size - 4} bytes in place of {size}" in said
    hub.add("me/dream", {name: each for name, each in files.items() if name != MANIFEST})
    assert "has no manifest.json to verify it by" in error_of(main, capsys, "pull", "me/dream", "--verify")


@pytest.mark.parametrize(
    ("token", "said"),
    [
        ("hf_unknown", "the Hub does not know this token"),
        (READER, "this token may not write there"),
        (STRANGER, "make one with write access to me"),
        (None, "no token is here"),
    ],
)
def test_tokens_without_rights_are_one_error_and_change_nothing(hub, client, folder, capsys, monkeypatch, token, said):
    monkeypatch.delenv("HF_TOKEN") if token is None else monkeypatch.setenv("HF_TOKEN", token)
    assert said in error_of(main, capsys, "push", folder, "me/dream")
    assert not hub.repos
    assert not hub.large


def test_a_repository_that_exists_but_may_not_be_written_to(hub, client, folder, capsys, monkeypatch):
    main(["push", str(folder), "me/dream"])
    before = hub.files("me/dream")
    shutil.rmtree(folder / "success_head")
    monkeypatch.setenv("HF_TOKEN", STRANGER)
    assert "this token may not write there" in error_of(main, capsys, "push", folder, "me/dream")
    assert hub.files("me/dream") == before


@pytest.mark.parametrize(
    ("files", "why"),
    [
        ({"config.json": b"{}", "pytorch_model.bin": b"1"}, "it holds config.json, pytorch_model.bin and no manifest"),
        ({MANIFEST: json.dumps({"format": 1, "kind": "policy", "files": {}}).encode()}, "that it holds a policy"),
    ],
)
def test_a_repository_of_another_kind_is_not_written_to(hub, client, folder, capsys, files, why):
    hub.add("me/other", files)
    said = error_of(main, capsys, "push", folder, "me/other")
    assert why in said
    assert "nothing was written" in said
    assert hub.files("me/other") == files


def test_a_push_meanwhile_is_not_overwritten(hub, client, folder, capsys):
    main(["push", str(folder), "me/dream"])
    stir(folder / "object_reader" / "model.safetensors")
    theirs = hub.files("me/dream") | {"theirs.txt": b"1"}
    hub.on_upload = lambda _: hub.add("me/dream", theirs)
    assert "somebody wrote to it in the meantime" in error_of(main, capsys, "push", folder, "me/dream")
    assert hub.files("me/dream") == theirs


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda folder: (folder / "calibration.json").unlink(), "has no card, and nothing in it was measured"),
        (lambda folder: judged_by(folder, "my_rewards:bright"), "has no card, and nothing in it was measured"),
        (lambda folder: shutil.rmtree(folder / "starts"), "has no initial states.*prophet starts"),
        (lambda folder: (folder / "README.md").write_text("---\na: [\n---\n"), "must begin with front matter"),
        (lambda folder: os.truncate(folder / "success_head" / "model.safetensors", 999), "success_head"),
        (lambda folder: (folder / "object_reader" / "config.json").write_text("{"), "object_reader"),
        (lambda folder: (folder / "transformer" / "config.json").unlink(), "transformer"),
        (lambda folder: smaller(folder / "starts" / "train"), r"\(1 to 4, 128, 128, 3\), got uint8 \(1, 64, 64, 3\)"),
        (lambda folder: elsewhere(folder / "calibration.json"), "was measured on libero_goal"),
        (lambda folder: stale(folder), "tracker/config.json has another sha-256"),
        (shutil.rmtree, "no folder at"),
    ],
)  # fmt: skip
def test_what_does_not_load_is_not_sent(hub, client, folder, capsys, damage, said):
    damage(folder)
    assert re.search(said, error_of(main, capsys, "push", folder, "me/dream"))
    assert not hub.asked


def smaller(starts):
    state = Checkpoint.named("bundled").initial_states("train")[0]
    shutil.rmtree(starts)
    write_initial_states(starts, [InitialState(state.frames[:, ::2, ::2].copy(), state.instruction, state.suite)])


def elsewhere(path):
    path.write_text(json.dumps(json.loads(path.read_text()) | {"suite": "libero_goal"}))


def judged_by(folder, name):
    path = folder / "calibration.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"judge": name}))


def stale(folder):
    write_manifest(folder)
    config = folder / "tracker" / "config.json"
    config.write_text(config.read_text().replace("{", "{ ", 1).rstrip()[:-1] + "}")


def test_a_card_of_ones_own_is_kept_and_gets_the_figures(hub, client, folder):
    (folder / "README.md").write_text("---\nlicense: mit\ntags: [mine]\n---\n# Mine\n\nAll about it.\n")
    main(["push", str(folder), "me/dream", "--license", "apache-2.0"])
    card = ModelCard(hub.files("me/dream")["README.md"].decode())
    assert (card.data.license, card.data.tags) == ("mit", ["mine"])
    assert card.text.strip() == "# Mine\n\nAll about it."
    assert {each.metric_type for each in card.data.eval_results} == {"precision", "recall"}
    said = yaml.safe_load((hub.files("me/dream")["README.md"].decode()).split("---")[1])
    assert said["model-index"][0]["name"] == "dream"


PUSH = """
import sys
from pathlib import Path
from prophet_gym._io.hub import offered, push_files

push_files(offered(Path(sys.argv[1]), [""])[0], "me/dream")
"""


@pytest.mark.parametrize("first", [True, False])
def test_a_push_that_is_killed_leaves_nothing_that_loads_by_halves(hub, client, environment, folder, first):
    """Whoever was there before is still there, whole; who pushes again has it all."""
    if not first:
        main(["push", str(folder), "me/dream"])
        for part in ("object_reader", "success_head"):
            stir(folder / part / "model.safetensors")
    before = {} if first else hub.files("me/dream")
    # A process of its own, without what checks the folder first: that was not sent.
    command = [sys.executable, "-c", PUSH, str(folder)]
    process = subprocess.Popen(command, env=os.environ | environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    begun = hub.asked["upload"]
    hub.on_upload = lambda count: os.kill(process.pid, signal.SIGKILL) if count == begun + 2 else None
    said = process.communicate(timeout=120)
    assert process.returncode == -signal.SIGKILL, said
    assert len(hub.repos["me/dream"].commits) == (1 if first else 2)
    if first:
        with pytest.raises(MissingWeightsError, match=r"has no prophet\.json, so it holds no checkpoint"):
            Checkpoint.named("me/dream")
    else:
        assert hub.files("me/dream") == before
        main(["pull", "me/dream", "--verify"])
    hub.on_upload = lambda _: None
    main(["push", str(folder), "me/dream"])
    main(["pull", "me/dream", "--verify"])


def stir(path):
    """Change the last weight a little."""
    content = bytearray(path.read_bytes())
    content[-4] ^= 1
    path.write_bytes(content)


def test_any_robot_goes_the_same_way(hub, client, tmp_path):
    """An `ActionProphet`, whose card a person wrote."""
    folder, model = tmp_path / "arm", tiny_action_prophet()
    frames = np.random.default_rng(0).integers(0, 256, (3, 1, *model.frame_size, 3), dtype=np.uint8)
    states = [InitialState(each, f"do {n}", "my_set", n, 0, "train") for n, each in enumerate(frames)]
    write_initial_states(folder / "starts" / "train", states)
    model.save_pretrained(folder)
    card = "---\nlicense: mit\n---\n# An arm\n"
    (folder / "README.md").write_text(card)
    main(["push", str(folder), "me/arm"])
    with pytest.warns(UserWarning, match="no success head"):
        env = gym.make("Prophet-v0", weights="me/arm")
    assert env.reset(seed=0)[0]["image"].shape == (*model.frame_size, 3)
    assert env.step(env.action_space.sample())[4]["frames"].shape == (model.chunk, *model.frame_size, 3)
    env.close()
    main(["pull", "me/arm", "--verify"])


@pytest.fixture
def arm(tmp_path):
    """A checkpoint of a LeRobot data set, trained for a step, and the set."""
    data = JointWriter(tmp_path / "arm_set", lengths=(20, 16, 24)).v3()
    few = {"chunk": 4, "width": 48, "layers": 1, "held_out": 2, "batch_size": 2, "precision": "no", "device": "cpu"}
    steps = dict.fromkeys(("steps", "autoencoder_steps", "decoder_steps"), 1)
    train_robot(RobotArgs(tmp_path / "run", (Path(f"lerobot:{data}"),), **few, **steps))
    return tmp_path / "run" / "checkpoint", f"lerobot:{data},episodes=0+1+2"


def test_a_robot_of_a_lerobot_set_is_measured_pushed_and_dreamt(hub, client, arm, tmp_path, capsys):
    folder, data = arm
    assert f"give {folder}, which it has trained" in error_of(main, capsys, "push", folder.parent, "me/arm")
    said = error_of(main, capsys, "push", folder, "me/arm")
    measure = re.search(r"run `prophet (evaluate --world-model \S+ --data )lerobot:PATH (--card)`", said)
    assert measure, said
    assert "give --data lerobot:PATH" in error_of(main, capsys, "evaluate", "--world-model", folder)
    main([*measure[1].split(), data, measure[2], "--horizons", "4", "8"])
    main(["push", str(folder), "me/arm"])
    files = hub.files("me/arm")
    report = json.loads((folder / "evaluation.json").read_text())
    assert report["checkpoint"] == str(folder), "the file here stays as it is"
    assert json.loads(files["evaluation.json"]) == report | {"checkpoint": "checkpoint"}
    assert not [name for name, content in files.items() if str(tmp_path).encode() in content]
    card = ModelCard(files["README.md"].decode())
    measured = {each.metric_name: each.metric_value for each in card.data.eval_results}
    assert measured["PSNR at 8 frames, dB"] == report["horizons"]["8"]["conditions"]["dream"]["psnr"]["mean"]
    assert 'gym.make("Prophet-v0", weights="me/arm")' in card.text
    main(["pull", "me/arm", "--verify"])
    with pytest.warns(UserWarning, match="no success head"):
        envs = make_env(1, weights="me/arm")
    assert (next(iter(envs)), envs["arm_set"][0].single_action_space.shape) == ("arm_set", (6,))


def test_figures_of_other_weights_are_not_shown(hub, client, arm, capsys):
    folder, data = arm
    main(["evaluate", "--world-model", str(folder), "--data", data, "--card", "--horizons", "4"])
    model = Prophet.from_pretrained(folder)
    with torch.no_grad():
        next(model.parameters()).add_(1)
    model.save_pretrained(folder)
    said = error_of(main, capsys, "push", folder, "me/arm")
    assert "evaluation.json was measured with other weights" in said
    assert "--data lerobot:PATH --card` again" in said
    assert not hub.asked


def test_a_model_pushes_itself(hub, client, tmp_path):
    """`push_to_hub` of a model in memory, which has no initial states yet."""
    model = tiny_action_prophet(seed=1)
    address = model.push_to_hub("me/arm")
    assert address == f"{hub.url}/me/arm/commit/{hub.repos['me/arm'].branches['main']}"
    again = Prophet.from_pretrained("me/arm")
    assert isinstance(again, ActionProphet)
    for name, weight in again.state_dict().items():
        torch.testing.assert_close(weight, model.state_dict()[name].half().float())
    assert Checkpoint.named("me/arm").embodiment.action_spec.names == model.config.action_names
