"""A host's root folder with a driver's traces, and an nvidia-ctk that describes it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ansible_collections.gpulab.fleet.plugins.module_utils._cdi import Tools

UUIDS = ("GPU-00000000-0000-0000-0000-00000000000a", "GPU-00000000-0000-0000-0000-00000000000b")
LIBCUDA = "/usr/lib/x86_64-linux-gnu/libcuda.so.550.163.01"
SOCKET = "/run/nvidia-persistenced/socket"
CONTROL = ("/dev/nvidia-uvm", "/dev/nvidia-uvm-tools", "/dev/nvidiactl")

# Answers as the real one does: the whole spec or the asked devices on stdout, logs on stderr.
NVIDIA_CTK = """#!/usr/bin/python3
import json, pathlib, sys
here = pathlib.Path(__file__).parent
with (here / "calls").open("a") as calls:
    calls.write(" ".join(sys.argv[1:]) + "\\n")
if (here / "error").exists():
    sys.exit((here / "error").read_text() and print((here / "error").read_text(), file=sys.stderr) or 1)
spec = json.loads((here / "spec.json").read_text())
asked = [value for flag, value in zip(sys.argv, sys.argv[1:]) if flag == "--device-id"]
if asked:
    nodes = {d["name"]: d["containerEdits"]["deviceNodes"] for d in spec["devices"] if d["name"] != "all"}
    mine = [node for name in asked for node in nodes[name]]
    spec["devices"] = [{"name": n, "containerEdits": {"deviceNodes": v}} for n, v in nodes.items() if v[0] in mine]
    spec["devices"].append({"name": "all", "containerEdits": {"deviceNodes": mine}})
print(json.dumps(spec), end="")
"""


def node(path: str) -> dict[str, Any]:
    return {"path": path, "major": 195, "fileMode": 438, "permissions": "rwm"}


def device(name: str, *paths: str) -> dict[str, Any]:
    return {"name": name, "containerEdits": {"deviceNodes": [node(path) for path in paths]}}


def mount(path: str) -> dict[str, Any]:
    return {"hostPath": path, "containerPath": path, "options": ["ro", "nosuid", "nodev", "rbind", "rprivate"]}


def two_gpus() -> dict[str, Any]:
    """A spec of the shape that nvidia-ctk 1.20 writes for two GPUs."""
    return {
        "cdiVersion": "0.5.0",
        "kind": "nvidia.com/gpu",
        "devices": [
            device("0", "/dev/nvidia0"),
            device("1", "/dev/nvidia1"),
            device(UUIDS[0], "/dev/nvidia0"),
            device(UUIDS[1], "/dev/nvidia1"),
            device("all", "/dev/nvidia0", "/dev/nvidia1"),
        ],
        "containerEdits": {
            "env": ["NVIDIA_VISIBLE_DEVICES=void"],
            "deviceNodes": [node(path) for path in CONTROL],
            "hooks": [{"hookName": "createContainer", "path": "/usr/bin/nvidia-cdi-hook", "args": []}],
            "mounts": [mount(SOCKET), mount(LIBCUDA)],
        },
    }


class Host:
    """A folder that stands for a host's root."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.bin = root / "bin"
        self.bin.mkdir(parents=True)
        self.tools = Tools(path=f"{self.bin}:/usr/bin:/bin", timeout=20)
        self.describe(two_gpus())
        self.script("nvidia-ctk", NVIDIA_CTK)
        for path in ("/dev/nvidia0", "/dev/nvidia1", *CONTROL, "/usr/bin/nvidia-cdi-hook", LIBCUDA):
            self.file(path, mode=0o666)

    def file(self, path: str, text: str = "", mode: int = 0o644) -> Path:
        file = self.root / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        file.chmod(mode)
        return file

    def script(self, name: str, text: str) -> None:
        self.file(f"/bin/{name}", text, 0o755)

    def describe(self, spec: dict[str, Any]) -> None:
        self.file("/bin/spec.json", json.dumps(spec))

    def fail(self, message: str) -> None:
        """Make nvidia-ctk fail from now on."""
        self.file("/bin/error", f'time="2026-01-01T00:00:00Z" level=error msg="{message}"')

    @property
    def calls(self) -> list[str]:
        log = self.bin / "calls"
        return log.read_text().splitlines() if log.exists() else []

    def spec_file(self, user: str) -> Path:
        return self.root / "var/lib/gpulab/cdi" / user / "nvidia.json"

    def spec(self, user: str) -> dict[str, Any]:
        content: dict[str, Any] = json.loads(self.spec_file(user).read_text())
        return content
