"""The recipe of the paper's mixture: readable without data, checked in full, and what training reads with them."""

import shlex
from pathlib import Path

import pytest

from prophet_gym.cli.main import main
from prophet_gym.data._mixture import read_mixture_entry
from prophet_gym.data._recipe import described, expanded, read_recipe
from prophet_gym.data._windows import WindowDataset, WindowShape, as_given
from prophet_gym.errors import UnknownOptionError
from prophet_gym.train._pretrain import WAYS

SETS = Path(__file__).parent / "rlds"
OWN = """
name = "two"
source = "ours"
[[sets]]
name = "BRIDGE"
data = "rlds:bridge_dataset/1.0.0,actions=given,weight=2"
version = "1.0.0"
fetch = "here"
paper = "nothing"
[[sets]]
name = "DROID"
data = "rlds:droid/1.0.1,actions=given,weight=1"
version = "1.0.1"
fetch = "here"
paper = "nothing"
"""


def test_the_paper_s_recipe_is_read_without_data_or_base(tmp_path, capsys):
    words = ["--base", str(tmp_path / "base"), "--out", str(tmp_path / "out"), "--dry-run"]
    main(["pretrain", *words, "--data", f"recipe:prophet,root={tmp_path}"])
    page = capsys.readouterr().out
    for name in ("AgiBot World", "DROID", "Open-X: BRIDGE", "LIBERO: long"):
        assert name in page
    assert f"--data   droid:{tmp_path}/droid_raw/1.0.1,camera=ext1,outcome=success,actions=poses" in page
    assert "the source is silent on:" in page
    assert page.rstrip().endswith(f"0 of 8 sets are under {tmp_path}")
    assert list(tmp_path.iterdir()) == [], "a dry run writes nothing"


def test_every_set_says_what_the_paper_does_not():
    recipe = read_recipe("prophet", WAYS)
    assert {"weights", "filters", "versions"} <= recipe.silent.keys()
    assert all(each.version and each.fetch and each.paper and each.ours for each in recipe.sets)


def test_a_recipe_of_one_s_own_is_the_mixture_that_it_says(tmp_path):
    (tmp_path / "two.toml").write_text(OWN)
    words = f"recipe:{tmp_path / 'two.toml'},root={SETS}"
    entries = [read_mixture_entry(text, {"given": as_given}) for text in expanded([words], ["given"])]
    assert [entry.weight for entry in entries] == [2.0, 1.0]
    windows = WindowDataset(entries, WindowShape(history=1, steps=2, size=(48, 64)))
    assert windows[1, 0].actions.shape == (1, 2, 7)
    page = described([words, "rlds:nowhere"], ["given"])
    assert "weight   2" in page
    assert "2 of 2 sets are under" in page
    assert page.endswith("rlds:nowhere: missing")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("rlds:droid", "tfds:droid", "data of set 2 of .* must be KIND:PATH below the root"),
        ("rlds:droid", "rlds:/droid", "data of set 2 of .* must be KIND:PATH below the root"),
        ("actions=given,weight=1", "actions=gven,weight=1", "way of reading actions of set 2 .* Did you mean 'given'"),
        (",weight=1", "", "must give every set a weight or none of them"),
        ("weight=1", "weight=much", "weight must be a number, got 'much'"),
        ("weight=1", "weight=1,camra=x", "unknown option of set 2 of .* 'camra'. Did you mean 'camera'"),
        ('paper = "nothing"', "", "set 1 of .* must state name, .*; paper missing"),
        ('version = "1.0.0"', "version = 1", "set 1 of .* must map names to texts"),
        ('name = "two"', "named = 2", r"unknown key of .*two\.toml 'named'. Did you mean 'name'"),
        ('name = "two"', "name = ", r"two\.toml must be TOML"),
        ("[[sets]]", "[[facts]]", r"must hold \[\[sets\]\], at least one"),
    ],
)
def test_what_is_wrong_in_a_recipe_is_said_before_any_data_are_read(old, new, message, tmp_path):
    assert old in OWN
    (tmp_path / "two.toml").write_text(OWN.replace(old, new))
    with pytest.raises(ValueError, match=message):
        read_recipe(str(tmp_path / "two.toml"), ["given", "poses"])


def test_the_commands_of_the_page_run(capsys, monkeypatch):
    root = Path(__file__).parents[3]
    monkeypatch.chdir(root)
    section = (root / "docs/how-to/data.md").read_text().partition("## What the paper's mixture is made of")[2]
    commands = section.partition("```sh\n")[2].partition("```")[0].splitlines()
    assert len(commands) == 3
    for command in commands:
        main(shlex.split(command)[1:])
    page = capsys.readouterr().out
    assert "rlds, robot droid" in page
    assert '"observation/image_1": [' in page
    assert "recipe prophet" in page


def test_an_unknown_recipe_is_said():
    with pytest.raises(UnknownOptionError, match=r"unknown recipe \(or TOML file\) 'profet'. Did you mean 'prophet'"):
        read_recipe("profet", WAYS)
