"""Several processes learn what one does, whole or in shards; one that differs or is lost is named."""

import json
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from prophet_gym._io.processes._together import differences, lost_named
from prophet_gym.errors import SimulatorLostError
from prophrl_algos._checkpoint import LAST, load_checkpoint, newest, read_policy
from prophrl_algos.trainer import Learner

from .learning import finish, make, start

accelerate = pytest.importorskip("accelerate")


def learn(processes: int, folder: Path, **options) -> tuple[dict[str, torch.Tensor], list[dict[str, float]]]:
    """The policy at the end, and what was logged."""
    assert finish(start(processes, folder, **options)) == [""] * processes
    path = newest(folder)
    assert path is not None
    return read_policy(path), json.loads((folder / "metrics.json").read_text())


def assert_near(one, other):
    for name, weight in one[0].items():
        torch.testing.assert_close(other[0][name], weight, rtol=0, atol=1e-5, msg=name)
    for mine, theirs in zip(one[1], other[1], strict=False):
        assert mine["rollouts"] == 10.0
        assert mine["gradient_norm"] > 0
        assert mine.keys() == theirs.keys()
        for name, value in mine.items():
            if not name.startswith("seconds"):
                assert theirs[name] == pytest.approx(value, rel=1e-4, abs=1e-5), name


@pytest.mark.parametrize(
    "options",
    [
        {"env": "Prophet-LIBERO-v0"},
        {"algorithm": "fa-grpo-forward"},
        {"algorithm": "reinflow", "sharded": True},
        {"policy": "full", "sharded": True},
        {"policy": "lora", "sharded": True},
    ],
    ids=["bundled", "forward", "shards", "pi0", "pi0-lora"],
)
@pytest.mark.slow
def test_two_processes_with_three_groups_and_two_learn_what_one_does_with_five(tmp_path, options):
    if "policy" in options:
        pytest.importorskip("transformers", minversion="5.4", reason="pi0 needs transformers >= 5.4")
    alone = {name: value for name, value in options.items() if name != "sharded"}
    one, two = learn(1, tmp_path / "one", **alone), learn(2, tmp_path / "two", **options)
    assert_near(one, two)
    assert (newest(tmp_path / "two") == tmp_path / "two" / LAST) is ("sharded" not in options)


@pytest.mark.slow
def test_a_run_goes_on_with_another_number_of_processes(tmp_path):
    """In shards on two, then on one, then on two that hold all weights."""
    whole = learn(1, tmp_path / "whole", updates=4)
    learn(2, tmp_path / "parts", updates=2, sharded=True)
    assert newest(tmp_path / "parts").name == "update-00000002"
    learn(1, tmp_path / "parts", updates=3)
    assert newest(tmp_path / "parts") == tmp_path / "parts" / LAST
    assert not (tmp_path / "parts" / "last").exists()
    parts = learn(2, tmp_path / "parts", updates=4)
    assert_near((whole[0], whole[1][3:]), parts)


@pytest.mark.slow
def test_a_run_of_two_in_two_parts_is_the_whole_run_to_the_bit(tmp_path):
    options = {"algorithm": "reinflow"}
    learn(2, tmp_path / "whole", **options)
    learn(2, tmp_path / "parts", updates=1, **options)
    learn(2, tmp_path / "parts", **options)
    one, two = (load_checkpoint(tmp_path / name / LAST)["trainer"] for name in ("whole", "parts"))
    assert all(torch.equal(one["policy"][name], two["policy"][name]) for name in one["policy"])
    ((mine,), (theirs,)) = one["others"], two["others"]
    assert torch.equal(mine["random"], theirs["random"])
    assert mine["env"] == theirs["env"] != {"steps": 0}


@pytest.mark.slow
def test_processes_that_differ_say_who_has_what(tmp_path):
    said = finish(start(2, tmp_path, per_rank={"1": {"seed": 7}}))
    for text in said:
        assert "processes that train together must have the same settings: seed is 0 on 0 (" in text
        assert "but 7 on 1 (" in text
    other = tmp_path / "other"
    (other / "gymnasium-0.0.1.dist-info").mkdir(parents=True)
    (other / "gymnasium-0.0.1.dist-info" / "METADATA").write_text("Name: gymnasium\nVersion: 0.0.1\n")
    for text in finish(start(2, tmp_path, paths=[None, other])):
        assert "the same packages: gymnasium is 1." in text
        assert "but 0.0.1 on 1 (" in text
        assert "install the same releases on every node" in text
    assert not (tmp_path / LAST).exists()


@pytest.mark.slow
def test_a_process_that_is_lost_is_named_and_the_last_state_is_good(tmp_path):
    first, second = started = start(2, tmp_path, updates=10_000)
    while not (tmp_path / LAST).exists():
        assert [each.poll() for each in started] == [None, None]
        time.sleep(0.2)
    second.kill()
    said = first.communicate(timeout=120)[1]
    assert first.returncode == 1
    assert "ProcessLostError: another process was lost while process 0 of 2 on" in said
    assert "Give the same command again to resume from the last checkpoint" in said
    assert load_checkpoint(tmp_path / LAST)["trainer"]["done"] >= 1
    second.communicate()


def test_an_error_that_has_its_own_name_is_not_taken_for_a_lost_process():
    text = "the server at http://a:1 does not answer (Connection refused): reconnect() continues"
    with pytest.raises(SimulatorLostError, match="reconnect"), lost_named("collecting", "Resume"):
        raise SimulatorLostError(text)


def test_groups_are_shared_also_unevenly():
    alone = Learner()
    assert (alone.rank, alone.size, alone.main, alone.share(5)) == (0, 1, True, 5)
    shares = []
    for rank in range(3):
        learner = Learner()
        learner.rank, learner.size = rank, 3
        shares.append(learner.share(8))
    assert shares == [3, 3, 2]
    learner.size = 9
    with pytest.raises(ValueError, match="each of 9 processes needs a group, got groups=8: start fewer processes"):
        learner.share(8)


def test_differences_name_every_owner():
    found = [("a", {"torch": "1", "seed": "0"}), ("a", {"torch": "1", "seed": "0"}), ("b", {"torch": "2", "seed": "0"})]
    assert differences(found[:2]) == ""
    assert differences(found) == "torch is 1 on 0 (a), 1 (a) but 2 on 2 (b)"


def test_fsdp_of_the_first_version_is_refused():
    launched = SimpleNamespace(process_index=0, num_processes=2, distributed_type="FSDP", is_fsdp2=False)
    with pytest.raises(ValueError, match="set fsdp_version to 2"):
        Learner(launched)


def test_the_launchers_precision_is_the_policys():
    launched = SimpleNamespace(process_index=0, num_processes=1, mixed_precision="bf16")
    assert make(Learner(launched)).autocast is torch.bfloat16
    assert make(Learner()).autocast is None
    launched.mixed_precision = "fp16"
    with pytest.raises(ValueError, match="float32 or bf16, got mixed_precision=fp16: launch with bf16 or no"):
        make(Learner(launched))


def test_one_process_has_no_others_in_its_state():
    trainer = make(Learner(), updates=1)
    assert trainer.iterate()["rollouts"] == 10.0
    assert "others" not in trainer.state_dict()
