import pytest

from prophet_gym.cli.collect import Args, main, parse_mode, parse_tasks
from prophet_gym.errors import UnknownOptionError


def test_tasks_are_read_from_text():
    assert parse_tasks("all") == tuple(range(10))
    assert parse_tasks("7, 0") == (7, 0)


@pytest.mark.parametrize("text", ["", "10", "-1", "1,1", "milk", "1;2"])
def test_other_texts_are_refused(text):
    with pytest.raises(ValueError, match=r"different numbers in 0..9"):
        parse_tasks(text)


def test_nothing_to_do_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ValueError, match="at least 1, got 0 and 2"):
        main(Args(out=tmp_path / "r", episodes=0))
    assert not (tmp_path / "r").exists()


def test_a_script_is_named(tmp_path):
    assert parse_mode("expert") == "expert"
    with pytest.raises(UnknownOptionError, match=r"'exprt'\. Did you mean 'expert'"):
        main(Args(out=tmp_path / "r", mode="exprt"))
    assert not (tmp_path / "r").exists()
