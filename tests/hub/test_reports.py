"""What reports say of this machine when they are published."""

import json

from prophet_gym._io.hub import without_places


def test_reports_do_not_say_where_files_lie(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here" / "deeper").mkdir(parents=True)
    told = {
        "checkpoint": "/home/me/secret/checkpoint/",
        "data": ["lerobot:/home/me/my_set,calibration=~/secret/floor.npy", "here/deeper", "me/my-dream", "bundled"],
        "args": {"world_model": "..\\secret\\dream", "reward": "vlm:http://127.0.0.1:8000/v1", "rate": 0.5},
        "tasks": ["pick up the milk, and/or place it", "."],
    }
    names = ("evaluation.json", "success_head/metrics.json", "prophet.json")
    for name in names:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(told))
    sent = without_places({name: tmp_path / name for name in names})
    kept = {
        "checkpoint": "checkpoint",
        "data": ["lerobot:my_set,calibration=floor.npy", "deeper", "me/my-dream", "bundled"],
        "args": {"world_model": "dream", "reward": "vlm:http://127.0.0.1:8000/v1", "rate": 0.5},
        "tasks": told["tasks"],
    }
    assert [json.loads(sent[name]) for name in names[:2]] == [kept, kept]
    assert sent["prophet.json"] == tmp_path / "prophet.json", "what is loaded is sent as it is"
