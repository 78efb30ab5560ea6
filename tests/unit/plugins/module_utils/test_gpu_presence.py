"""The traces that count as a GPU, and those that do not."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.gpulab.fleet.plugins.module_utils._gpu_presence import gpu_presence


def pci(root: Path, vendor: str, pci_class: str, driver: str = "") -> None:
    device = root / "sys/bus/pci/devices/0000:07:00.0"
    device.mkdir(parents=True)
    (device / "vendor").write_text(f"{vendor}\n")
    (device / "class").write_text(f"{pci_class}\n")
    if driver:
        (device / "driver").symlink_to(f"../../../bus/pci/drivers/{driver}")


@pytest.mark.parametrize(
    ("vendor", "pci_class", "driver", "present"),
    [
        pytest.param("0x10de", "0x030200", "", True, id="compute board without a driver"),
        pytest.param("0x10de", "0x030000", "nvidia", True, id="graphics board with its driver"),
        pytest.param("0x10DE", "0x030000", "", True, id="upper case"),
        pytest.param("0x10de", "0x040300", "", False, id="the board's audio function"),
        pytest.param("0x10de", "0x068000", "", False, id="an NVSwitch"),
        pytest.param("0x1002", "0x030000", "", False, id="another vendor"),
        pytest.param("0x10de", "0x030200", "vfio-pci", False, id="handed to a virtual machine"),
    ],
)
def test_pci(tmp_path: Path, vendor: str, pci_class: str, driver: str, present: bool) -> None:
    pci(tmp_path, vendor, pci_class, driver)
    found = gpu_presence(tmp_path)
    assert found["present"] is present
    assert found["pci"] == (["0000:07:00.0"] if present else [])


def test_bare_host(tmp_path: Path) -> None:
    assert gpu_presence(tmp_path) == {"present": False, "pci": [], "driver": [], "nodes": []}


def test_nodes_and_driver(tmp_path: Path) -> None:
    (tmp_path / "dev").mkdir()
    for name in ("nvidia1", "nvidia0", "nvidiactl", "nvidia-uvm"):
        (tmp_path / "dev" / name).touch()
    (tmp_path / "proc/driver/nvidia/gpus/0000:07:00.0").mkdir(parents=True)
    found = gpu_presence(tmp_path)
    assert found["present"] and found["nodes"] == ["/dev/nvidia0", "/dev/nvidia1"]
    assert found["driver"] == ["0000:07:00.0"]


def test_control_nodes_alone_are_no_gpu(tmp_path: Path) -> None:
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/nvidiactl").touch()
    assert gpu_presence(tmp_path)["present"] is False


@pytest.mark.parametrize("node", ["nvhost-gpu", "nvgpu/igpu0"])
def test_a_jetson_has_a_gpu_on_no_bus(tmp_path: Path, node: str) -> None:
    (tmp_path / "dev" / node).parent.mkdir(parents=True)
    (tmp_path / "dev" / node).touch()
    found = gpu_presence(tmp_path)
    assert found["present"]
    assert found["nodes"] == [f"/dev/{node}"]
