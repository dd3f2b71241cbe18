"""`make faults`: the long form, and at its end a count of what was tried and what was lost."""

from pathlib import Path

import pytest

from faults.harness import RUN, Hang, Lost, call, outcome

COUNTED = ("kills survived", "other faults", "inputs tried")


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory) -> Path:
    """The output of `RUN` when nothing happens to it."""
    output = tmp_path_factory.mktemp("undisturbed")
    ended = call(output, *RUN)
    assert ended.status == 0, ended.err
    return output


@pytest.fixture(scope="session")
def expected(undisturbed) -> dict:
    """What every run of `RUN` has to end with, whatever happens to it."""
    return outcome(undisturbed)


@pytest.fixture
def tally(record_property):
    """`tally("inputs tried")` counts for the summary."""
    return lambda name, count=1: record_property(f"faults/{COUNTED[COUNTED.index(name)]}", count)


def pytest_terminal_summary(terminalreporter) -> None:
    reports = [report for found in terminalreporter.stats.values() for report in found if hasattr(report, "outcome")]
    pairs = [pair for report in reports if report.when == "call" for pair in report.user_properties]
    lines = [f"{name}: {sum(n for key, n in pairs if key == f'faults/{name}')}" for name in COUNTED]
    failed = [report.longreprtext for report in reports if report.failed]
    lines += [
        f"{name}: {sum(kind.__name__ in text for text in failed)}"
        for name, kind in (("records lost", Lost), ("hangs", Hang))
    ]
    terminalreporter.write_sep("=", ", ".join(lines))
