"""Which files a host with the stand-in driver has, by their path below its root."""

import os
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .build import build, empty_library, with_properties
from .state import State, effective, properties

HOST = Path(__file__).parent / "host"
LIBRARIES = "usr/lib/x86_64-linux-gnu"
BASE = "usr/lib/nvidia-standin"
MODULES = f"usr/lib/modules/{os.uname().release}"

# Companions that only have to be there: name, and the version in the soname ("" where it is the driver's own).
COMPANIONS = {
    "libcudadebugger": "1",
    "libnvidia-cfg": "1",
    "libnvidia-gpucomp": "",
    "libnvidia-nvvm": "4",
    "libnvidia-opencl": "1",
    "libnvidia-pkcs11-openssl3": "",
    "libnvidia-ptxjitcompiler": "1",
}


@dataclass(frozen=True)
class File:
    content: bytes = b""
    mode: int = 0o644
    link: str = ""  # a symbolic link to this


Tree = dict[str, File]


def _text(text: str, mode: int = 0o644) -> File:
    return File(text.encode(), mode)


def libraries(state: State, cache: Path, extra: dict[str, str] | None = None) -> Tree:
    now = effective(state)
    version, lines, programs = now["version"], properties(state, extra), build(cache)
    tree: Tree = {}

    def library(name: str, content: bytes, number: str) -> None:
        tree[f"{LIBRARIES}/{name}.so.{version}"] = File(content)
        if number:
            tree[f"{LIBRARIES}/{name}.so.{number}"] = File(link=f"{name}.so.{version}")

    for name, wanted in (("libnvidia-ml", now["nvml_library"]), ("libcuda", now["cuda_library"])):
        if wanted:
            library(name, with_properties(programs[name], lines), "1")
            tree[f"{LIBRARIES}/{name}.so"] = File(link=f"{name}.so.1")
    for name, number in COMPANIONS.items():
        soname = f"{name}.so.{number or version}"
        library(name, empty_library(cache, soname).read_bytes(), number)
    for name, mode in (("nvidia-smi", 0o755), ("nvidia-modprobe", 0o4755), ("nvidia-persistenced", 0o755)):
        tree[f"usr/bin/{name}"] = File(with_properties(programs[name], lines), mode)
    for name in ("nvidia-debugdump", "nvidia-cuda-mps-control", "nvidia-cuda-mps-server"):
        tree[f"usr/bin/{name}"] = _text("#!/bin/sh\necho 'not part of the stand-in driver' >&2\nexit 1\n", 0o755)
    tree["etc/OpenCL/vendors/nvidia.icd"] = _text("libnvidia-opencl.so.1\n")
    for name in ("gsp_ga10x.bin", "gsp_tu10x.bin"):
        tree[f"usr/lib/firmware/nvidia/{version}/{name}"] = _text(f"stand-in for {name}\n")
    return tree


def node_names(state: State) -> list[str]:
    """The device nodes, below /dev."""
    now = effective(state)
    if not now["loaded"] or not now["installed"]:
        return []
    names = [f"nvidia{one['minor']}" for one in now["gpus"] if one["present"] and one.get("node", True)]
    names += ["nvidiactl"] * now["control"] + ["nvidia-modeset"] + ["nvidia-uvm", "nvidia-uvm-tools"] * now["uvm"]
    for one in now["gpus"]:
        for device in one["mig"]["devices"]:
            names += [f"nvidia-caps/nvidia-cap{device[part]}" for part in ("gi_cap", "ci_cap")]
    return names


def nodes(state: State) -> Tree:
    """A node with the vendor's numbers cannot be opened without the driver; 1:3, the null device, can be."""
    now = effective(state)
    lines = [f"c /dev/{name} {now['node_mode']} root {now['node_group']} - 1:3" for name in node_names(state)]
    if not lines:
        return {}
    text = "\n".join(["d /dev/nvidia-caps 0755 root root -", *lines] if any("caps" in x for x in lines) else lines)
    return {"usr/lib/tmpfiles.d/nvidia-standin.conf": _text(text + "\n")}


def module_files(state: State) -> Tree:
    """What the kernel's module folder says; the lab's other files in it stay."""
    folder = "kernel/drivers/video"
    users = ("nvidia-uvm", "nvidia-modeset", "nvidia-drm", "nvidia-peermem")
    text = f"{folder}/nvidia.ko:\n" + "".join(f"{folder}/{name}.ko: {folder}/nvidia.ko\n" for name in users)
    empty_index = struct.pack(">III", 0xB007F457, 0x00020001, 0)  # kmod's magic, its version, and no root
    return {f"{MODULES}/modules.dep": _text(text), f"{MODULES}/modules.dep.bin": File(empty_index)}


def proc(state: State) -> Tree:
    now = effective(state)
    kernel, group = now["kernel_version"], 44 if now["node_group"] == "video" else 0
    tree = {
        f"{BASE}/proc/devices": _text(
            "195 nvidia\n195 nvidia-modeset\n195 nvidiactl\n235 nvidia-caps\n" + "511 nvidia-uvm\n" * now["uvm"]
        ),
        f"{BASE}/proc/modules": _text(
            "nvidia_uvm 4939776 0 - Live 0x0000000000000000 (PO)\n"
            * now["uvm"]
            + "nvidia_modeset 1314816 0 - Live 0x0000000000000000 (PO)\n"
            "nvidia 54046720 2 nvidia_uvm,nvidia_modeset, Live 0x0000000000000000 (PO)\n"
        ),
        f"{BASE}/proc/driver/nvidia/version": _text(
            f"NVRM version: NVIDIA UNIX x86_64 Kernel Module  {kernel}  Tue Apr  8 12:41:17 UTC 2025\n"
            "GCC version:  gcc version 12.2.0 (Debian 12.2.0-14+deb12u1) \n"
        ),
        f"{BASE}/proc/driver/nvidia/params": _text(
            "ResmanDebugLevel: 4294967295\nRmLogonRC: 1\nModifyDeviceFiles: 1\nDeviceFileUID: 0\n"
            f"DeviceFileGID: {group}\nDeviceFileMode: {int(now['node_mode'], 8)}\nEnableMSI: 1\n"
        ),
    }
    minors = "config 1\nmonitor 2\n"
    for index, one in enumerate(now["gpus"]):
        if not one["present"]:
            continue
        place = one["pci"].lower()[4:]
        tree[f"{BASE}/proc/driver/nvidia/gpus/{place}/information"] = _text(
            f"Model: \t\t {one['name']}\nIRQ:   \t\t {90 + index}\nGPU UUID: \t {one['uuid']}\n"
            f"Video BIOS: \t {one['vbios']}\nBus Type: \t PCIe\nDMA Size: \t 47 bits\nDMA Mask: \t 0x7fffffffffff\n"
            f"Bus Location: \t {place}\nDevice Minor: \t {one['minor']}\nGPU Firmware: \t {kernel}\n"
            "GPU Excluded:\t No\n"
        )
        folder = f"{BASE}/proc/driver/nvidia/capabilities/gpu{one['minor']}/mig"
        for device in one["mig"]["devices"]:
            for name, part in ((f"gi{device['gi']}", "gi_cap"), (f"gi{device['gi']}/ci{device['ci']}", "ci_cap")):
                tree[f"{folder}/{name}/access"] = _text(
                    f"DeviceFileMinor: {device[part]}\nDeviceFileMode: 292\nDeviceFileModify: 1\n"
                )
                minors += f"gpu{one['minor']}/{name}/access {device[part]}\n"
    tree[f"{BASE}/proc/driver/nvidia-caps/mig-minors"] = _text(minors)
    return tree


def sys(state: State) -> Tree:
    """The GPUs on the PCI bus, and the loaded modules."""
    now = effective(state)
    driven = now["installed"] and now["loaded"]
    tree: Tree = {}
    for one in now["gpus"]:
        if not one["present"]:
            continue
        folder = f"{BASE}/sys/bus/pci/devices/{one['pci'].lower()[4:]}"
        device, sub = one["pci_device_id"] >> 16, one["pci_subsystem_id"] >> 16
        values = {
            "vendor": "0x10de",
            "device": f"0x{device:04x}",
            "class": "0x030200",
            "subsystem_vendor": "0x10de",
            "subsystem_device": f"0x{sub:04x}",
            "revision": "0xa1",
            "enable": "1",
            "numa_node": "0",
            "current_link_speed": f"{(2.5, 5.0, 8.0, 16.0, 32.0)[one['pcie_generation'] - 1]} GT/s PCIe",
            "current_link_width": str(one["pcie_width"]),
            "modalias": f"pci:v000010DEd{device:08X}sv000010DEsd{sub:08X}bc03sc02i00",
            "uevent": ("DRIVER=nvidia\n" if driven else "") + f"PCI_CLASS=30200\nPCI_ID=10DE:{device:04X}",
        }
        tree |= {f"{folder}/{name}": _text(f"{value}\n") for name, value in values.items()}
        if driven:
            tree[f"{folder}/driver"] = File(link="../../../../bus/pci/drivers/nvidia")
    if driven:
        for name in ("nvidia", "nvidia_modeset", *(["nvidia_uvm"] if now["uvm"] else [])):
            tree[f"{BASE}/sys/module/{name}/version"] = _text(f"{now['kernel_version']}\n")
            tree[f"{BASE}/sys/module/{name}/initstate"] = _text("live\n")
    return tree


def host_files(state: State, cache: Path) -> Tree:
    """Everything, or nothing for a host that never had a GPU."""
    now = effective(state)
    if not state["gpus"] and not state["faults"]:
        return {}
    tree: Tree = {f"{BASE}/setup": File((HOST / "setup").read_bytes(), 0o755)}
    units = ["nvidia-standin.service"]
    parts: list[Callable[[State], Tree]] = [sys]
    if now["installed"]:
        tree |= libraries(state, cache)
        parts += [nodes, module_files] + [proc] * now["loaded"]
        units += ["nvidia-persistenced.service"] * now["loaded"]
    for part in parts:
        tree |= part(state)
    for unit in units:
        text = (HOST / unit).read_text()
        target = text.rsplit("WantedBy=", 1)[1].strip()
        tree[f"usr/lib/systemd/system/{unit}"] = _text(text)
        tree[f"etc/systemd/system/{target}.wants/{unit}"] = File(link=f"/usr/lib/systemd/system/{unit}")
    return tree
