"""The memory that this process may use, as the kernel's files state it for control groups of both versions."""

import os
from pathlib import Path
from typing import Final

import pytest

from derper.host.memory import usable_memory

MACHINE: Final = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
V2: Final = "31 24 0:27 {group} {point} rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n"
V1: Final = "36 32 0:30 {group} {point} rw,nosuid shared:15 - cgroup cgroup rw,memory\n"
OTHER: Final = (
    "24 30 0:22 / /proc rw,nosuid shared:13 - proc proc rw\n"
    "37 32 0:31 / /sys/fs/cgroup/cpu rw,nosuid shared:16 - cgroup cgroup rw,cpu,cpuacct\n"
)


def system(root: Path, groups: str, mounts: str, limits: dict[str, str]) -> Path:
    """Write the files of the kernel."""
    files = {"proc/self/cgroup": groups, "proc/self/mountinfo": OTHER + mounts, **limits}
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_without_control_groups_the_limit_is_the_machines_memory(tmp_path: Path) -> None:
    assert usable_memory(tmp_path) == MACHINE


def test_the_limit_of_a_unit_applies(tmp_path: Path) -> None:
    unit = "/system.slice/derper.service"
    limits = {f"sys/fs/cgroup{unit}/memory.max": "100000000\n", "sys/fs/cgroup/system.slice/memory.max": "max\n"}
    mounts = V2.format(group="/", point="/sys/fs/cgroup")
    assert usable_memory(system(tmp_path, f"0::{unit}\n", mounts, limits)) == 100_000_000


def test_the_lowest_limit_of_all_parent_groups_applies(tmp_path: Path) -> None:
    limits = {
        "sys/fs/cgroup/a.slice/b.service/memory.max": "300000000\n",
        "sys/fs/cgroup/a.slice/memory.max": "200000000\n",
    }
    mounts = V2.format(group="/", point="/sys/fs/cgroup")
    assert usable_memory(system(tmp_path, "0::/a.slice/b.service\n", mounts, limits)) == 200_000_000


def test_version_1_beside_version_2_mounted_elsewhere(tmp_path: Path) -> None:
    groups = "9:cpu,cpuacct:/x\n5:memory:/docker/abc\n0::/docker/abc\n"
    mounts = V1.format(group="/", point="/mnt/my\\040groups") + V2.format(group="/", point="/mnt/unified")
    limits = {"mnt/my groups/docker/abc/memory.limit_in_bytes": "150000000\n"}
    assert usable_memory(system(tmp_path, groups, mounts, limits)) == 150_000_000


@pytest.mark.parametrize(("group", "mounted"), [("/docker/abc", "/docker/abc"), ("/", "/"), ("/../../x", "/../../x")])
def test_a_container_sees_its_own_group_at_the_mount_point(tmp_path: Path, group: str, mounted: str) -> None:
    mounts = V1.format(group=mounted, point="/sys/fs/cgroup/memory")
    limits = {"sys/fs/cgroup/memory/memory.limit_in_bytes": "120000000\n"}
    assert usable_memory(system(tmp_path, f"5:memory:{group}\n", mounts, limits)) == 120_000_000


def test_a_group_outside_the_namespace_has_the_limit_of_the_mount_point(tmp_path: Path) -> None:
    mounts = V2.format(group="/", point="/sys/fs/cgroup")
    limits = {"sys/fs/cgroup/memory.max": "110000000\n"}
    assert usable_memory(system(tmp_path, "0::/../other\n", mounts, limits)) == 110_000_000


def test_a_huge_number_means_no_limit_in_version_1(tmp_path: Path) -> None:
    mounts = V1.format(group="/", point="/sys/fs/cgroup/memory")
    limits = {"sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n"}
    assert usable_memory(system(tmp_path, "5:memory:/\n", mounts, limits)) == MACHINE


def test_files_that_cannot_be_parsed_are_ignored(tmp_path: Path) -> None:
    mounts = V2.format(group="/", point="/sys/fs/cgroup") + "short line\n - cgroup2\n"
    assert usable_memory(system(tmp_path, "nonsense\n0::/a\n", mounts, {"sys/fs/cgroup/a/memory.max": "x"})) == MACHINE
