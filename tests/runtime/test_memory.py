"""What memory there is, from files as the kernel writes them; arrays that lie in files."""

import gc
import os
from pathlib import Path

import pytest
import torch

from halfmap.errors import InputError
from halfmap.runtime.memory import allowance, available
from halfmap.runtime.scratch import Scratch

GB = 10**9


@pytest.fixture
def machine(tmp_path: Path):
    """A root folder with 64 GB of memory, 5 GB in use by the process, and what is added."""

    def write(name: str, text: str) -> None:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    write("proc/meminfo", f"MemTotal: 99999999 kB\nMemAvailable: {64 * GB // 1024} kB\n")
    write("proc/self/status", f"Name: x\nVmHWM: 1 kB\nRssAnon: {5 * GB // 1024} kB\n")
    return write


def test_without_limits_it_is_what_the_machine_has(machine, tmp_path):
    assert available(root=tmp_path) == pytest.approx(64 * GB, rel=1e-6)


def test_a_limit_of_version_2_counts_and_so_does_that_of_a_group_above(machine, tmp_path):
    machine("proc/self/cgroup", "0::/slurm/job\n")
    machine("sys/fs/cgroup/slurm/job/memory.max", "max\n")
    machine("sys/fs/cgroup/slurm/memory.max", f"{16 * GB}\n")
    machine("sys/fs/cgroup/slurm/memory.current", f"{7 * GB}\n")
    machine("sys/fs/cgroup/slurm/memory.stat", f"anon 1\ninactive_file {2 * GB}\n")
    assert available(root=tmp_path) == 11 * GB


def test_a_limit_of_version_1_in_a_container_counts(machine, tmp_path):
    machine("proc/self/cgroup", "5:cpu:/docker/abc\n4:memory:/docker/abc\n")
    machine("sys/fs/cgroup/memory/memory.limit_in_bytes", f"{8 * GB}\n")
    machine("sys/fs/cgroup/memory/memory.usage_in_bytes", f"{3 * GB}\n")
    machine("sys/fs/cgroup/memory/memory.stat", "cache 0\ntotal_inactive_file 0\n")
    assert available(root=tmp_path) == 5 * GB


def test_no_limit_of_version_1_is_no_limit(machine, tmp_path):
    machine("proc/self/cgroup", "4:memory:/\n")
    machine("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n")
    assert available(root=tmp_path) == pytest.approx(64 * GB, rel=1e-6)


def test_the_users_limit_is_for_all_that_the_processes_hold(machine, tmp_path):
    """What a process holds already is no longer free, but counts as allowed."""
    assert allowance(12.0, root=tmp_path) == 12 * GB
    assert allowance(12.0, processes=4, root=tmp_path) == 3 * GB
    assert allowance(1000.0, root=tmp_path) == allowance(root=tmp_path) == pytest.approx(69 * GB, rel=1e-6)
    assert allowance(processes=2, root=tmp_path) == pytest.approx(37 * GB, rel=1e-6)


def test_values_in_a_file_are_the_same_and_can_be_changed(tmp_path):
    values = torch.randn(3, 40, 5, generator=torch.Generator().manual_seed(1))
    scratch = Scratch(tmp_path)
    kept = scratch.keep(values)
    assert torch.equal(kept, values) and kept.shape == values.shape
    kept[1] = 7.0
    assert bool((kept[1] == 7.0).all()) and not bool((values[1] == 7.0).any())
    assert scratch.keep(kept) is kept, "once is enough"


def test_the_file_holds_them_without_a_name_and_goes_with_them(tmp_path):
    def mapped() -> int:
        return sum(str(tmp_path) in line for line in Path("/proc/self/maps").read_text().splitlines())

    kept = Scratch(tmp_path).keep(torch.ones(1 << 18))
    assert mapped() == 1 and not os.listdir(tmp_path)
    del kept
    gc.collect()
    assert mapped() == 0


def test_a_folder_that_is_gone_is_named(tmp_path):
    with pytest.raises(InputError, match=r"nowhere.*--scratch"):
        Scratch(tmp_path / "nowhere").keep(torch.ones(3))
