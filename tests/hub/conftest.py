"""A Hub on loopback, and this process as its client: the real `huggingface_hub`, an empty cache, a token."""

import shutil

import huggingface_hub
import pytest
from huggingface_hub import constants, file_download
from huggingface_hub.utils import disable_progress_bars, enable_progress_bars

from prophet_gym.checkpoint import Checkpoint
from prophet_gym.envs import write_initial_states
from tests.hub.server import WRITER, LoopbackHub


def close_sessions():
    """Let the client read anew where the Hub is; its name differs between releases."""
    for name in ("close_session", "reset_sessions"):
        if (close := getattr(huggingface_hub, name, None) or getattr(huggingface_hub.utils, name, None)) is not None:
            close()


def error_of(main, capsys, *argv: object) -> str:
    """What a program says when a command fails; one line and no traceback."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as left:
        main([str(each) for each in argv])
    assert left.value.code == 1
    said = capsys.readouterr().err
    assert len(said.strip().splitlines()) == 1, said
    assert "Traceback" not in said
    return said


@pytest.fixture
def hub():
    server = LoopbackHub()
    yield server
    server.stop()


@pytest.fixture
def environment(hub, tmp_path):
    """What a process of its own needs to use this Hub."""
    return {
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(tmp_path / "hf"),
        "HF_HUB_DISABLE_XET": "1",
        "HF_TOKEN": WRITER,
        "NO_PROXY": "127.0.0.1,localhost",
        "HF_HUB_OFFLINE": "0",
    }


@pytest.fixture
def client(hub, environment, tmp_path, monkeypatch):
    """`huggingface_hub` in this process as if it had been started with that environment."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    template = f"{hub.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    read_at_import = {
        "ENDPOINT": hub.url,
        "HUGGINGFACE_CO_URL_TEMPLATE": template,
        "HF_HUB_CACHE": str(tmp_path / "hf" / "hub"),
        "HF_TOKEN_PATH": str(tmp_path / "hf" / "token"),
        "HF_STORED_TOKENS_PATH": str(tmp_path / "hf" / "stored"),
        "HF_HUB_DISABLE_XET": True,
        "HF_HUB_OFFLINE": False,
    }
    for name, value in read_at_import.items():
        monkeypatch.setattr(constants, name, value)
        if hasattr(file_download, name):  # huggingface_hub 0.x copies some
            monkeypatch.setattr(file_download, name, value)
    close_sessions()
    disable_progress_bars()
    yield tmp_path / "hf" / "hub"
    enable_progress_bars()
    close_sessions()


@pytest.fixture
def folder(tmp_path):
    """A copy of the bundled checkpoint without its demo, and with ten initial states a split in place of 500."""
    target, bundled = tmp_path / "checkpoint", Checkpoint.named("bundled")
    shutil.copytree(bundled.folder, target, ignore=shutil.ignore_patterns("demo", "starts"))
    for split in ("train", "official"):
        states = bundled.initial_states(split)
        write_initial_states(target / "starts" / split, [states.of_task(task)[0] for task in states.tasks])
    return target
