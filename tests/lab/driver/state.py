"""The one file that says what the stand-in driver is: versions, GPUs and faults; and the properties made from it."""

import copy
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

State = dict[str, Any]
FILE = Path("etc/nvidia-standin.json")
VERSION = "550.163.01"
MOST_GPUS = 8

# CUDA and PTX ISA versions by the driver's major version.
CUDA = {
    470: (11040, 74),
    525: (12000, 80),
    535: (12020, 82),
    550: (12040, 84),
    560: (12060, 85),
    570: (12080, 87),
    580: (13000, 90),
}
# A board with eight of them has its GPUs on these buses.
BUSES = (0x07, 0x0F, 0x47, 0x4E, 0x87, 0x90, 0xB7, 0xBD)
# What a GPU can be cut into: slices and MiB.
PROFILES = {
    "1g.5gb": (1, 4864),
    "1g.10gb": (1, 9856),
    "2g.10gb": (2, 9856),
    "3g.20gb": (3, 19968),
    "4g.20gb": (4, 19968),
    "7g.40gb": (7, 40192),
}


class StateError(Exception):
    """A wish that cannot be met; the text says why."""


def gpu(index: int) -> State:
    return {
        "name": "NVIDIA A100-SXM4-40GB",
        "uuid": f"GPU-12345678-1234-1234-1234-12345678{index:04d}",
        "minor": index,
        "present": 1,
        "pci": f"00000000:{BUSES[index]:02X}:00.0",
        "pci_device_id": 0x20B010DE,
        "pci_subsystem_id": 0x144E10DE,
        "memory_mib": 40960,
        "memory_reserved_mib": 571,
        "memory_used_mib": 4,
        "cc_major": 8,
        "cc_minor": 0,
        "multiprocessors": 108,
        "cores": 6912,
        "architecture": 7,
        "brand": 14,
        "serial": f"15620212345{index:02d}",
        "vbios": "92.00.45.00.03",
        "part_number": "692-2G506-0200-002",
        "persistence_mode": 1,
        "compute_mode": 0,
        "ecc": 1,
        "ecc_pending": 1,
        "ecc_corrected_volatile": 0,
        "ecc_corrected_aggregate": 0,
        "ecc_uncorrected_volatile": 0,
        "ecc_uncorrected_aggregate": 0,
        "remapped_corrected": 0,
        "remapped_uncorrected": 0,
        "remapped_pending": 0,
        "remapped_failure": 0,
        "clocks_event_reasons": 1,
        "clocks_event_reasons_supported": 0x1FF,
        "clock_graphics_now": 210,
        "clock_sm_now": 210,
        "clock_memory_now": 1215,
        "clock_video_now": 585,
        "clock_graphics_max": 1410,
        "clock_sm_max": 1410,
        "clock_memory_max": 1215,
        "clock_video_max": 1290,
        "pcie_generation": 4,
        "pcie_generation_max": 4,
        "pcie_width": 16,
        "pcie_width_max": 16,
        "temperature": 31,
        "temperature_shutdown": 92,
        "temperature_slowdown": 89,
        "power_usage_mw": 52340,
        "power_limit_mw": 400000,
        "power_limit_min_mw": 100000,
        "power_limit_max_mw": 400000,
        "performance_state": 0,
        "multi_gpu_board": 0,
        "display": 0,
        "mig": {"mode": 0, "pending": 0, "devices": []},
    }


def new(gpus: int, faults: list[str] | None = None) -> State:
    """The state of a fresh host."""
    if not 0 <= gpus <= MOST_GPUS:
        raise StateError(f"{gpus} GPUs: this stand-in has 0 to {MOST_GPUS}")
    state: State = {"version": VERSION, "gpus": [gpu(index) for index in range(gpus)], "faults": []}
    for fault in faults or []:
        add_fault(state, fault)
    return state


def load(root: Path) -> State:
    path = root / FILE
    if not path.exists():
        return new(0)
    found: State = json.loads(path.read_text())
    return found


def save(root: Path, state: State) -> None:
    path = root / FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(state, indent=2) + "\n")
    temporary.rename(path)


# --- faults -------------------------------------------------------------------------------------------------------


def _system(**values: Any) -> Callable[[State, int], None]:
    def apply(state: State, _gpu: int) -> None:
        state.update(values)

    return apply


def _one_gpu(**values: Any) -> Callable[[State, int], None]:
    def apply(state: State, index: int) -> None:
        state["gpus"][index].update(values)

    return apply


def _every_gpu(**values: Any) -> Callable[[State, int], None]:
    def apply(state: State, _gpu: int) -> None:
        for each in state["gpus"]:
            each.update(values)

    return apply


def _without_gpus(state: State, _gpu: int) -> None:
    state["gpus"] = []


# name: (what it does to the state, what it is). Those that concern one GPU take ":INDEX"; without, it is the last one.
FAULTS: dict[str, tuple[Callable[[State, int], None], str]] = {
    "no-driver": (_system(installed=False), "the GPUs are on the PCI bus, nothing of the driver is installed"),
    "not-loaded": (_system(loaded=False, nvml_init=9, cuda_init=100), "installed, but its kernel module is not loaded"),
    "library-mismatch": (_system(kernel_version="550.90.07"), "the loaded module is older than the library (NVML 18)"),
    "no-permission": (_system(nvml_init=4, cuda_init=100), "NVML: insufficient permissions (4)"),
    "blocked": (_system(nvml_init=17, cuda_init=999), "NVML: the operating system blocked the request (17)"),
    "unknown": (_system(nvml_init=999, cuda_init=999), "NVML and CUDA: unknown error (999)"),
    "no-devices": (_without_gpus, "the driver works and finds no GPU"),
    "no-cuda-library": (_system(cuda_library=False), "libcuda is not installed"),
    "no-nvml-library": (_system(nvml_library=False), "libnvidia-ml is not installed"),
    "uvm-missing": (_system(uvm=False), "no nvidia-uvm nodes: NVML works, cuInit says 999"),
    "control-missing": (_system(control=False), "no nvidiactl node"),
    "nodes-0660": (_system(node_mode="0660", node_group="video"), "all nodes are root:video 0660"),
    "fabric-not-ready": (
        lambda state, index: (_system(cuda_init=802)(state, index), _every_gpu(fabric_state=2)(state, index))[0],
        "NVSwitch board without its fabric manager: cuInit says 802",
    ),
    "cuda-mismatch": (_system(cuda_init=803), "cuInit says 803 though NVML works"),
    "compat-unsupported": (_system(cuda_init=804), "cuInit says 804: this GPU may not use compat libraries"),
    "gpu-missing": (_one_gpu(present=0), "one GPU has fallen off: no node, not listed"),
    "node-missing": (_one_gpu(node=False), "the node of one GPU is not there"),
    "gpu-lost": (_one_gpu(error=15), "one GPU answers every question with 15, GPU is lost"),
    "reset-required": (_one_gpu(error=16), "one GPU answers every question with 16, reset required"),
    "wrong-result": (_one_gpu(wrong_result=1), "kernels on one GPU store wrong values"),
    "corrupt-copy": (_one_gpu(corrupt_copy=1), "copies from one GPU arrive with a flipped bit"),
    "slow-container": (_every_gpu(copy_container_mib_s=200), "copies in containers run at 200 MiB/s"),
    "slow-copy": (_every_gpu(copy_mib_s=200), "copies run at 200 MiB/s everywhere"),
    "exclusive-process": (_one_gpu(compute_mode=3), "one GPU takes one process at a time"),
    "prohibited": (_one_gpu(compute_mode=2), "one GPU takes no compute process"),
    "ecc-errors": (_one_gpu(ecc_uncorrected_volatile=3, ecc_uncorrected_aggregate=3), "uncorrected memory errors"),
    "rows-pending": (_one_gpu(remapped_uncorrected=1, remapped_pending=1), "a row remap waits for a reset"),
    "rows-failed": (_one_gpu(remapped_uncorrected=9, remapped_failure=1), "a row could not be remapped"),
    "persistence-off": (_every_gpu(persistence_mode=0), "persistence mode is off"),
    "pcie-degraded": (_one_gpu(pcie_generation=1, pcie_width=4), "the link of one GPU is PCIe 1 x4"),
    "thermal-slowdown": (_one_gpu(clocks_event_reasons=0x60, temperature=93), "one GPU is throttled by heat"),
}


def add_fault(state: State, fault: str) -> None:
    name, _, index = fault.partition(":")
    if name not in FAULTS:
        raise StateError(f"unknown fault {name!r}; there are: {', '.join(sorted(FAULTS))}")
    if index and not (index.isdigit() and int(index) < len(state["gpus"])):
        raise StateError(f"fault {fault!r}: no such GPU")
    if not state["gpus"]:
        raise StateError(f"fault {fault!r}: this host has no GPU")
    if fault not in state["faults"]:
        state["faults"].append(fault)


def effective(state: State) -> State:
    """The state with its faults in force."""
    answer: State = {
        "installed": True,
        "loaded": True,
        "cuda_library": True,
        "nvml_library": True,
        "uvm": True,
        "control": True,
        "node_mode": "0666",
        "node_group": "root",
        "topology": 40,
        **copy.deepcopy(state),
    }
    for fault in state["faults"]:
        name, _, index = fault.partition(":")
        FAULTS[name][0](answer, int(index) if index else len(answer["gpus"]) - 1)
    answer.setdefault("kernel_version", answer["version"])
    if answer["kernel_version"] != answer["version"] and answer["loaded"]:
        answer.setdefault("nvml_init", 18)
        answer.setdefault("cuda_init", 803)
    return answer


# --- changes ------------------------------------------------------------------------------------------------------


def _scalar(text: str) -> int | str:
    try:
        return int(text, 0)
    except ValueError:
        return text


def mig_devices(index: int, profiles: list[str]) -> list[State]:
    devices = []
    for instance, profile in enumerate(profiles, 1):
        if profile not in PROFILES:
            raise StateError(f"unknown MIG profile {profile!r}; there are: {', '.join(PROFILES)}")
        slices, memory = PROFILES[profile]
        first = 3 + 135 * index + 9 * instance  # the numbering of the capability nodes
        devices.append(
            {
                "profile": profile,
                "uuid": f"MIG-{index:08d}-{instance:04d}-5000-8000-123456780000",
                "gi": instance,
                "ci": 0,
                "gi_cap": first,
                "ci_cap": first + 1,
                "slices": slices,
                "memory_mib": memory,
                "name": f"NVIDIA A100-SXM4-40GB MIG {profile}",
            }
        )
    if sum(device["slices"] for device in devices) > 7:
        raise StateError(f"{', '.join(profiles)}: more than the seven slices of a GPU")
    return devices


def change(state: State, setting: str) -> None:
    """One KEY=VALUE: version, kernel_version, topology, gpus, or gpu.N.<property>; gpu.N.mig=off|on|PROFILE,..."""
    key, equals, value = setting.partition("=")
    if not equals:
        raise StateError(f"{setting!r} is not KEY=VALUE")
    if key in ("version", "kernel_version"):
        if key == "kernel_version" and not value:  # the module of the same version, again
            state.pop(key, None)
            return
        if not re.fullmatch(r"\d+(\.\d+){1,2}", value):
            raise StateError(f"{key}: {value!r} is no driver version such as {VERSION}")
        state[key] = value
    elif key == "topology":
        state[key] = int(value)
    elif key == "gpus":
        wanted = new(int(value))["gpus"]
        state["gpus"] = state["gpus"][: len(wanted)] + wanted[len(state["gpus"]) :]
    elif found := re.fullmatch(r"gpu\.(\d+)\.(\w+)", key):
        index, name = int(found[1]), found[2]
        if index >= len(state["gpus"]):
            raise StateError(f"{key}: no such GPU")
        one = state["gpus"][index]
        if name == "mig":
            profiles = [] if value in ("off", "on", "") else value.split(",")
            on = int(value != "off")
            one["mig"] = {"mode": on, "pending": on, "devices": mig_devices(index, profiles)}
        elif name in one or name in (
            "error",
            "fabric_state",
            "retired_pages_pending",
            "fan_speed",
            "wrong_result",
            "corrupt_copy",
            "copy_mib_s",
            "copy_container_mib_s",
            "processes",
        ):
            one[name] = _scalar(value)
        else:
            raise StateError(f"{key}: unknown property; there are: {', '.join(one)}")
    else:
        raise StateError(f"unknown key {key!r}: version, kernel_version, topology, gpus, gpu.N.PROPERTY or gpu.N.mig")


def properties(state: State, extra: dict[str, Any] | None = None) -> str:
    """The lines that the libraries carry; what a library has no key for is "not supported" there."""
    now = effective(state)
    cuda, ptx = CUDA.get(int(now["version"].split(".")[0]), CUDA[550])
    lines: dict[str, Any] = {
        "library": now["version"],
        "driver": now["kernel_version"],
        "nvml": f"{cuda // 1000}.{now['version']}",
        "cuda": cuda,
        "ptx": ptx,
        "topology": now["topology"],
        "gpus": len(now["gpus"]),
        "nvml.init": now.get("nvml_init", 0),
        "cuda.init": now.get("cuda_init", 0),
    }
    lines |= extra or {}
    for index, one in enumerate(now["gpus"]):
        for key, value in one.items():
            if key not in ("mig", "node"):
                lines[f"gpu.{index}.{key}"] = value
        mig = one["mig"]
        lines |= {
            f"gpu.{index}.mig.mode": mig["mode"],
            f"gpu.{index}.mig.pending": mig["pending"],
            f"gpu.{index}.mig.count": len(mig["devices"]),
        }
        for number, device in enumerate(mig["devices"]):
            lines |= {f"gpu.{index}.mig.{number}.{key}": value for key, value in device.items()}
    return "".join(f"{key}={value}\n" for key, value in lines.items())
