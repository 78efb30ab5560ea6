"""A made-up host for the checks: a tree of files and canned answers, healthy unless a test changes it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.gpulab.fleet.plugins.module_utils._health_view import (
    Account,
    HostView,
    Node,
    Result,
    Space,
    Unreadable,
)

GIB = 1024**3
UUIDS = ("GPU-12345678-1234-1234-1234-123456780000", "GPU-12345678-1234-1234-1234-123456780001")
SPECS = "/var/lib/gpulab/cdi"
DAEMON = "/home/alice/.config/docker/daemon.json"
CONTEXT = f"/home/alice/.docker/contexts/meta/{hashlib.sha256(b'rootless').hexdigest()}/meta.json"


def package(name: str, version: str, status: str = "install ok installed") -> str:
    return f"Package: {name}\nStatus: {status}\nVersion: {version}\n\n"


def spec(*gpus: int, **changes: Any) -> str:
    """A user's CDI spec of some GPUs."""
    node = {"path": "/dev/nvidia-uvm", "major": 511} | changes.pop("uvm", {})
    edits = {
        "deviceNodes": [{"path": "/dev/nvidiactl", "major": 195, "minor": 255}, node],
        "mounts": [{"hostPath": path} for path in changes.pop("files", ["/usr/lib/x86_64-linux-gnu/libcuda.so.550.1"])],
        "hooks": [{"path": "/usr/bin/nvidia-cdi-hook", "hookName": "createContainer"}],
    }
    devices = [
        {"name": name, "containerEdits": {"deviceNodes": [{"path": f"/dev/nvidia{gpu}", "major": 195, "minor": gpu}]}}
        for gpu in gpus
        for name in (str(gpu), UUIDS[gpu])
    ]
    return json.dumps({"cdiVersion": "0.5.0", "kind": "nvidia.com/gpu", "devices": devices, "containerEdits": edits})


PACKAGES = {
    "docker-ce": "5:28.5.2-1~ubuntu.22.04~jammy",
    "nvidia-container-toolkit-base": "1.20.0-1",
    "libnvidia-compute-550": "550.1-0ubuntu1",
}
SMI_ROWS = "".join(
    f"{i}, {uuid}, NVIDIA A100-SXM4-40GB, 40960, 550.1, 00000000:0{i}:00.0\n" for i, uuid in enumerate(UUIDS)
)
UNIT = "LoadState=loaded\nActiveState={0}\nSubState={1}\nResult={2}\nUnitFileState={3}\nMainPID=7\n"
RUNNING = UNIT.format("active", "running", "success", "enabled")
ABSENT_UNIT = "LoadState=not-found\nActiveState=inactive\nSubState=dead\nResult=success\nUnitFileState=\nMainPID=0\n"
MASKED_UNIT = "LoadState=masked\nActiveState=inactive\nSubState=dead\nResult=success\nUnitFileState=masked\nMainPID=0\n"

FILES: dict[str, str] = {
    "/etc/os-release": 'NAME="Ubuntu"\nID=ubuntu\nVERSION_ID="22.04"\nVERSION_CODENAME=jammy\nPRETTY_NAME="Ubuntu 22.04.5 LTS"\n',
    "/etc/passwd": "root:x:0:0::/root:/bin/bash\nalice:x:1000:1000::/home/alice:/bin/bash\n",
    "/etc/subuid": "alice:100000:65536\n",
    "/etc/subgid": "alice:100000:65536\n",
    "/run/systemd/system/.keep": "",
    "/proc/1/comm": "systemd\n",
    "/proc/self/mountinfo": (
        "1 0 8:1 / / rw - ext4 /dev/sda1 rw\n"
        "2 1 0:2 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"
        "3 1 8:2 / /home rw - ext4 /dev/sda2 rw\n"
    ),
    "/proc/sys/user/max_user_namespaces": "28633\n",
    "/proc/sys/kernel/unprivileged_userns_clone": "1\n",
    "/proc/locks": "",
    "/proc/devices": "Character devices:\n  1 mem\n195 nvidia\n511 nvidia-uvm\n\nBlock devices:\n  8 sd\n",
    "/proc/driver/nvidia/version": "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.1  Mon\nGCC version: 11\n",
    "/proc/70/comm": "dockerd\n",
    "/usr/bin/dockerd": "",
    "/sys/fs/cgroup/cgroup.controllers": "cpuset cpu io memory pids\n",
    "/sys/fs/cgroup/user.slice/user-1000.slice/user@1000.service/cgroup.controllers": "cpuset cpu io memory pids\n",
    "/sys/bus/pci/devices/0000:07:00.0/vendor": "0x10de\n",
    "/sys/bus/pci/devices/0000:07:00.0/class": "0x030200\n",
    "/usr/lib/x86_64-linux-gnu/libnvidia-ml.so.550.1": "",
    "/usr/lib/x86_64-linux-gnu/libcuda.so.550.1": "",
    "/usr/bin/nvidia-cdi-hook": "",
    "/usr/bin/nvidia-ctk": "",
    "/dev/nvidia0": "",
    "/dev/nvidia1": "",
    "/dev/nvidiactl": "",
    "/dev/nvidia-uvm": "",
    "/etc/apt/sources.list": "deb http://archive.ubuntu.com/ubuntu jammy main\n",
    "/etc/apt/sources.list.d/docker.sources": (
        "Types: deb\nURIs: https://download.docker.com/linux/ubuntu\nSuites: jammy\nComponents: stable\n"
        "Signed-By: /etc/apt/keyrings/docker.asc\n"
    ),
    "/etc/gpulab/cdi.json": json.dumps({"users": {"alice": "all"}}),
    f"{SPECS}/alice/nvidia.json": spec(0, 1),
    "/home/alice/.config/systemd/user/docker.service": "[Service]\n",
    DAEMON: json.dumps({"features": {"cdi": True}, "cdi-spec-dirs": [f"{SPECS}/alice"]}),
    "/home/alice/.docker/config.json": json.dumps({"currentContext": "rootless"}),
    CONTEXT: json.dumps({"Endpoints": {"docker": {"Host": "unix:///run/user/1000/docker.sock"}}}),
    "/home/alice/.local/share/docker/.keep": "",
    "/var/lib/systemd/linger/alice": "",
    "/run/user/1000/systemd/.keep": "",
    "/run/user/1000/bus": "",
}
COMMANDS: dict[str, Result | Unreadable | None] = {
    "systemctl --version": Result(0, "systemd 249 (249.11-0ubuntu3)\n", ""),
    "systemctl show docker.service": Result(0, MASKED_UNIT, ""),
    "systemctl show kubelet.service": Result(0, ABSENT_UNIT, ""),
    "systemctl --user show docker.service": Result(0, RUNNING, ""),
    "nvidia-smi": Result(0, SMI_ROWS, ""),
    "journalctl": Result(0, "Linux version 5.15\nNVRM: loading NVIDIA UNIX x86_64 Kernel Module\n", ""),
    "apt-config dump": Result(0, 'APT::Periodic::Unattended-Upgrade "1";\n', ""),
}
SOCKETS: dict[str, dict[str, Any]] = {
    "/run/user/1000/docker.sock": {
        "/info": {"ServerVersion": "28.5.2", "Driver": "overlay2", "ContainersRunning": 1, "Containers": 1},
        "/containers/json": [],
    }
}


class FakeHost(HostView):
    """Answers from what a test put into it."""

    def __init__(self, root: Path, **parts: Any) -> None:
        super().__init__(str(root), parts.get("users"), parts.get("settings"), parts.get("controller_time"))
        self.parts = parts
        self.uid = parts.get("uid", 0)

    def kernel(self) -> tuple[str, str]:
        return "5.15.0-91-generic", self.parts.get("machine", "x86_64")

    def node(self, name: str) -> Node | None:
        seen = super().node(name)
        if seen is None:
            return None
        known = Node(0o666, 0, 0, None, seen.inode, acl=False)
        if name.startswith("/dev/nvidia"):
            known = known._replace(device=(511 if "uvm" in name else 195, 0))
        if name.startswith(("/home/alice", "/proc/7")):
            known = known._replace(uid=1000)
        return known._replace(**self.parts["nodes"].get(name, {}))

    def space(self, name: str) -> Space:
        return self.parts["spaces"].get(name, Space(900 * GIB, 300 * GIB, 1000, 900))

    def run(self, argv: list[str], timeout: float = 10, account: Account | None = None) -> Result | None:
        line = " ".join(argv)
        known = [key for key in self.parts["commands"] if line == key or line.startswith(key + " ")]
        answer = self.parts["commands"][max(known, key=len)] if known else None
        if isinstance(answer, Unreadable):
            raise answer
        return answer

    def read(self, name: str) -> str | None:
        if name in self.parts["closed"]:
            raise Unreadable(name, "Permission denied")
        return super().read(name)

    def exists(self, name: str) -> bool:
        if name in self.parts["closed"]:
            raise Unreadable(name, "Permission denied")
        return super().exists(name)

    def api(self, socket: str, request: str, timeout: float = 5) -> Any:
        answers = self.parts["sockets"].get(socket)
        if isinstance(answers, Unreadable):
            raise answers
        return None if answers is None else answers.get(request, answers.get(request.partition("?")[0]))


MakeHost = Callable[..., FakeHost]


@pytest.fixture
def make_host(tmp_path: Path) -> MakeHost:
    """A healthy host with changes.

    files     contents that differ; None takes a file away
    packages  likewise versions, or (version, dpkg status)
    links, commands, sockets, nodes, spaces, closed  as FakeHost has them; the rest goes to HostView
    """

    def make(**changes: Any) -> FakeHost:
        files: dict[str, str | None] = {**FILES, **changes.pop("files", {})}
        if "/var/lib/dpkg/status" not in files:
            packages = {**PACKAGES, **changes.pop("packages", {})}
            entries = [
                (name, known if isinstance(known, tuple) else (known,)) for name, known in packages.items() if known
            ]
            files["/var/lib/dpkg/status"] = "".join(package(name, *known) for name, known in entries)
        for name, text in files.items():
            if text is not None:
                path = tmp_path / name.lstrip("/")
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text, encoding="utf-8")
        for name, target in {"/proc/70/exe": "/usr/bin/dockerd", **changes.pop("links", {})}.items():
            (tmp_path / name.lstrip("/")).symlink_to(target)
        for part, base in (("commands", COMMANDS), ("sockets", SOCKETS), ("nodes", {}), ("spaces", {})):
            changes[part] = {**base, **changes.get(part, {})}
        changes.setdefault("closed", ())
        return FakeHost(tmp_path, **changes)

    return make
