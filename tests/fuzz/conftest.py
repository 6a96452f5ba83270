"""Seeded fuzz tests: a few cases each in `make test`, thousands in `make fuzz`, and a count per area at the end."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

CASES = "fuzz_cases"


def pytest_addoption(parser):
    """Declare how many times the short count of cases is run."""
    parser.addoption("--fuzz-scale", type=int, default=1, help="multiply the number of cases of every fuzz test")


@pytest.fixture
def cases(request, record_property):
    """`for generator in cases(n)`: a NumPy generator a case, the same in every run.

    A failing case says its number; `cases(n, only=number)` runs that one alone.
    """

    def run(number, only=None):
        number *= request.config.getoption("--fuzz-scale", 1)
        for case in range(number) if only is None else [only]:
            request.node.fuzz_case = case
            yield np.random.default_rng([case, *request.node.name.encode()])
        record_property(CASES, number)

    return run


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item):
    """Say in which case a fuzz test failed."""
    report = yield
    if report.when == "call" and report.failed and hasattr(item, "fuzz_case"):
        report.sections.append(
            ("fuzz", f"failed in case {item.fuzz_case}: run it alone with cases(n, only={item.fuzz_case})")
        )
    return report


def pytest_terminal_summary(terminalreporter):
    """Print how many cases ran in each area."""
    counts, faults = Counter(), Counter()
    for outcome in ("passed", "failed"):
        for report in terminalreporter.stats.get(outcome, []):
            if not hasattr(report, "user_properties") or "/fuzz/" not in report.nodeid:
                continue
            area = Path(report.nodeid.partition("::")[0]).stem.removeprefix("test_")
            faults[area] += outcome == "failed"
            counts[area] += sum(value for name, value in report.user_properties if name == CASES)
    if counts:
        terminalreporter.section("fuzz")
        for area in sorted(counts):
            terminalreporter.line(f"{area}: {counts[area]:,} cases, {faults[area]} faults")
        terminalreporter.line(f"all: {counts.total():,} cases, {faults.total()} faults")
