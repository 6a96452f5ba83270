"""`prophet.json` is checked whole before anything is built from it."""

import json
import shutil
from dataclasses import asdict

import pytest

from prophet_gym._io.configs import require_kinds
from prophet_gym._io.header import read_header, write_header
from prophet_gym.errors import CheckpointError
from prophet_gym.prophet import (
    FullConfig,
    FullProphet,
    Prophet,
    SmallConfig,
    SmallProphet,
    tiny_full_prophet,
    tiny_prophet,
)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folders = {name: tmp_path_factory.mktemp(name) for name in ("small", "full")}
    tiny_prophet().save_pretrained(folders["small"])
    tiny_full_prophet().save_pretrained(folders["full"])
    return folders


@pytest.mark.parametrize(
    "config",
    [SmallConfig(), SmallConfig(stillness=None), FullConfig(embodiment="bridge", draw_tools=True, suite="bridge")],
)
def test_a_config_is_read_as_it_was_written(config, tmp_path):
    kind = {SmallConfig: SmallProphet, FullConfig: FullProphet}[type(config)]
    write_header(tmp_path, kind.__name__, asdict(config), {})
    assert Prophet._kind_of(read_header(tmp_path), tmp_path) == (kind, config)


@pytest.mark.parametrize("named", [{}, {"recipe": "small"}])
def test_keys_of_earlier_versions_are_read(named, folders, tmp_path):
    for name in SmallProphet.networks:
        (tmp_path / name).symlink_to(folders["small"] / name)
    values = json.loads((folders["small"] / "prophet.json").read_text())
    del values["class"]
    values["hold"], values["reader_trust"] = values.pop("no_op"), values.pop("reader_weight")
    (tmp_path / "prophet.json").write_text(json.dumps(named | values))
    loaded = Prophet.from_pretrained(tmp_path)
    assert type(loaded) is SmallProphet
    assert loaded.config == tiny_prophet().config


@pytest.mark.parametrize(
    ("kind", "changes", "said"),
    [
        ("full", {"chunk": "4"}, "chunk='4'"),
        ("full", {"chunk": True}, "chunk=True"),
        ("full", {"frame_size": 32}, "frame_size=32"),
        ("full", {"frame_size": [32, 32, 3]}, "frame_size="),
        ("full", {"draw_tools": 1}, "draw_tools=1"),
        (
            "full",
            {"class": "huge"},
            "class must be one of ActionProphet, FullProphet, SmallProphet, TwoViewProphet, got 'huge'",
        ),
        ("full", {"action_scale": [1.0]}, "action_scale is unknown"),
        ("full", {"embodiment": "libro"}, "unknown embodiment 'libro'. Did you mean 'libero'"),
        ("full", {"steps": 0}, "steps=0 must be at least 1"),
        ("full", {"history_frames": -1}, "history_frames=-1 at least 0"),
        ("full", {"chunk": 0}, "chunk=0 must be a multiple of 4"),
        ("full", {"chunk": 8}, "chunk=8, but the transformer reads 4 actions"),
        ("full", {"action_dim": 8}, "action_dim=8 must be the 7 dimensions"),
        ("full", {"draw_tools": None}, "draw_tools=None"),
        ("small", {"camera": [[1, 0, 0, 0]] * 2 + ["x"]}, "camera="),
        ("small", {"background": [1.0, 2.0]}, "background="),
        ("small", {"stillness": [1.0]}, "stillness="),
        ("small", {"steps": 0}, "steps=0 at least 1"),
        ("small", {"past_frames": 3}, "past_frames=3 must be a multiple of 4"),
        ("small", {"no_op": [0.0]}, "no_op must have action_dim=7 numbers"),
        ("small", {"action_dim": 6, "no_op": [0.0] * 6}, "must be 6 of the action and 4 of the gripper"),
        ("small", {"class": "FullProphet"}, "reader_weight is unknown"),
    ],
)
def test_a_wrong_number_is_named(folders, tmp_path, kind, changes, said):
    good = json.loads((folders[kind] / "prophet.json").read_text())
    for name in ("transformer", "autoencoder", "tracker"):
        if (folders[kind] / name).is_dir():
            (tmp_path / name).symlink_to(folders[kind] / name)
    (tmp_path / "prophet.json").write_text(json.dumps(good | changes))
    with pytest.raises(CheckpointError) as error:
        Prophet.from_pretrained(tmp_path)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"3", b"null", b"\xff\xfe{}", b'{"chunk": [[]]}'])
def test_what_is_no_config_is_refused(tmp_path, content):
    (tmp_path / "prophet.json").write_bytes(content)
    said = "the keys chunk" if b"chunk" in content else "the config of a world model"
    with pytest.raises(CheckpointError, match=rf"prophet\.json must be JSON with {said}"):
        Prophet.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("part", "changes", "said"),
    [
        ("transformer", {"history_order": "x"}, "history_order"),
        ("transformer", {"action_frames": None}, "unexpected: action_frame_embedder"),
        ("transformer", {"latent_channels": 4}, "of another shape: patch_embed.proj.weight"),
        ("transformer", {"max_size": [1, 2, 2]}, "latents of (2, 4, 4), but the transformer's table ends at [1, 2, 2]"),
        ("autoencoder", {"dim_mult": []}, "cannot load"),
        ("autoencoder", {"latents_mean": [0.0]}, "latents_mean and latents_std for every channel"),
        ("autoencoder", {"latents_std": "x"}, "latents_std='x' must be list[float]"),
    ],
)
def test_a_networks_config_that_cannot_be_its_own_is_one_line(folders, tmp_path, part, changes, said):
    shutil.copytree(folders["full"], tmp_path, dirs_exist_ok=True)
    path = tmp_path / part / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(CheckpointError) as error:
        Prophet.from_pretrained(tmp_path)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_statistics_of_another_size_are_named_with_how_many_there_must_be(folders, tmp_path):
    shutil.copytree(folders["small"], tmp_path, dirs_exist_ok=True)
    path = tmp_path / "autoencoder" / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"latents_mean": [0.0], "latents_std": [1.0]}))
    wanted = f"latents_mean and latents_std, finite numbers, one for each of {config['latent_channels']}"
    with pytest.raises(CheckpointError, match=wanted):
        Prophet.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("max_size", [float("nan"), 8, 8], r"max_size.*must be .*Sequence\[int\]"),
        ("rope_scale", [1.0, float("inf"), 1.0], r"rope_scale.*must be .*Sequence\[float\]"),
        ("patch_size", [1, "2", 2], r"patch_size.*must be .*Sequence\[int\]"),
        ("num_layers", 10**9, "num_layers.*must be at most"),
    ],
)
def test_a_networks_config_is_checked_before_anything_is_built(tmp_path, key, value, said):
    tiny_prophet().save_pretrained(tmp_path / "checkpoint")
    path = tmp_path / "checkpoint" / "transformer" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    with pytest.raises(CheckpointError, match=said):
        Prophet.from_pretrained(tmp_path / "checkpoint")


@pytest.mark.parametrize("hint", [list[int], tuple[int], tuple[int, ...]])
def test_several_numbers_are_several_however_a_constructor_is_annotated(hint):
    class Network:
        def __init__(self, widths, rate: float = 0.0):
            pass

    Network.__init__.__annotations__["widths"] = hint
    require_kinds(Network, {"widths": [1, 2, 4, 4], "rate": 1, "_class_name": "Network"})
    with pytest.raises(ValueError, match=r"widths=\[1, '2'\] must be "):
        require_kinds(Network, {"widths": [1, "2"]})
