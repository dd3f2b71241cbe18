"""Each of a sweep's parallel runs gets its share of the machine."""

import pytest

from core.errors import UserError
from hydra_plugins.process_launcher import ProcessLauncher


@pytest.fixture
def share(monkeypatch):
    """The environment of the run in a slot, on a machine with this many GPUs."""
    for name in ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"):
        monkeypatch.delenv(name, raising=False)

    def of(parallel: int, gpus: int, slot: int = 0) -> dict[str, str]:
        monkeypatch.setattr("torch.cuda.device_count", lambda: gpus)
        monkeypatch.setattr("os.cpu_count", lambda: 12)
        return ProcessLauncher(parallel).share(slot)

    return of


def test_a_run_alone_has_the_whole_machine(share):
    assert share(parallel=1, gpus=4) == {}


def test_runs_on_a_cpu_share_its_cores(share, monkeypatch):
    assert share(parallel=5, gpus=0) == {"OMP_NUM_THREADS": "2"}
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert share(parallel=5, gpus=0) == {"OMP_NUM_THREADS": "1"}


def test_each_run_has_a_gpu_of_its_own_where_there_are_enough(share, monkeypatch):
    assert [share(4, 4, slot).get("CUDA_VISIBLE_DEVICES") for slot in range(4)] == ["0", "1", "2", "3"]
    assert "PYTORCH_ALLOC_CONF" not in share(4, 4)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    assert [share(2, 2, slot)["CUDA_VISIBLE_DEVICES"] for slot in range(2)] == ["2", "5"]


def test_runs_that_share_a_gpu_take_equal_parts_of_its_memory(share, monkeypatch):
    assert share(5, 1)["PYTORCH_ALLOC_CONF"] == "per_process_memory_fraction:0.200"
    assert share(5, 2)["PYTORCH_ALLOC_CONF"] == "per_process_memory_fraction:0.333"
    monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
    assert share(5, 1)["PYTORCH_ALLOC_CONF"] == "expandable_segments:True,per_process_memory_fraction:0.200"
    monkeypatch.setenv("PYTORCH_ALLOC_CONF", "per_process_memory_fraction:0.5")
    assert "PYTORCH_ALLOC_CONF" not in share(5, 1)


def test_runs_of_several_processes_are_trained_one_at_a_time(monkeypatch):
    """Parallel ones would meet at one port."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="one run at a time: leave out hydra"):
        ProcessLauncher(parallel=2).launch([["seed=0"]], 0)
