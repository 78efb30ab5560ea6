# Copyright: gpulab.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Is there an NVIDIA GPU in this host? Answered from traces that any user may read, without the driver."""

from __future__ import annotations

from pathlib import Path
from typing import Any

NVIDIA_VENDOR = "0x10de"
DISPLAY_CLASS = "0x03"  # PCI base class: display controllers, which compute-only boards are too


def gpu_presence(root: Path = Path("/")) -> dict[str, Any]:
    """What speaks for a GPU: {present, pci: [addresses], driver: [addresses], nodes: [paths]}.

    pci     NVIDIA display controllers on the bus, except those handed to virtual machines (vfio)
    driver  GPUs that the loaded kernel module has taken
    nodes   device nodes of GPUs
    """
    pci = sorted(device.name for device in (root / "sys/bus/pci/devices").glob("*") if _is_gpu(device))
    driver = sorted(gpu.name for gpu in (root / "proc/driver/nvidia/gpus").glob("*"))
    # The last two are those of Jetson boards, whose GPU is on no bus.
    found = [node for name in ("nvidia[0-9]*", "nvhost-gpu", "nvgpu/igpu*") for node in (root / "dev").glob(name)]
    nodes = sorted(f"/{node.relative_to(root)}" for node in found)
    return {"present": bool(pci or driver or nodes), "pci": pci, "driver": driver, "nodes": nodes}


def driver_there(root: Path = Path("/")) -> bool:
    """Whether anything of a driver is installed: its module is loaded, or its library lies where programs look."""
    if (root / "proc/driver/nvidia/version").exists():
        return True
    folders = ("usr/lib/x86_64-linux-gnu", "usr/lib/aarch64-linux-gnu", "usr/lib64", "usr/lib")
    return any(any((root / folder).glob("libnvidia-ml.so.*")) for folder in folders)


def _is_gpu(device: Path) -> bool:
    if _word(device / "vendor") != NVIDIA_VENDOR or not _word(device / "class").startswith(DISPLAY_CLASS):
        return False
    bound = device / "driver"
    return not (bound.is_symlink() and bound.readlink().name == "vfio-pci")


def _word(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip().lower()
    except (OSError, UnicodeDecodeError):
        return ""
