"""`make test-slurm`: a node for all tests of this folder, which are skipped without `--slurm`."""

import pytest
from support.command_line import ENVIRONMENT

from slurm.node import ask, jobs, node, obstacle, until


@pytest.fixture(scope="session")
def one_node(request, tmp_path_factory) -> dict[str, str]:
    if not request.config.getoption("--slurm"):
        pytest.skip("by `make test-slurm`")
    if reason := obstacle():
        pytest.skip(reason)
    with node(tmp_path_factory.mktemp("slurm")) as found:
        yield ENVIRONMENT | found


@pytest.fixture
def environment(one_node) -> dict[str, str]:
    """The environment in which commands find the node; its queue is empty."""
    yield one_node
    ask(one_node, "scancel", "--user=root")
    until(lambda: not jobs(one_node), 60)
