"""A container's memory is its control group's, not the machine's."""

import pytest
import torch

from vaesc import cgroup

MIB = 1 << 20


def group(folder, limit, usage, droppable=0, *, version=2):
    folder.mkdir(parents=True, exist_ok=True)
    names = ("memory.max", "memory.current", "inactive_file")
    if version == 1:
        names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
    (folder / names[0]).write_text(f"{limit}\n")
    (folder / names[1]).write_text(f"{usage}\n")
    (folder / "memory.stat").write_text(f"anon 1\n{names[2]} {droppable}\n")


@pytest.fixture
def process(tmp_path):
    def of(*lines):
        (tmp_path / "cgroup").write_text("\n".join(lines))
        return cgroup.free_bytes(tmp_path / "cgroup", tmp_path / "mounted")

    return of


def test_version_2_in_a_container(tmp_path, process):
    group(tmp_path / "mounted", 1024 * MIB, 700 * MIB, 100 * MIB)
    assert process("0::/") == 424 * MIB
    assert process("0::/kubepods/pod1/abc") == 424 * MIB, "the machine's name for it"


def test_version_1(tmp_path, process):
    group(tmp_path / "mounted" / "memory", 1 << 63, 5 * MIB, version=1)
    lines = ("5:cpu,cpuacct:/job", "4:memory:/job", "0::/")
    assert process(*lines) is None
    group(tmp_path / "mounted" / "memory" / "job", 64 * MIB, 5 * MIB, version=1)
    assert process(*lines) == 59 * MIB


def test_the_tightest_group_on_the_way_up_decides(tmp_path, process):
    group(tmp_path / "mounted" / "a" / "b", 512 * MIB, 12 * MIB)
    group(tmp_path / "mounted" / "a", 256 * MIB, 200 * MIB)
    assert process("0::/a/b") == 56 * MIB


def test_more_than_the_limit_leaves_nothing(tmp_path, process):
    group(tmp_path / "mounted", 10 * MIB, 11 * MIB)
    assert process("0::/") == 0


def test_no_limit_is_none(tmp_path, process):
    assert process("0::/") is None
    assert process("nonsense") is None
    group(tmp_path / "mounted", "max", 11 * MIB)
    assert process("0::/") is None
    assert cgroup.free_bytes(tmp_path / "nowhere") is None


def test_training_keeps_to_it(monkeypatch):
    from vaesc.training.streamed import free_bytes

    monkeypatch.setattr("vaesc.cgroup.free_bytes", lambda: 7 * MIB)
    assert free_bytes(torch.device("cpu")) == 7 * MIB
    monkeypatch.setattr("vaesc.cgroup.free_bytes", lambda: None)
    assert free_bytes(torch.device("cpu")) > 7 * MIB


def test_cores_are_the_time_allowed_in_a_period(tmp_path):
    mounted, proc = tmp_path / "mounted", tmp_path / "cgroup"
    proc.write_text("0::/pod/abc\n")
    (mounted / "pod" / "abc").mkdir(parents=True)
    assert cgroup.cores(proc, mounted) is None
    (mounted / "pod" / "abc" / "cpu.max").write_text("max 100000\n")
    assert cgroup.cores(proc, mounted) is None
    (mounted / "pod" / "cpu.max").write_text("150000 100000\n")
    assert cgroup.cores(proc, mounted) == 1.5
    first = tmp_path / "first"
    proc.write_text("3:cpu,cpuacct:/job\n0::/\n")
    (first / "cpu" / "job").mkdir(parents=True)
    (first / "cpu" / "job" / "cpu.cfs_period_us").write_text("50000\n")
    for quota, expected in (("-1", None), ("200000", 4.0)):
        (first / "cpu" / "job" / "cpu.cfs_quota_us").write_text(f"{quota}\n")
        assert cgroup.cores(proc, first) == expected


def test_what_is_allowed_is_the_tightest_limit_whatever_is_used(tmp_path):
    places = (tmp_path / "cgroup", tmp_path / "mounted")
    places[0].write_text("0::/a/b")
    assert cgroup.allowed_bytes(*places) is None
    group(places[1] / "a" / "b", 512 * MIB, 12 * MIB)
    group(places[1] / "a", 256 * MIB, 200 * MIB)
    assert cgroup.allowed_bytes(*places) == 256 * MIB


def test_a_claim_is_held_against_the_container_too(monkeypatch):
    from vaesc.datasets.files import check_memory
    from vaesc.errors import DataError

    check_memory("x.npz", 2 * MIB)
    monkeypatch.setattr("vaesc.cgroup.allowed_bytes", lambda: MIB)
    check_memory("x.npz", MIB)
    with pytest.raises(DataError, match=r"more than the memory of this container .* 1048576"):
        check_memory("x.npz", 2 * MIB)
    monkeypatch.setattr("vaesc.cgroup.allowed_bytes", lambda: 1 << 59)
    with pytest.raises(DataError, match="more than this machine's memory of"):
        check_memory("x.npz", 1 << 58)
