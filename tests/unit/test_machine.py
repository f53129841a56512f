"""Cores and memory of a container are those that it may use, not those of its machine: over trees of both cgroups."""

import os
from pathlib import Path

import pytest

from sft import resources

GIB = 2**30
MEMINFO = f"MemTotal: {128 * 2**20} kB\nMemFree: 1000 kB\nMemAvailable:   {100 * 2**20} kB\n"


def tree(root: Path, **files: str) -> Path:
    """A root of a file system with these files, / written as two underscores."""
    for name, content in {"proc__meminfo": MEMINFO, "proc__sys__kernel__random__boot_id": "one\n", **files}.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return root


@pytest.fixture(autouse=True)
def many_cores(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(128)))


def test_without_control_groups_the_affinity_and_the_machines_memory_count(tmp_path):
    root = tree(tmp_path)
    assert resources.cores(root) == 128
    assert resources.memory_limits(root) == {"machine one": 100 * GIB}


def test_a_container_of_cgroup_v2_has_its_quota(tmp_path):
    root = tree(
        tmp_path,
        proc__self__cgroup="0::/\n",
        **{
            "sys__fs__cgroup__cpu.max": "450000 100000\n",
            "sys__fs__cgroup__memory.max": f"{16 * GIB}\n",
            "sys__fs__cgroup__memory.current": f"{10 * GIB}\n",
            "sys__fs__cgroup__memory.stat": f"anon {7 * GIB}\nfile {3 * GIB}\ninactive_file {2 * GIB}\nactive_file 1\n",
        },
    )
    assert resources.cores(root) == 4
    assert resources.available_bytes(root) == 8 * GIB + 1


def test_a_job_of_cgroup_v2_has_the_least_of_its_group_and_those_above(tmp_path):
    root = tree(
        tmp_path,
        proc__self__cgroup="0::/slurm/job_7/step_0\n",
        **{
            "sys__fs__cgroup__slurm__job_7__step_0__cpu.max": "max 100000\n",
            "sys__fs__cgroup__slurm__job_7__step_0__memory.max": "max\n",
            "sys__fs__cgroup__slurm__job_7__step_0__memory.current": "5\n",
            "sys__fs__cgroup__slurm__job_7__cpu.max": "50000 100000\n",
            "sys__fs__cgroup__slurm__job_7__memory.max": f"{200 * GIB}\n",
            "sys__fs__cgroup__slurm__job_7__memory.current": f"{150 * GIB}\n",
            "sys__fs__cgroup__slurm__memory.max": f"{300 * GIB}\n",
            "sys__fs__cgroup__slurm__memory.current": f"{160 * GIB}\n",
        },
    )
    assert resources.cores(root) == 1
    assert sorted(resources.memory_limits(root).values()) == [50 * GIB, 100 * GIB, 140 * GIB]
    assert resources.available_bytes(root) == 50 * GIB


def test_a_container_of_cgroup_v1_whose_path_is_right_outside_of_it_alone_has_its_quota(tmp_path):
    root = tree(
        tmp_path,
        proc__self__cgroup="4:memory:/docker/abc\n3:cpu,cpuacct:/docker/abc\n0::/system.slice\n",
        **{
            "sys__fs__cgroup__cpu,cpuacct__cpu.cfs_quota_us": "400000\n",
            "sys__fs__cgroup__cpu,cpuacct__cpu.cfs_period_us": "100000\n",
            "sys__fs__cgroup__memory__memory.limit_in_bytes": f"{32 * GIB}\n",
            "sys__fs__cgroup__memory__memory.usage_in_bytes": f"{32 * GIB}\n",
            "sys__fs__cgroup__memory__memory.stat": (
                f"inactive_file 1\ntotal_inactive_file {4 * GIB}\ntotal_active_file {2 * GIB}\n"
            ),
        },
    )
    assert resources.cores(root) == 4
    assert resources.available_bytes(root) == 6 * GIB


def test_a_group_of_cgroup_v1_without_limits_has_the_machines(tmp_path):
    root = tree(
        tmp_path,
        proc__self__cgroup="4:memory:/\n3:cpu:/\n",
        **{
            "sys__fs__cgroup__cpu__cpu.cfs_quota_us": "-1\n",
            "sys__fs__cgroup__cpu__cpu.cfs_period_us": "100000\n",
            "sys__fs__cgroup__memory__memory.limit_in_bytes": "9223372036854771712\n",
            "sys__fs__cgroup__memory__memory.usage_in_bytes": "1000\n",
        },
    )
    assert resources.cores(root) == 128
    assert resources.memory_limits(root) == {"machine one": 100 * GIB}


@pytest.mark.parametrize(
    ("groups", "files"),
    [
        ("0::/\n", {"sys__fs__cgroup__memory.events": "low 0\noom 3\noom_kill 2\noom_group_kill 0\n"}),
        ("9:memory:/\n", {"sys__fs__cgroup__memory__memory.oom_control": "oom_kill_disable 0\noom_kill 2\n"}),
    ],
)  # fmt: skip
def test_processes_that_the_kernel_killed_for_memory_are_counted(tmp_path, groups, files):
    assert resources.memory_kills(tree(tmp_path, proc__self__cgroup=groups, **files)) == 2


def test_no_group_has_killed_nothing(tmp_path):
    assert resources.memory_kills(tree(tmp_path)) == 0
