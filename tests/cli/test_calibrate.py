"""`prophet calibrate` from a recording to a card, on a tiny checkpoint."""

import pytest

from prophet_gym.cli._calibrate import Args, main
from prophet_gym.rewards import SuccessHead, SuccessHeadConfig


def test_from_a_recording_to_a_card(checkpoint, recording, tmp_path, capsys):
    SuccessHead(SuccessHeadConfig(threshold=0.0001, min_consecutive=1)).save_pretrained(tmp_path / "head")
    card = main(Args(world_model=str(checkpoint), reward=str(tmp_path / "head"), data=recording, batch_size=2))
    assert (card["suite"], card["starts"], card["chunk"]) == ("libero_object", "official", 8)
    for source in ("real", "dream"):
        found = card[source]
        # 24 and 19 actions: three chunks and two
        assert found["verdicts"]["count"] == 5
        assert found["episodes"]["false_positive_rate"]["mean"] == 1.0
        assert found["episodes"]["recall"]["mean"] is None
        assert list(found["by_age"]) == ["1-40"]
        assert list(found["by_policy"]) == ["random"]
    assert "false positive rate" in capsys.readouterr().out


def test_real_episodes_alone(checkpoint, recording, tmp_path):
    SuccessHead().save_pretrained(tmp_path / "head")
    asked = {"world_model": str(checkpoint), "reward": str(tmp_path / "head"), "data": recording, "dream": False}
    assert "dream" not in main(Args(**asked))
    with pytest.raises(ValueError, match="at least 1"):
        main(Args(**asked, episodes=0))


def test_without_a_reward_model_nothing_is_loaded(tmp_path):
    with pytest.raises(ValueError, match="needs a reward model to compare with the truth, got --reward None"):
        main(Args(world_model=str(tmp_path / "no checkpoint"), reward="None"))


def test_no_reward_model_at_all_is_refused_before_anything_is_read():
    with pytest.raises(ValueError, match=r"calibration needs a reward model .* got --reward None"):
        main(Args(reward="None"))
    with pytest.raises(ValueError, match="workers must be an integer of at least 1, got 0"):
        Args(workers=0)
