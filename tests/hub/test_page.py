"""The page about publishing: its commands run, in processes that know nothing of the Hub but HF_ENDPOINT."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from prophet_gym.checkpoint import bundled_checkpoints
from prophrl_algos.vla._load import BUNDLED

PAGE = (Path(__file__).parents[2] / "docs" / "how-to" / "publish.md").read_text(encoding="utf-8")
SHELL = "\n".join(re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL))
LINES = re.findall(r"^(prophet|prophrl) (.*)$", SHELL, re.MULTILINE)
(PROGRAM,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
RUN = """
import json, shlex, sys
from prophet_gym.cli.main import main as prophet
from prophrl_algos.cli import main as prophrl

lines, program = json.loads(sys.argv[1])
for name, words in lines:
    {"prophet": prophet, "prophrl": prophrl}[name](shlex.split(words))
scope = {}
exec(program, scope)
print("scored", scope["info"]["scored"], scope["observation"]["image"].shape, len(scope["info"]["frames"]))
"""


@pytest.mark.skipif(not bundled_checkpoints().get("libero_small"), reason="no checkpoint is bundled")
def test_the_page_runs_from_top_to_bottom(hub, environment, folder, tmp_path):
    assert len(LINES) == 7
    shutil.move(folder, tmp_path / "outputs" / "train" / "checkpoint")
    shutil.copytree(BUNDLED["SmallVLA-LIBERO-object-sft"], tmp_path / "outputs" / "sft" / "policy")
    command = [sys.executable, "-c", RUN, json.dumps([LINES, PROGRAM])]
    result = subprocess.run(
        command, env=os.environ | environment, cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stderr[-3000:]
    said = result.stdout
    assert said.index("dry run") < said.index(f"{hub.url}/me/my-dream/commit/") < said.index("verified: every file")
    assert said.splitlines()[-1] == "scored True (128, 128, 3) 8"
    assert (Path(environment["HF_HOME"]) / "hub" / "models--me--my-dream").is_dir()
    assert ModelCard(hub.files("me/my-dream")["README.md"].decode()).data.license == "apache-2.0"
    assert "success in 1 episodes" in hub.files("me/my-policy")["README.md"].decode()
