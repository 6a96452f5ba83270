"""Names of weights through `gym.make`: released files, Hub repositories, robots and suites, on tiny networks."""

import json
import shutil
from pathlib import Path

import cv2
import gymnasium as gym
import numpy as np
import pytest
import torch
from huggingface_hub import constants

import prophet_gym  # noqa: F401 registers the ids
from prophet_gym._io.hub import PUBLISHED, WAN_VAE
from prophet_gym.cli._starts import Args, resolved
from prophet_gym.embodiments import get_embodiment
from prophet_gym.envs import write_initial_states
from prophet_gym.errors import CheckpointError, MissingWeightsError, UnknownOptionError
from prophet_gym.prophet import Prophet
from prophet_gym.prophet._presets import tiny_vae
from prophet_gym.prophet.convert import Conversion, convert_file
from prophet_gym.specs import InitialState

COMMITS = "a" * 40, "b" * 40
TINY = {
    "num_attention_heads": 2, "attention_head_dim": 12, "num_layers": 1, "text_embed_dim": 6, "adaln_lora_dim": 4,
    "actions_per_slot": 20, "history_order": "oldest_finest", "action_frames": "pooled",
}  # fmt: skip
SUITES = {"Object": "libero_object", "Spatial": "libero_spatial", "Goal": "libero_goal", "10": "libero_10"}


def cached(cache: Path, repo: str, commit: str = COMMITS[0], branch: str = "main") -> Path:
    """The snapshot folder of a repository as the Hub's cache keeps it."""
    root = cache / f"models--{repo.replace('/', '--')}"
    (root / "snapshots" / commit).mkdir(parents=True)
    (root / "refs").mkdir(exist_ok=True)
    (root / "refs" / branch).write_text(commit)
    return root / "snapshots" / commit


@pytest.fixture(scope="module")
def hub_files(release, tmp_path_factory):
    """What was fetched once: both released files (tiny), the Wan VAE, and a repository with two revisions."""
    cache = tmp_path_factory.mktemp("hub")
    published = cached(cache, PUBLISHED)
    state = release(torch.bfloat16, **TINY)
    for file in ("prophet-libero.pt", "prophet-bridge.pt"):
        torch.save(state, published / file)
    torch.manual_seed(0)
    tiny_vae().save_pretrained(cached(cache, WAN_VAE) / "vae")
    small = Conversion(frame_size=(64, 64))
    for commit, branch in zip(COMMITS, ("v1", "main"), strict=True):
        folder = cached(cache, "owner/repo", commit, branch)
        convert_file(
            published / "prophet-libero.pt",
            folder,
            cache / f"models--{WAN_VAE.replace('/', '--')}" / "snapshots" / COMMITS[0],
            small,
        )
        changed = json.loads((folder / "prophet.json").read_text()) | {
            "steps": 1 if branch == "v1" else 2,
            "history_frames": 4,
        }
        (folder / "prophet.json").write_text(json.dumps(changed))
    return cache


@pytest.fixture
def offline(hub_files, tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(hub_files))
    monkeypatch.setenv("PROPHET_CACHE", str(tmp_path / "cache"))
    return tmp_path


def starts_of(folder: Path, size: int = 64, suite: str = "libero_object") -> str:
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (1, size, size, 3), dtype=np.uint8)
    write_initial_states(folder / f"starts_{size}_{suite}", [InitialState(frames, "own", suite)])
    return str(folder / f"starts_{size}_{suite}")


def bridge_starts(folder: Path, size: int = 256) -> str:
    (folder / "images" / "000").mkdir(parents=True)
    cv2.imwrite(str(folder / "images" / "000" / "1.png"), np.full((size, size, 3), 90, np.uint8))
    row = {"task_type": "spoon", "task_language": "lift the spoon", "init_state_path": "images/000/1.png"}
    (folder / "dataset.jsonl").write_text(json.dumps(row) + "\n")
    return str(folder / "dataset.jsonl")


def first_step(env: gym.Env, command: float = 0.0) -> dict:
    env.reset(seed=0)
    space = env.action_space
    assert isinstance(space, gym.spaces.Box)
    return env.step(np.clip(np.full(space.shape, command, np.float32), space.low, space.high))[4]


@pytest.mark.parametrize("weights", [PUBLISHED, f"{PUBLISHED}@main", f"{PUBLISHED}:prophet-libero.pt@{COMMITS[0]}"])
def test_released_names_are_converted_once(offline, weights):
    settings = {"weights": weights, "starts": starts_of(offline, 256), "reward": None}
    env = gym.make("Prophet-LIBERO-v0", **settings)
    assert env.action_space == gym.spaces.Box(-1, 1, (20, 7), np.float32)
    folders = list((offline / "cache" / "converted").iterdir())
    assert len(folders) == 1
    written = (folders[0] / "prophet.json").stat().st_mtime_ns
    assert 'text_embed_dim": null' in (folders[0] / "transformer" / "config.json").read_text()
    again = gym.make("Prophet-LIBERO-v0", **settings)
    assert (folders[0] / "prophet.json").stat().st_mtime_ns == written
    assert again.unwrapped.world_model is env.unwrapped.world_model


def test_a_revision_of_a_repository_is_the_one_that_is_loaded(offline):
    starts = starts_of(offline)
    for name in ("owner/repo@v1", "owner/repo", f"owner/repo@{COMMITS[0]}"):
        env = gym.make("Prophet-LIBERO-v0", weights=name, starts=starts, reward=None)
        assert env.unwrapped.world_model.config.steps == (2 if name == "owner/repo" else 1)
    assert Prophet.from_pretrained("owner/repo", revision="v1").config.steps == 1
    with pytest.raises(MissingWeightsError, match="owner/repo at revision v9"):
        gym.make("Prophet-LIBERO-v0", weights="owner/repo@v9", starts=starts)


def test_a_shorter_chunk_is_marked_approximate(offline):
    env = gym.make("Prophet-LIBERO-v0", weights="owner/repo@v1", starts=starts_of(offline), reward=None, chunk=8)
    assert env.action_space.shape == (8, 7)
    info = first_step(env)
    assert (info["frames"].shape[0], info["executed"], info["approximate"]) == (8, 8, True)
    envs = gym.make_vec("Prophet-LIBERO-v0", 1, weights="owner/repo@v1", starts=starts_of(offline), reward=None)
    envs.reset(seed=0)
    assert envs.step(np.zeros((1, 20, 7), np.float32))[4]["approximate"].tolist() == [False]
    with pytest.raises(ValueError, match="chunk=21 must be less than the world model's 20"):
        gym.make("Prophet-LIBERO-v0", weights="owner/repo@v1", starts=starts_of(offline), reward=None, chunk=21)


@pytest.mark.parametrize("chunk", [5, 20])
def test_bridge_takes_its_own_commands_from_its_own_starts(offline, chunk):
    env = gym.make("Prophet-BRIDGE-v0", weights=PUBLISHED, starts=bridge_starts(offline), reward=None, chunk=chunk)
    spec = get_embodiment("bridge").action_spec
    assert env.action_space.shape == (chunk, 7)
    np.testing.assert_allclose(env.action_space.low, np.tile(np.float32(spec.low), (chunk, 1)))
    np.testing.assert_allclose(env.action_space.high, np.tile(np.float32(spec.high), (chunk, 1)))
    _, info = env.reset(seed=0)
    assert (info["instruction"], info["suite"]) == ("lift the spoon", "bridge")
    assert env.unwrapped.world_model.frame_size == (256, 256)


def test_a_step_in_bridge(offline, tmp_path):
    (published,) = (Path(constants.HF_HUB_CACHE) / "models--Fleurrr--Prophet-World-Model" / "snapshots").iterdir()
    (vae,) = (Path(constants.HF_HUB_CACHE) / "models--Wan-AI--Wan2.1-T2V-1.3B-Diffusers" / "snapshots").iterdir()
    convert_file(published / "prophet-bridge.pt", tmp_path / "b", vae, Conversion((64, 64), embodiment="bridge"))
    changed = json.loads((tmp_path / "b" / "prophet.json").read_text()) | {"steps": 1, "history_frames": 4}
    (tmp_path / "b" / "prophet.json").write_text(json.dumps(changed))
    settings = {"weights": str(tmp_path / "b"), "starts": bridge_starts(offline, 64), "reward": None}
    env = gym.make("Prophet-BRIDGE-v0", chunk=5, **settings)
    still, turned = first_step(env), first_step(env, 0.2)
    assert turned["frames"].shape == (5, 64, 64, 3)
    assert env.metadata["render_fps"] == get_embodiment("bridge").control_hz == 5
    assert not np.array_equal(still["frames"], turned["frames"])
    with pytest.raises(
        MissingWeightsError,
        match="are of bridge, not libero: pass embodiment='bridge', or weights='Fleurrr/Prophet-World-Model'",
    ):
        gym.make("Prophet-LIBERO-v0", **settings)
    with pytest.raises(MissingWeightsError, match=r"own named 'train'.*Fleurrr/Bridge-RL-Data.*dataset\.jsonl"):
        gym.make("Prophet-BRIDGE-v0", weights=str(tmp_path / "b"))


def test_bridge_without_weights_says_which_there_are_and_how_to_get_them():
    with pytest.raises(MissingWeightsError) as error:
        gym.make("Prophet-BRIDGE-v0")
    for said in ("'Fleurrr/Prophet-World-Model'", "prophet convert", "prophet-bridge.pt", "Fleurrr/Bridge-RL-Data"):
        assert said in str(error.value)
    with pytest.raises(MissingWeightsError, match=r"are of libero, not bridge: .*prophet-bridge\.pt"):
        gym.make("Prophet-BRIDGE-v0", weights="libero_small")


@pytest.mark.parametrize("name", SUITES)
def test_every_suites_id_dreams_from_its_starts(offline, name):
    starts = starts_of(offline, suite=SUITES[name])
    env = gym.make(f"Prophet-LIBERO-{name}-v0", weights="owner/repo@v1", starts=starts, reward=None)
    assert env.reset(seed=0)[1]["suite"] == SUITES[name]
    other = starts_of(offline, suite=SUITES["Goal" if name != "Goal" else "Object"])
    with pytest.raises(UnknownOptionError, match=f"unknown suite '{SUITES[name]}'"):
        gym.make(f"Prophet-LIBERO-{name}-v0", weights="owner/repo@v1", starts=other, reward=None)
    assert gym.make("Prophet-LIBERO-v0", weights="owner/repo@v1", starts=other, reward=None)


@pytest.mark.parametrize("name", SUITES)
def test_weights_without_starts_say_how_to_make_them(offline, name):
    with pytest.raises(MissingWeightsError, match="prophet starts --world-model FOLDER --suite SUITE"):
        gym.make(f"Prophet-LIBERO-{name}-v0", weights="owner/repo@v1")
    with pytest.raises(MissingWeightsError, match=r"have no starts .*'official': pass starts=PATH"):
        gym.make("Prophet-LIBERO-v0", weights="owner/repo@v1", starts="official")


def test_a_folder_of_start_sets_names_them(offline):
    folder = offline / "sets"
    frames = np.zeros((1, 64, 64, 3), np.uint8)
    for name in ("train", "official"):
        write_initial_states(folder / name, [InitialState(frames, "own", "libero_object")])
    with pytest.raises(MissingWeightsError, match=r"sets/official and .*sets/train, give one of these"):
        gym.make("Prophet-LIBERO-v0", weights="owner/repo@v1", starts=str(folder), reward=None)


def test_a_repository_of_files_says_to_name_one(offline, hub_files):
    folder = cached(hub_files, "owner/files")
    (folder / "weights.pt").write_bytes(b"")
    try:
        with pytest.raises(
            MissingWeightsError,
            match=r"no prophet\.json in .*it holds weights\.pt: name one, as in owner/files:weights\.pt",
        ):
            gym.make("Prophet-LIBERO-v0", weights="owner/files")
        with pytest.raises(MissingWeightsError, match=r"prophet convert owner/files:weights\.pt FOLDER"):
            gym.make("Prophet-LIBERO-v0", weights="owner/files:weights.pt")
    finally:
        shutil.rmtree(folder.parents[1])


def test_a_damaged_release_leaves_nothing_in_the_cache(offline, hub_files, tmp_path):
    source = tmp_path / "prophet-libero.pt"
    source.write_bytes((cached_file(hub_files) / "prophet-libero.pt").read_bytes()[:5000])
    with pytest.raises(CheckpointError, match="damaged or cut"):
        gym.make("Prophet-LIBERO-v0", weights=str(source), starts=starts_of(offline), reward=None)
    assert not (offline / "cache" / "converted").exists()


def cached_file(hub_files: Path) -> Path:
    return hub_files / "models--Fleurrr--Prophet-World-Model" / "snapshots" / COMMITS[0]


def test_starts_are_filmed_for_released_names_too(offline):
    assert resolved(Args(world_model=PUBLISHED, out=offline)) == (offline, "official", 256)


def test_from_pretrained_takes_folders_alone(offline):
    with pytest.raises(CheckpointError, match="is a file, not a checkpoint folder: convert it first"):
        Prophet.from_pretrained(f"{PUBLISHED}:prophet-libero.pt")


def test_a_success_head_that_is_not_there_says_what_to_pass(offline):
    with pytest.raises(MissingWeightsError, match=r"have no success head.*pass reward=None, or reward=PATH"):
        gym.make("Prophet-LIBERO-v0", weights="owner/repo@v1", starts=starts_of(offline), reward="success")


def test_weights_without_a_judge_dream_unjudged_with_a_warning(offline):
    with pytest.warns(UserWarning, match="have no success head, so nothing scores the dream"):
        env = gym.make("Prophet-LIBERO-v0", weights="owner/repo@v1", starts=starts_of(offline))
    env.reset(seed=0)
    _, reward, terminated, _, info = env.step(env.action_space.sample())
    assert (reward, terminated, bool(info["scored"])) == (0.0, False, False)
