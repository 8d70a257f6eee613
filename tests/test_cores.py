"""Cores and memory are those that affinity and control groups of either version leave to this process."""

import os

import pytest

from ssd_graph import cores
from ssd_graph.cores import has_bf16, usable_cores, usable_memory

GB = 2**30


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Writes files of /proc and /sys/fs/cgroup for a machine of 64 cores and 100 GB."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(64)))
    monkeypatch.setattr(cores, "_PROC", tmp_path / "proc")
    monkeypatch.setattr(cores, "_GROUPS", tmp_path / "cgroup")

    def write(name, text):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)

    write("proc/meminfo", f"MemTotal: 999 kB\nMemAvailable: {100 * GB // 1024} kB\n")
    return write


def test_a_machine_without_groups_has_what_it_has(machine):
    assert (usable_cores(), usable_memory()) == (64, 100 * GB)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("flags\t\t: fpu avx512f avx512_bf16 amx_tile\n", True),
        ("Features\t: fp asimd bf16 i8mm\n", True),
        ("flags\t\t: fpu avx512f avx512_vnni\n", False),
    ],
)
def test_bfloat16_is_told_by_x86_and_arm(machine, line, expected):
    machine("proc/cpuinfo", f"processor\t: 0\n{line}")
    assert has_bf16() is expected


def test_nothing_tells_of_bfloat16_elsewhere(machine):
    assert not has_bf16()


def test_affinity_counts(machine, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3})
    assert usable_cores() == 1


@pytest.mark.parametrize(("quota", "expected"), [("200000 100000", 2), ("150000 100000", 1), ("5000 100000", 1)])
def test_the_tightest_group_of_version_2_counts(machine, quota, expected):
    machine("proc/self/cgroup", "0::/pod/container\n")
    machine("cgroup/pod/container/cpu.max", "max 100000\n")
    machine("cgroup/pod/cpu.max", f"{quota}\n")
    machine("cgroup/pod/container/memory.max", f"{8 * GB}\n")
    machine("cgroup/pod/container/memory.current", f"{3 * GB}\n")
    machine("cgroup/pod/memory.max", "max\n")
    assert (usable_cores(), usable_memory()) == (expected, 5 * GB)
    machine("cgroup/pod/container/memory.stat", f"active_file 7\ninactive_file {GB}\n")  # the kernel drops these
    assert usable_memory() == 6 * GB


def test_groups_of_version_1_count_though_their_name_is_the_hosts(machine):
    machine("proc/self/cgroup", "5:memory:/docker/4ac1\n3:cpu,cpuacct:/docker/4ac1\n")
    machine("cgroup/cpu,cpuacct/cpu.cfs_quota_us", "400000\n")
    machine("cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000\n")
    machine("cgroup/memory/memory.limit_in_bytes", f"{2 * GB}\n")
    machine("cgroup/memory/memory.usage_in_bytes", f"{GB}\n")
    assert (usable_cores(), usable_memory()) == (4, GB)


def test_no_quota_is_no_limit(machine):
    machine("proc/self/cgroup", "3:cpu:/\n")
    machine("cgroup/cpu/cpu.cfs_quota_us", "-1\n")
    machine("cgroup/cpu/cpu.cfs_period_us", "100000\n")
    assert usable_cores() == 64
