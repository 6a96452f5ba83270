"""`prophet redream`: another recording's frames, the same everything else; resumable."""

import json

import numpy as np
import pytest

from prophet_gym.cli._redream import Args, main
from prophet_gym.data._recording import META, list_episodes, read_episode


def test_frames_are_dreamt_and_labels_kept(checkpoint, recording, tmp_path, capsys):
    out = tmp_path / "dreams"
    main(Args(data=recording, out=out, world_model=str(checkpoint), batch_size=2))
    found, real = list_episodes(out, evaluating=True), list_episodes(recording, evaluating=True)
    assert [path.relative_to(out) for path in found] == [path.relative_to(recording) for path in real]
    for path, source in zip(found, real, strict=True):
        dreamt, whole = read_episode(path), read_episode(source)
        steps = len(whole) // 8 * 8
        assert len(dreamt) == steps
        assert np.array_equal(dreamt.actions, whole.actions[:steps])
        assert np.array_equal(dreamt.sim.success, whole.sim.success[: steps + 1])
        frames = dreamt.frames()
        assert np.abs(frames[0].astype(int) - whole.frames()[0]).mean() < 4
        assert len(frames) == steps + 1
    meta = json.loads((out / META).read_text())
    assert meta["starts"] == "official"  # still refused as training data
    assert meta["dreamt_by"] == str(checkpoint)
    assert meta["cameras"] == ["agentview"]
    main(Args(data=recording, out=out, world_model=str(checkpoint), batch_size=2))
    assert "wrote 0 episodes" in capsys.readouterr().out
    with pytest.raises(ValueError, match="cannot take dream_seed=1"):
        main(Args(data=recording, out=out, world_model=str(checkpoint), seed=1))
