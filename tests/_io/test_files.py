"""Files that others wrote, and that everything is read and written as UTF-8."""

import ast
from pathlib import Path

import numpy as np
import pytest

from prophet_gym._checks import require_images
from prophet_gym._io.files import read_json, read_json_lines, read_text, refuse_pointer
from prophet_gym.errors import CheckpointError

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"


def test_a_pointer_file_says_how_to_get_the_file_itself(tmp_path):
    path = tmp_path / "weights.json"
    path.write_text(POINTER, encoding="utf-8")
    for read in (read_json, read_json_lines, read_text, refuse_pointer):
        with pytest.raises(CheckpointError, match=r"weights\.json is a Git LFS pointer.*git lfs pull"):
            read(path, CheckpointError)


def test_a_byte_order_mark_and_any_letter_are_read(tmp_path):
    path = tmp_path / "info.json"
    path.write_bytes('{"task": "öffne die Tür"}'.encode("utf-8-sig"))
    assert read_json(path) == {"task": "öffne die Tür"}


def test_lines_end_at_line_feeds_alone(tmp_path):
    path = tmp_path / "episodes.jsonl"
    path.write_bytes('{"task": "a\u2028b\u0085c"}\r\n\n{"task": "d"}\n'.encode())
    assert [line["task"] for line in read_json_lines(path)] == ["a\u2028b\u0085c", "d"]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b'{"fps": 3', "must be whole JSON"),
        (b"", "must be whole JSON"),
        (b"[" * 100_000, "must be whole JSON"),
        (b"\xff\xfe{}", "UTF-8"),
        (b"[1, 2]", "must be a JSON object, holds a list"),
        (b"3", "must be a JSON object, holds a int"),
    ],
)
def test_what_is_no_json_object_is_refused_by_name(tmp_path, content, told):
    path = tmp_path / "info.json"
    path.write_bytes(content)
    for read in (read_json, read_json_lines) if content else (read_json,):
        with pytest.raises(ValueError, match=told) as raised:
            read(path)
        assert str(path) in str(raised.value)


def test_a_bad_line_is_named(tmp_path):
    path = tmp_path / "episodes.jsonl"
    path.write_text('{"a": 1}\n\n{"a": 2\n', encoding="utf-8")
    with pytest.raises(ValueError, match=r"line 3 of .*episodes\.jsonl must be whole JSON"):
        read_json_lines(path)


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no file at .*absent\.json"):
        read_json(tmp_path / "absent.json")
    with pytest.raises(ValueError, match="must be a file"):
        read_json(tmp_path)


@pytest.mark.parametrize(
    ("images", "told"),
    [
        (np.zeros((2, 8, 8, 3), np.float32), r"got float32 \(2, 8, 8, 3\); scale them to 0\.\.255"),
        (np.zeros((3, 8, 8), np.uint8), "move the channels last"),
        (np.zeros((3, 8, 8), np.float64), "move the channels last and scale them"),
        (np.zeros((8, 8, 4), np.uint8), "drop the fourth channel"),
        (np.zeros((8, 8), np.uint8), r"got uint8 \(8, 8\)$"),
        (np.zeros((8, 8, 3), np.int64), r"got int64 \(8, 8, 3\)$"),
        (np.zeros((0, 8, 3), np.uint8), r"got uint8 \(0, 8, 3\)$"),
        ([[[0, 0, 0]]], "must be a NumPy array.*got list"),
    ],
)
def test_what_is_no_image_is_refused_in_one_sentence(images, told):
    with pytest.raises(ValueError, match=told) as raised:
        require_images("frames of demo_0", images)
    assert str(raised.value).startswith("frames of demo_0 must be")


def test_images_of_any_number_pass():
    for shape in ((4, 5, 3), (2, 4, 5, 3), (0, 4, 5, 3), (2, 3, 4, 5, 3)):
        images = np.zeros(shape, np.uint8)
        assert require_images("frames", images) is images


ROOT = Path(__file__).parents[2]
MODES = {"open": 1, "fdopen": 1, "NamedTemporaryFile": 0}
"""Calls that open texts or bytes -> where the mode stands; a method `open` has it first."""
NOT_FILES = {"Image", "os", "self", "tarfile", "webbrowser", "wave", "fs"}
"""What else has an `open`."""


def text_without_encoding(source: str) -> list[int]:
    """Return the lines that read or write text in whatever encoding the machine has."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        options = {keyword.arg: keyword.value for keyword in node.keywords}
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        method = isinstance(node.func, ast.Attribute)
        owner = node.func.value.id if method and isinstance(node.func.value, ast.Name) else None
        place = 0 if method and name == "open" else MODES.get(name, 0)
        mode = options.get("mode", node.args[place] if len(node.args) > place else None)
        binary = isinstance(mode, ast.Constant) and "b" in str(mode.value)
        binary |= name == "NamedTemporaryFile" and mode is None
        opens = (name in MODES and owner not in NOT_FILES - ({"os"} if name == "fdopen" else set())) and not binary
        texts = method and name in ("read_text", "write_text")
        pipes = any(
            isinstance(options.get(key), ast.Constant) and options[key].value for key in ("text", "universal_newlines")
        )
        if (opens or texts or pipes) and "encoding" not in options:
            found.append(node.lineno)
        if name == "splitlines" and method and "read_text" in ast.dump(node.func.value):
            found.append(node.lineno)
    return found


def test_the_rule_of_encodings_finds_what_it_forbids():
    bad = """
path.read_text()
path.write_text("a")
open("a")
path.open("w")
os.fdopen(1, "w")
tempfile.NamedTemporaryFile("w")
subprocess.run(["ls"], text=True)
path.read_text(encoding="utf-8").splitlines()
"""
    good = """
path.read_text(encoding="utf-8")
open("a", "rb")
path.open("wb")
os.open("a", os.O_RDONLY)
Image.open(path)
tempfile.NamedTemporaryFile()
read_text(path)
"""
    assert text_without_encoding(bad) == list(range(2, 10))
    assert text_without_encoding(good) == []


@pytest.mark.parametrize("package", ["prophet_gym", "prophrl_algos"])
def test_every_text_is_read_and_written_as_utf_8(package):
    found = {
        str(path.relative_to(ROOT)): lines
        for path in sorted((ROOT / package).rglob("*.py"))
        if (lines := text_without_encoding(path.read_text(encoding="utf-8")))
    }
    assert found == {}
