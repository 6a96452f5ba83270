"""Statistics make sense or are refused with file, feature and number; what is cut off them is padding."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from prophet_gym.errors import CheckpointError
from prophrl_algos.vla.io._statistics import cut, lerobot_scales, openpi_scales, transformers_scales, without_padding

Q01, Q99 = [-0.9, -0.8, -0.7, -0.1, -0.2, -0.3, -1.0], [0.9, 0.7, 0.8, 0.2, 0.1, 0.3, 1.0]
MEAN, STD = [0.0, 0.1, -0.1, 0.0, 0.0, 0.0, 0.2], [0.3, 0.3, 0.3, 0.1, 0.1, 0.1, 0.9]
GOOD = {"q01": Q01, "q99": Q99, "mean": MEAN, "std": STD}


def changed(name, number, value):
    return {**GOOD, name: [value if place == number else each for place, each in enumerate(GOOD[name])]}


def openpi(folder, actions, state=GOOD, scaling="QUANTILES"):
    (folder / "norm_stats.json").write_text(json.dumps({"norm_stats": {"actions": actions, "state": state}}))
    return openpi_scales(folder, scaling, 1e-6)


def lerobot(folder, actions, state=GOOD, mode="QUANTILES"):
    for which, name, feature, given in (
        ("pre", "normalizer", "observation.state", state),
        ("post", "unnormalizer", "action", actions),
    ):
        file = f"policy_{which}processor_step_2_{name}_processor.safetensors"
        save_file({f"{feature}.{key}": torch.tensor(values) for key, values in given.items()}, folder / file)
        config = {"eps": 1e-8, "norm_map": {"STATE": mode, "ACTION": mode}}
        step = {"registry_name": f"{name}_processor", "config": config, "state_file": file}
        (folder / f"policy_{which}processor.json").write_text(json.dumps({"steps": [step]}))
    return lerobot_scales(folder)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (changed("q01", 2, float("nan")), "q01 of 'actions?' must be finite, number 2 of it is nan"),
        (changed("q99", 5, 1e300), "q99 of 'actions?' must be finite, number 5 of it is 1e.300"),
        (changed("q99", 6, float("inf")), "q99 of 'actions?' must be finite, number 6 of it is inf"),
        (changed("q01", 4, 0.5), "q01 of 'actions?' must be at most q99, number 4 of it is 0.5 and 0.1"),
    ],
)
def test_numbers_that_make_no_sense_are_named(tmp_path, wrong, said):
    with pytest.raises(CheckpointError, match=rf"norm_stats\.json: {said}"):
        openpi(tmp_path, wrong)
    with pytest.raises(CheckpointError, match=rf"unnormalizer_processor\.safetensors.*{said.split(' ')[0]}|not finite"):
        lerobot(tmp_path, wrong)


def test_negative_deviations_are_named(tmp_path):
    wrong = changed("std", 1, -0.2)
    with pytest.raises(CheckpointError, match=r"std of .actions. must be at least 0, number 1 of it is -0\.2"):
        openpi(tmp_path, wrong, scaling="MEAN_STD")
    with pytest.raises(
        CheckpointError, match=r"processor\.safetensors: std of 'observation\.state' must be at least 0"
    ):
        lerobot(tmp_path, GOOD, wrong, mode="MEAN_STD")
    read = {
        f"{kind}_{name}": values for kind in ("actions", "state") for name, values in (("mean", MEAN), ("std", STD))
    }
    (tmp_path / "processor_config.json").write_text(json.dumps({**read, "actions_std": [-1.0] * 7}))
    with pytest.raises(CheckpointError, match=r"processor_config\.json: std of 'actions' must be at least 0, number 0"):
        transformers_scales(tmp_path)


def test_missing_quantiles_say_what_is_there_and_what_to_do(tmp_path):
    without = {"mean": MEAN, "std": STD}
    said = r"must hold q01 and q99 of 'actions' for 'QUANTILES' scaling, it holds mean, std: .*compute_norm_stats\.py"
    with pytest.raises(CheckpointError, match=said):
        openpi(tmp_path, without)
    with pytest.raises(CheckpointError, match=r"must hold q01 and q99 of 'action' .*LoadOptions\(statistics="):
        lerobot(tmp_path, without)


@pytest.mark.parametrize("wrong", [{**GOOD, "q99": Q99[:3]}, {**GOOD, "q01": 1.0, "q99": 2.0}, {**GOOD, "q01": []}])
def test_lists_of_unequal_length_are_refused(tmp_path, wrong):
    with pytest.raises(CheckpointError, match="must hold one number of 'actions' for each of its numbers"):
        openpi(tmp_path, wrong)


@pytest.mark.parametrize(
    "wrong", [None, "text", [1, 2], {"q01": ["a"], "q99": ["b"]}, {"q01": [[1], [2, 3]], "q99": [1]}]
)
def test_what_is_no_list_of_numbers_is_refused(tmp_path, wrong):
    with pytest.raises(CheckpointError, match=r"norm_stats\.json"):
        openpi(tmp_path, wrong)


@pytest.mark.parametrize("scaling", ["QUANTILES", "MEAN_STD"])
@pytest.mark.parametrize("leftover", [0.0, 1e-10])
def test_padding_is_cut_off_actions_and_state(tmp_path, scaling, leftover):
    padding = {"q01": -leftover, "q99": leftover, "mean": 0.0, "std": leftover}
    padded = {name: [*values, *[padding[name]] * 25] for name, values in GOOD.items()}
    wide = openpi(tmp_path, padded, padded, scaling)
    whole = openpi(tmp_path, GOOD, GOOD, scaling)
    for cut_off, expected in (
        (cut(wide.actions, 7, "actions", tmp_path), whole.actions),
        (without_padding(wide.state, 32), whole.state),
    ):
        np.testing.assert_array_equal(cut_off.offset, expected.offset)
        np.testing.assert_array_equal(cut_off.scale, expected.scale)
    assert len(without_padding(wide.state, 40).scale) == 32
    assert len(without_padding(whole.state, 32).scale) == 7


def test_what_is_cut_off_must_be_padding(tmp_path):
    two_arms = {name: values * 2 for name, values in GOOD.items()}
    wide = openpi(tmp_path, two_arms)
    with pytest.raises(
        CheckpointError, match="14 numbers of 'actions', 7 are needed, and number 7 is no padding: offset"
    ):
        cut(wide.actions, 7, "actions", tmp_path)
    with pytest.raises(CheckpointError, match="holds statistics of 7 numbers of 'actions', and 8 are needed"):
        cut(openpi(tmp_path, GOOD).actions, 8, "actions", tmp_path)


@pytest.mark.parametrize(
    ("file", "change", "said"),
    [
        ("policy_postprocessor.json", {"steps": 3}, "must have one step 'unnormalizer_processor', got 0"),
        ("policy_postprocessor.json", {"steps": [None]}, "must have one step"),
        ("policy_preprocessor.json", {"config": 3}, "config and norm_map of 'normalizer_processor' must be objects"),
        ("policy_preprocessor.json", {"config": {"norm_map": {"STATE": ["QUANTILES"]}}}, "scales STATE by"),
        ("policy_preprocessor.json", {"config": {"norm_map": {"STATE": "MIN_MAX"}}}, "known are QUANTILES, MEAN_STD"),
        (
            "policy_preprocessor.json",
            {"config": {"norm_map": {"STATE": "QUANTILES"}, "eps": "x"}},
            "eps must be a number",
        ),
        ("policy_postprocessor.json", {"state_file": "../x.safetensors"}, "must be a file beside it"),
    ],
)
def test_processor_files_that_are_none_are_refused(tmp_path, file, change, said):
    lerobot(tmp_path, GOOD)
    spec = json.loads((tmp_path / file).read_text())
    spec = change if "steps" in change else {"steps": [{**spec["steps"][0], **change}]}
    (tmp_path / file).write_text(json.dumps(spec))
    with pytest.raises(CheckpointError, match=said):
        lerobot_scales(tmp_path)


def test_cut_off_and_unfetched_files_are_named(tmp_path):
    lerobot(tmp_path, GOOD)
    file = tmp_path / "policy_postprocessor_step_2_unnormalizer_processor.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:40])
    with pytest.raises(CheckpointError, match=r"cannot read .*unnormalizer_processor\.safetensors.*damaged or cut"):
        lerobot_scales(tmp_path)
    for each in (file, tmp_path / "policy_preprocessor.json"):
        each.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
        with pytest.raises(CheckpointError, match=rf"{each.name} is a Git LFS pointer.*git lfs pull"):
            lerobot_scales(tmp_path)
        file.write_bytes(whole)
