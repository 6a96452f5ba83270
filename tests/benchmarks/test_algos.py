"""What the trainer costs is within what it may cost."""

import json
from pathlib import Path

RESULT = Path(__file__).parents[2] / "benchmarks" / "results" / "algos.json"


def test_the_stored_result_is_within_the_limits():
    found = json.loads(RESULT.read_text())
    assert found["update"]["update_by_bare"] <= 1.3
    assert found["rollout"]["bookkeeping_by_env"] < 0.05
