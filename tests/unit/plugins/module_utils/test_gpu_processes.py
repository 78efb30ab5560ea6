"""Processes on GPUs: what is learned of them from /proc, by control group and by ancestry."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.gpulab.fleet.plugins.module_utils import _gpu_processes as processes

ID = "0123456789abcdef" * 4
HERTZ = os.sysconf("SC_CLK_TCK")


class NVMLError(Exception):
    pass


class Library:
    """NVML as pynvml shows it: two GPUs, the second divided in one instance."""

    NVMLError = NVMLError
    on: dict[str, list[Any]]

    def __init__(self, **on: list[int]) -> None:
        self.on = {
            uuid: [SimpleNamespace(pid=pid, usedGpuMemory=pid * 10) for pid in pids] for uuid, pids in on.items()
        }

    def nvmlDeviceGetCount(self) -> int:
        return 3

    def nvmlDeviceGetHandleByIndex(self, index: int) -> str:
        if index == 2:
            raise NVMLError("lost")
        return f"gpu{index}"

    def nvmlDeviceGetUUID(self, handle: str) -> str:
        return handle

    def nvmlDeviceGetMigMode(self, handle: str) -> list[int]:
        if handle == "gpu0":
            raise NVMLError("not supported")
        return [1, 1]

    def nvmlDeviceGetMaxMigDeviceCount(self, _handle: str) -> int:
        return 2

    def nvmlDeviceGetMigDeviceHandleByIndex(self, _handle: str, number: int) -> str:
        if number:
            raise NVMLError("no such instance")
        return "mig0"

    def nvmlDeviceGetComputeRunningProcesses(self, handle: str) -> list[Any]:
        return self.on.get(handle, [])

    def nvmlDeviceGetGraphicsRunningProcesses(self, handle: str) -> list[Any]:
        if handle == "mig0":
            raise NVMLError("not supported")
        return self.on.get(handle, [])


def process(proc: Path, pid: int, parent: int, command: bytes, cgroup: str = "0::/\n") -> None:
    place = proc / str(pid)
    place.mkdir(parents=True)
    (place / "cmdline").write_bytes(command)
    (place / "comm").write_text("kworker\n")
    (place / "cgroup").write_text(cgroup)
    fields = ["S", str(parent), *["0"] * 17, str(5 * HERTZ)]
    (place / "stat").write_text(f"{pid} (a ) b) {' '.join(fields)} 0 0\n")


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    (tmp_path / "stat").write_text("cpu 1 2\nbtime 1700000000\n")
    process(tmp_path, 1, 0, b"/sbin/init\0")
    process(tmp_path, 10, 1, b"python\0train.py\0--name\0a b\0")
    process(tmp_path, 20, 1, f"/usr/bin/containerd-shim-runc-v2\0-namespace\0moby\0-id\0{ID}\0-address\0/x\0".encode())
    process(tmp_path, 21, 20, b"sh\0-c\0x\0")
    process(tmp_path, 22, 21, b"python\0serve.py\0")
    process(tmp_path, 30, 1, b"python\0", f"0::/user.slice/docker-{ID}.scope\n")
    process(tmp_path, 40, 1, b"")
    return tmp_path


def test_a_process_outside_containers(proc: Path) -> None:
    seen = processes.describe(10, "compute", 7, proc)
    assert seen.command == "python train.py --name a b"
    assert seen.since == "2023-11-14T22:13:25Z"
    assert seen.uid == os.geteuid() and seen.container == ""


@pytest.mark.parametrize("pid", [22, 30])
def test_a_process_in_a_container(proc: Path, pid: int) -> None:
    assert processes.describe(pid, proc=proc).container == ID


def test_kernel_threads_and_processes_that_are_gone(proc: Path) -> None:
    assert processes.describe(40, proc=proc).command == "[kworker]"
    assert processes.describe(99, "graphics", 5, proc) == processes.Process(99, "graphics", 5)


@pytest.mark.parametrize(
    ("uid", "name"),
    [(0, "root"), (300999, "ada"), (365536, "uid 365536"), (400000, "root"), (500000, "uid 987654321")],
)
def test_owners(tmp_path: Path, uid: int, name: str) -> None:
    (tmp_path / "subuid").write_text("ada:300000:65536\n0:400000:10\n987654321:500000:10\n")
    assert processes.name_of(uid, tmp_path) == name


def test_ancestors_that_go_in_circles_end(tmp_path: Path) -> None:
    process(tmp_path, 5, 6, b"a\0")
    process(tmp_path, 6, 5, b"b\0")
    assert processes.container_of(5, tmp_path) == ""


def test_each_process_once_on_every_gpu_and_instance(proc: Path) -> None:
    found = processes.by_gpu(Library(gpu0=[22, 10], mig0=[30]), proc)
    assert {uuid: [each.pid for each in there] for uuid, there in found.items()} == {
        "gpu0": [10, 22],
        "gpu1": [],
        "mig0": [30],
    }
    assert found["gpu0"][0].memory == 100 and found["gpu0"][0].kind == "compute"
