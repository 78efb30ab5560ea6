"""What an engine says, who owns a container, and an engine that is not there."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.gpulab.fleet.plugins.module_utils import _docker
from ansible_collections.gpulab.fleet.plugins.module_utils._catalogue import catalogue
from ansible_collections.gpulab.fleet.plugins.module_utils._errors import FleetError

START = (
    "failed to create task for container: failed to create shim task: OCI runtime create failed: runc create failed: "
    "unable to start container process: error during container init: "
)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("CDI device injection failed: unresolvable CDI devices nvidia.com/gpu=7", "PROOF_CDI_UNRESOLVED"),
        ("CDI device injection failed: unresolvable CDI devices nvidia.com/gpu=7: unknown.", "PROOF_CDI_UNRESOLVED"),
        ('could not select device driver "cdi" with capabilities: []', "PROOF_CDI_OFF"),
        (
            f'{START}error mounting "/usr/lib/x86_64-linux-gnu/libcuda.so.550.163.01" to rootfs at '
            '"/usr/lib/x86_64-linux-gnu/libcuda.so.550.163.01": stat …: no such file or directory: unknown.',
            "PROOF_SPEC_STALE",
        ),
        (
            f"{START}error creating device nodes: mount /dev/nvidia0:/home/ann/.local/share/docker/overlay2/ab/merged"
            "/dev/nvidia0 (via /proc/self/fd/6), flags: 0x1000: no such file or directory",
            "PROOF_NODE_MISSING",
        ),
        (
            f"{START}error creating device nodes: mount /dev/nvidia-uvm:/x/merged/dev/nvidia-uvm "
            "(via /proc/self/fd/6), flags: 0x1000: no such file or directory",
            "UVM_MISSING",
        ),
        ('failed to stat CDI host device "/dev/nvidia1": no such file or directory', "PROOF_NODE_MISSING"),
        (
            f"{START}error running hook #0: fork/exec /usr/bin/nvidia-cdi-hook: no such file or directory",
            "PROOF_HOOK_MISSING",
        ),
        (
            f"{START}error running hook #0: error running hook: exit status 1, stdout: , stderr: failed to update ldcache",
            "PROOF_HOOK_FAILED",
        ),
        (
            "failed to create task for container: failed to start shim: start failed: unsupported shim version (3): "
            "not implemented",
            "PROOF_ENGINE_STALE",
        ),
        ("mkdir /home/ann/.local/share/docker/overlay2/x-init: no space left on device", "PROOF_DISK_FULL"),
        ("something nobody has seen before", "PROOF_CONTAINER_FAILED"),
    ],
)
def test_classify(text: str, code: str) -> None:
    assert _docker.classify(text) == code
    assert code in catalogue()


@pytest.mark.parametrize(
    ("text", "broken"),
    [
        ("exec /usr/bin/python3.11: exec format error", True),
        ("python3: error while loading shared libraries: libz.so.1: cannot open shared object file", True),
        ('exec: "/usr/bin/python3.11": stat /usr/bin/python3.11: no such file or directory', True),
        ("No such image: gpulab/probe:1234", True),
        ("unresolvable CDI devices nvidia.com/gpu=0", False),
        ("no space left on device", False),
        ("", False),
    ],
)
def test_image_is_broken(text: str, broken: bool) -> None:
    assert _docker.image_is_broken(text) is broken


def test_short_leaves_what_matters() -> None:
    text = (
        f"{START}error creating device nodes: mount /dev/nvidia0:/home/a/docker/overlay2/9/merged/dev/nvidia0 (via x)"
    )
    error: Any = SimpleNamespace(explanation=text.encode())
    assert _docker.short(error) == "error creating device nodes: mount /dev/nvidia0 (via x)"


def test_a_process_is_known_by_number_and_start() -> None:
    assert _docker.is_alive(_docker.process_token())
    child = subprocess.Popen(["sleep", "60"])
    token = _docker.process_token(child.pid)
    assert _docker.is_alive(token)
    boot, pid, _start = token.split(":")
    assert not _docker.is_alive(f"{boot}:{pid}:1")
    assert not _docker.is_alive(f"other-boot:{pid}:{_start}")
    child.kill()
    child.wait()
    assert not _docker.is_alive(token)


@pytest.mark.parametrize("token", ["", "nonsense", "a:b:c", "a:999999999:1"])
def test_what_is_no_process_is_not_alive(token: str) -> None:
    assert not _docker.is_alive(token)


def test_unknown_user() -> None:
    with pytest.raises(FleetError) as raised:
        _docker.socket_of("nobody-of-that-name")
    assert raised.value.code == "PROOF_USER_UNKNOWN"


def test_missing_sdk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(_docker, "import_module", missing)
    with pytest.raises(FleetError) as raised:
        _docker.load_sdk(str(tmp_path))
    assert raised.value.code == "PYTHON_PARTS_MISSING"


def engine(path: Path) -> FleetError:
    with pytest.raises(FleetError) as raised:
        _docker.Engine(_docker.load_sdk("/nowhere"), str(path), time.monotonic() + 2)
    return raised.value


def test_no_socket(tmp_path: Path) -> None:
    assert engine(tmp_path / "docker.sock").code == "PROOF_ENGINE_ABSENT"


def test_a_file_that_is_no_socket(tmp_path: Path) -> None:
    (tmp_path / "docker.sock").touch()
    assert engine(tmp_path / "docker.sock").code == "PROOF_ENGINE_ABSENT"


def test_a_socket_that_nobody_listens_on(tmp_path: Path) -> None:
    # The folder of tmp_path can be longer than a socket's address may be.
    here = os.open(tmp_path, os.O_RDONLY)
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(f"/proc/self/fd/{here}/docker.sock")
    error = engine(Path(f"/proc/self/fd/{here}/docker.sock"))
    os.close(here)
    assert error.code == "PROOF_ENGINE_DEAD"
