"""Initial states in the format of Fleurrr/Bridge-RL-Data: a manifest of JSON lines beside a folder of images."""

import json

import cv2
import numpy as np
import pytest

from prophet_gym.envs import read_jsonl_states
from prophet_gym.errors import CheckpointError, MissingWeightsError


def colour(folder, name, rgb):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full((32, 32, 3), rgb[::-1], np.uint8))


@pytest.fixture
def manifest(tmp_path):
    """Two tasks, the second in two wordings; one image is used twice."""
    colour(tmp_path, "images/000/a.png", (250, 10, 20))
    colour(tmp_path, "images/101/b.png", (1, 2, 3))
    rows = [
        ("spoon", "put the spoon on the towel", "images/000/a.png"),
        ("eggplant", "put the eggplant in the basket", "images/101/b.png"),
        ("spoon", "put the spoon on the towel", "images/101/b.png"),
        ("spoon", "lift the spoon", "images/000/a.png"),
    ]
    path = tmp_path / "dataset.jsonl"
    names = ("task_type", "task_language", "init_state_path")
    path.write_text("".join(json.dumps(dict(zip(names, row, strict=True))) + "\n" for row in rows) + "\n")
    return path


def test_lines_become_initial_states_with_tasks_numbered_by_type_and_language(manifest):
    starts = read_jsonl_states(manifest)
    assert [(s.task, s.index) for s in starts] == [(0, 0), (1, 0), (0, 1), (2, 0)]
    assert [s.instruction for s in starts][1:] == [
        "put the eggplant in the basket", "put the spoon on the towel", "lift the spoon",
    ]  # fmt: skip
    assert starts.suites == ("bridge",)
    assert starts[0].frames.shape == (1, 32, 32, 3)
    assert starts[0].frames[0, 5, 7].tolist() == [250, 10, 20]
    assert starts[2].frames[0, 0, 0].tolist() == [1, 2, 3]


def row(**changes):
    return json.dumps({"task_type": "t", "task_language": "l", "init_state_path": "images/000/a.png", **changes})


def test_paths_of_the_machine_it_was_written_on_are_found_by_their_end(manifest):
    manifest.write_text(row(init_state_path="/data/someone/bridge/images/000/a.png") + "\n")
    assert read_jsonl_states(manifest)[0].frames[0, 0, 0].tolist() == [250, 10, 20]


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("", CheckpointError, "has no rows"),
        (row() + "\n{", CheckpointError, r"line 2 of .*dataset\.jsonl must be whole JSON"),
        ("[1]", CheckpointError, r"line 1 of .*dataset\.jsonl must be a JSON object, holds a list"),
        (
            json.dumps({"task_type": "t"}),
            CheckpointError,
            "must have the texts task_type, task_language, init_state_path",
        ),
        (row(task_language=3), CheckpointError, "must have the texts"),
        (row(init_state_path="images/none.png"), MissingWeightsError, "line 1 .*no image 'images/none.png'"),
        (row(init_state_path="../secret.png"), CheckpointError, "must not lead out"),
        (row(init_state_path="dataset.jsonl"), CheckpointError, "is no image"),
    ],
)
def test_a_damaged_manifest_names_the_line(manifest, text, error, message):
    manifest.write_text(text)
    with pytest.raises(error, match=message):
        read_jsonl_states(manifest)


def test_no_manifest_and_no_text(tmp_path):
    with pytest.raises(MissingWeightsError, match="no initial states at"):
        read_jsonl_states(tmp_path / "none.jsonl")
    (tmp_path / "binary.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(CheckpointError, match="is no text"):
        read_jsonl_states(tmp_path / "binary.jsonl")
