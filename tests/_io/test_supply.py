"""Nothing of a repository is executed: every loader of transformers is told so, and a folder that tries is refused."""

import ast
import json
from pathlib import Path

import pytest

from prophet_gym.errors import MissingWeightsError
from prophrl_algos.vla._processor import tokenizer_of

ROOT = Path(__file__).parents[2]
SOURCES = sorted(
    path
    for name in ("prophet_gym", "prophrl_algos", "benchmarks", "experiments")
    for path in (ROOT / name).rglob("*.py")
)


def loaders(tree):
    """Calls of `Auto....from_pretrained`, which would run a repository's code if they were told to."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "from_pretrained":
            owner = node.func.value
            if isinstance(owner, ast.Name) and owner.id.startswith("Auto"):
                yield node


def test_every_loader_of_transformers_is_told_to_run_no_code():
    found = [(path, call) for path in SOURCES for call in loaders(ast.parse(path.read_text(encoding="utf-8")))]
    assert len(found) >= 5
    for path, call in found:
        said = {each.arg: getattr(each.value, "value", None) for each in call.keywords}
        assert said.get("trust_remote_code") is False, f"{path.relative_to(ROOT)}:{call.lineno}"


def test_a_tokenizer_that_brings_code_is_refused_and_not_run(tmp_path):
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    (folder / "own.py").write_text(
        f"from pathlib import Path\nPath({str(tmp_path / 'ran')!r}).touch()\nclass Own: pass\n"
    )
    config = {"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": ["own.Own", None]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "config.json").write_text(json.dumps({"model_type": "own"}))
    with pytest.raises(MissingWeightsError, match="could not get the tokenizer"):
        tokenizer_of(folder, "")
    assert not (tmp_path / "ran").exists()
