"""`prophrl` says what is there and refuses what is not."""

import pytest

from prophrl_algos.cli import ALGORITHMS, main


def test_the_overview_names_every_environment_and_algorithm(capsys):
    main([])
    printed = capsys.readouterr().out
    assert "Prophet-LIBERO-v0" in printed
    assert "LIBERO-Object-v0" in printed
    assert all(name in printed for name in ALGORITHMS) if ALGORITHMS else "none yet" in printed


def test_what_does_not_exist_is_refused(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["train"])
    assert stopped.value.code == 2
    assert "takes no arguments yet, got 'train'" in capsys.readouterr().err
