# Copyright: gpulab.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What NVML says of a host's GPUs, and what its error codes mean for the person who has to act.

A field that a GPU or a driver does not know is None; a GPU that cannot be asked stays in the list
with what is known of it, and does not hide the others.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Iterable
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from ansible_collections.gpulab.fleet.plugins.module_utils._findings import finding
from ansible_collections.gpulab.fleet.plugins.module_utils._gpu_presence import driver_there, gpu_presence

# NVML's return codes. Those that are not here are NVML_ERROR with the number as evidence.
CODES = {
    4: "NVML_NO_PERMISSION",
    9: "DRIVER_NOT_LOADED",
    10: "NVML_TIMEOUT",
    12: "NVML_LIBRARY_NOT_FOUND",
    15: "NVML_GPU_LOST",
    16: "NVML_RESET_REQUIRED",
    17: "NVML_BLOCKED",
    18: "NVML_LIBRARY_MISMATCH",
    28: "NVML_GPU_LOST",
    999: "NVML_UNKNOWN",
}
# "This GPU or driver has no such thing": not a fault.
ABSENT = {3, 6, 13, 21, 25, 26, 27}

COMPUTE_MODES = {0: "default", 1: "exclusive_thread", 2: "prohibited", 3: "exclusive_process"}
FABRIC_STATES = {0: None, 1: "not_started", 2: "in_progress", 3: "completed"}
PATHS = {0: "same_board", 10: "one_pcie_switch", 20: "pcie_switches", 30: "host_bridge", 40: "numa_node", 50: "system"}
CLOCK_REASONS = {
    0x1: "idle",
    0x2: "application_clocks",
    0x4: "power_cap",
    0x8: "hardware_slowdown",
    0x10: "sync_boost",
    0x20: "software_thermal",
    0x40: "hardware_thermal",
    0x80: "power_brake",
    0x100: "display_clocks",
}
SLOWED_BY_A_FAULT = {"hardware_slowdown", "software_thermal", "hardware_thermal", "power_brake"}


def code_finding(number: int, evidence: str, gpu: str = "") -> dict[str, Any]:
    """The finding for an NVML return code."""
    return finding(CODES.get(number, "NVML_ERROR"), f"{evidence} (NVML code {number})", gpu=gpu or "the GPU")


def cuda_version(number: int | None) -> str | None:
    """NVML and CUDA write 12.4 as 12040."""
    return None if number is None else f"{number // 1000}.{number % 1000 // 10}"


def clock_reasons(mask: int | None) -> list[str] | None:
    if mask is None:
        return None
    return [name for bit, name in CLOCK_REASONS.items() if mask & bit]


def text(value: Any) -> Any:
    return value.decode(errors="replace") if isinstance(value, bytes) else value


class Nvml:
    """Reads every GPU through pynvml (or a module like it), collecting findings on the way."""

    def __init__(self, library: ModuleType | Any) -> None:
        self.library = library
        self.findings: list[dict[str, Any]] = []

    def read(self) -> dict[str, Any]:
        """driver_version, cuda_driver_version, gpus, topology, findings."""
        answer: dict[str, Any] = {"driver_version": None, "cuda_driver_version": None, "gpus": [], "topology": []}
        answer["findings"] = self.findings
        try:
            self.library.nvmlInit()
        except self.library.NVMLError as error:
            self.findings.append(code_finding(error.value, f"nvmlInit: {error}"))
            return answer
        try:
            answer["driver_version"] = self.ask("", "nvmlSystemGetDriverVersion")
            answer["cuda_driver_version"] = cuda_version(self.ask("", "nvmlSystemGetCudaDriverVersion_v2"))
            count = self.ask("", "nvmlDeviceGetCount") or 0
            handles: dict[str, Any] = {}
            for index in range(count):
                answer["gpus"].append(self.gpu(index, handles))
            answer["topology"] = self.topology(handles)
        finally:
            self.library.nvmlShutdown()
        return answer

    def ask(self, gpu: str, function: str, *arguments: Any) -> Any:
        """The function's answer, or None with a finding when the answer is a fault."""
        try:
            return text(getattr(self.library, function)(*arguments))
        except AttributeError:
            return None
        except self.library.NVMLError as error:
            if error.value not in ABSENT:
                self.report(code_finding(error.value, f"{gpu or 'host'}: {function}: {error}", gpu))
            return None

    def report(self, found: dict[str, Any]) -> None:
        """Once for each GPU and code: a lost GPU answers every question with the same error."""
        gpu = found["evidence"].split(":")[0]
        if not any(f["code"] == found["code"] and f["evidence"].split(":")[0] == gpu for f in self.findings):
            self.findings.append(found)

    def gpu(self, index: int, handles: dict[str, Any]) -> dict[str, Any]:
        before = len(self.findings)
        label = f"GPU {index}"
        handle = self.ask(label, "nvmlDeviceGetHandleByIndex", index)
        entry: dict[str, Any] = {"index": index, "uuid": None, "name": None, "status": "ok"}
        if handle is not None:
            entry["uuid"] = self.ask(label, "nvmlDeviceGetUUID", handle)
            label = entry["uuid"] or label
            if entry["uuid"]:
                handles[entry["uuid"]] = handle
            entry.update(self.identity(label, handle))
            entry.update(self.health(label, handle))
            entry["mig"] = self.mig(label, handle)
            self.findings += health_findings(entry)
        if any(f["severity"] == "error" for f in self.findings[before:]):
            entry["status"] = "failed"
        return entry

    def identity(self, label: str, handle: Any) -> dict[str, Any]:
        capability = self.ask(label, "nvmlDeviceGetCudaComputeCapability", handle)
        memory = self.ask(label, "nvmlDeviceGetMemoryInfo", handle)
        pci = self.ask(label, "nvmlDeviceGetPciInfo", handle)
        return {
            "name": self.ask(label, "nvmlDeviceGetName", handle),
            "minor": self.ask(label, "nvmlDeviceGetMinorNumber", handle),
            "pci_bus_id": None if pci is None else text(pci.busId),
            "compute_capability": None if capability is None else f"{capability[0]}.{capability[1]}",
            "memory_total_bytes": None if memory is None else memory.total,
            "memory_used_bytes": None if memory is None else memory.used,
        }

    def health(self, label: str, handle: Any) -> dict[str, Any]:
        def ask(function: str, *arguments: Any) -> Any:
            return self.ask(label, function, handle, *arguments)

        def milli(function: str) -> float | None:
            value = ask(function)
            return None if value is None else value / 1000

        ecc = ask("nvmlDeviceGetEccMode")
        rows = ask("nvmlDeviceGetRemappedRows")
        persistence = ask("nvmlDeviceGetPersistenceMode")
        processes = ask("nvmlDeviceGetComputeRunningProcesses")
        return {
            "persistence_mode": None if persistence is None else bool(persistence),
            "compute_mode": COMPUTE_MODES.get(ask("nvmlDeviceGetComputeMode")),
            "ecc": {
                "enabled": None if ecc is None else bool(ecc[0]),
                "uncorrected": ask("nvmlDeviceGetTotalEccErrors", 1, 0) if ecc and ecc[0] else None,
                "corrected": ask("nvmlDeviceGetTotalEccErrors", 0, 0) if ecc and ecc[0] else None,
            },
            "remapped_rows": None
            if rows is None
            else {"corrected": rows[0], "uncorrected": rows[1], "pending": bool(rows[2]), "failed": bool(rows[3])},
            "clock_reasons": clock_reasons(
                ask("nvmlDeviceGetCurrentClocksEventReasons") or ask("nvmlDeviceGetCurrentClocksThrottleReasons")
            ),
            "pcie": {
                "generation": ask("nvmlDeviceGetCurrPcieLinkGeneration"),
                "generation_max": ask("nvmlDeviceGetMaxPcieLinkGeneration"),
                "width": ask("nvmlDeviceGetCurrPcieLinkWidth"),
                "width_max": ask("nvmlDeviceGetMaxPcieLinkWidth"),
            },
            "temperature_celsius": ask("nvmlDeviceGetTemperature", 0),
            "power_draw_watts": milli("nvmlDeviceGetPowerUsage"),
            "power_limit_watts": milli("nvmlDeviceGetEnforcedPowerLimit"),
            "processes": None
            if processes is None
            else [{"pid": p.pid, "memory_used_bytes": p.usedGpuMemory} for p in processes],
            "fabric_state": self.fabric(label, handle),
        }

    def fabric(self, label: str, handle: Any) -> str | None:
        """How far the NVSwitch fabric is; None on GPUs that have none."""
        if not hasattr(self.library, "c_nvmlGpuFabricInfoV_t"):
            return None
        info = self.library.c_nvmlGpuFabricInfoV_t()
        if self.ask(label, "nvmlDeviceGetGpuFabricInfoV", handle, ctypes.byref(info)) is None:
            return None
        return FABRIC_STATES.get(info.state)

    def mig(self, label: str, handle: Any) -> dict[str, Any]:
        """Whether the GPU is partitioned, and into what. Instances are what containers get then."""
        mode = self.ask(label, "nvmlDeviceGetMigMode", handle)
        answer: dict[str, Any] = {"supported": mode is not None, "enabled": False, "pending": False, "instances": []}
        if mode is None:
            return answer
        answer["enabled"], answer["pending"] = bool(mode[0]), mode[0] != mode[1]
        if not answer["enabled"]:
            return answer
        for number in range(self.ask(label, "nvmlDeviceGetMaxMigDeviceCount", handle) or 0):
            instance = self.ask(label, "nvmlDeviceGetMigDeviceHandleByIndex", handle, number)
            if instance is None:
                continue
            memory = self.ask(label, "nvmlDeviceGetMemoryInfo", instance)
            answer["instances"].append(
                {
                    "index": number,
                    "uuid": self.ask(label, "nvmlDeviceGetUUID", instance),
                    "name": self.ask(label, "nvmlDeviceGetName", instance),
                    "gpu_instance": self.ask(label, "nvmlDeviceGetGpuInstanceId", instance),
                    "compute_instance": self.ask(label, "nvmlDeviceGetComputeInstanceId", instance),
                    "memory_total_bytes": None if memory is None else memory.total,
                }
            )
        return answer

    def topology(self, handles: dict[str, Any]) -> list[dict[str, Any]]:
        """The longest way that data takes between each two GPUs."""
        uuids = list(handles)
        pairs = [(a, b) for i, a in enumerate(uuids) for b in uuids[i + 1 :]]
        found = []
        for a, b in pairs:
            level = self.ask(a, "nvmlDeviceGetTopologyCommonAncestor", handles[a], handles[b])
            if level is not None:
                found.append({"gpus": [a, b], "path": PATHS.get(level, str(level))})
        return found


def health_findings(gpu: dict[str, Any]) -> list[dict[str, Any]]:
    """What is wrong with a GPU that answers."""
    label = gpu["uuid"] or f"GPU {gpu['index']}"
    found = []

    def add(code: str, evidence: str) -> None:
        found.append(finding(code, f"{label}: {evidence}", gpu=label))

    rows, pcie, mig = gpu.get("remapped_rows"), gpu.get("pcie") or {}, gpu.get("mig") or {}
    if rows and rows["failed"]:
        add("GPU_ROW_REMAP_FAILED", f"{rows['uncorrected']} rows remapped for uncorrectable errors, remapping failed")
    elif rows and rows["pending"]:
        add("GPU_ROW_REMAP_PENDING", "a memory row waits to be replaced")
    errors = (gpu.get("ecc") or {}).get("uncorrected")
    if errors:
        add("GPU_ECC_UNCORRECTED", f"{errors} uncorrected memory errors since the driver was loaded")
    if gpu.get("compute_mode") in ("exclusive_process", "exclusive_thread"):
        add("GPU_COMPUTE_EXCLUSIVE", f"compute mode is {gpu['compute_mode']}")
    if gpu.get("compute_mode") == "prohibited":
        add("GPU_COMPUTE_PROHIBITED", "compute mode is prohibited")
    if pcie.get("width") and pcie.get("width_max") and pcie["width"] < pcie["width_max"]:
        add("GPU_PCIE_NARROW", f"the PCIe link has {pcie['width']} of {pcie['width_max']} lanes")
    slowed = sorted(SLOWED_BY_A_FAULT & set(gpu.get("clock_reasons") or []))
    if slowed:
        add("GPU_SLOWED_DOWN", f"clocks are held down by {', '.join(slowed)}")
    if gpu.get("fabric_state") in ("not_started", "in_progress"):
        add("GPU_FABRIC_NOT_READY", f"the NVSwitch fabric is {gpu['fabric_state'].replace('_', ' ')}")
    if mig.get("pending"):
        add("GPU_MIG_PENDING", "MIG mode was changed and is not in force yet")
    if mig.get("enabled") and not mig["instances"]:
        add("GPU_MIG_EMPTY", "MIG is on and there is no instance")
    if gpu.get("persistence_mode") is False:
        add("GPU_PERSISTENCE_OFF", "persistence mode is off")
    return found


def verdict(gpus: Iterable[dict[str, Any]], findings: Iterable[dict[str, Any]], looked: bool) -> str:
    """fail beats unknown, unknown beats pass; nothing seen is not a pass."""
    if any(f["severity"] == "error" for f in findings):
        return "fail" if looked else "unknown"
    return "pass" if looked and any(gpus) else "unknown"


READ_PREFLIGHT = "see the commands that preflight and doctor name"


def collect(python_path: str, root: Path = Path("/")) -> dict[str, Any]:
    """Everything gpu_info returns. Never raises for what is missing on the host."""
    empty: dict[str, Any] = {"driver_version": None, "cuda_driver_version": None, "gpus": [], "topology": []}
    presence = gpu_presence(root)
    hardware = presence["pci"] or presence["driver"] or presence["nodes"]
    try:
        library = load_pynvml(python_path)
    except ImportError as error:
        found = [finding("PYTHON_PARTS_MISSING", f"{python_path}: {error}", path=python_path)]
        if not hardware:
            found = [finding("NO_GPU", "no NVIDIA device on the PCI bus, no /dev/nvidia*")]
        return {**empty, "findings": found, "verdict": "unknown"}
    answer = Nvml(library).read()
    codes = {f["code"] for f in answer["findings"]}
    if not hardware and codes & {"NVML_LIBRARY_NOT_FOUND", "DRIVER_NOT_LOADED"}:
        answer["findings"] = [finding("NO_GPU", "no NVIDIA device on the PCI bus, no /dev/nvidia*")]
    elif codes == {"NVML_LIBRARY_NOT_FOUND"} and not driver_there(root):
        # Preflight has said how to get one, and fails where GPUs are expected; nothing is proven without it.
        seen = f"no library or module of the driver; hardware: {', '.join(hardware)}"
        return {**answer, "findings": [finding("DRIVER_MISSING", seen, how=READ_PREFLIGHT)], "verdict": "unknown"}
    elif not answer["gpus"] and not codes:
        code = "NVML_NO_DEVICES" if hardware else "NO_GPU"
        answer["findings"] = [finding(code, "NVML counts 0 GPUs; hardware: " + (", ".join(hardware) or "none"))]
    return {**answer, "verdict": verdict(answer["gpus"], answer["findings"], looked=True)}


def load_pynvml(python_path: str) -> ModuleType:
    """nvidia-ml-py, from the folder that the controller filled or from the system."""
    if Path(python_path).is_dir() and python_path not in sys.path:
        sys.path.insert(0, python_path)
    return import_module("pynvml")


def in_time(action: Callable[[], dict[str, Any]], seconds: float) -> dict[str, Any]:
    """The action's answer from a child process: a driver that hangs or crashes takes only that along."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.close(reader)
            with os.fdopen(writer, "w") as out:
                json.dump(action(), out)
            status = 0
        finally:
            os._exit(status)
    os.close(writer)
    try:
        data = read_until(reader, time.monotonic() + seconds)
    finally:
        os.close(reader)
    if data is None:
        os.kill(child, signal.SIGKILL)
        raise TimeoutError(f"no answer within {seconds:g} s")
    _pid, status = os.waitpid(child, 0)
    if status:
        raise RuntimeError(f"the query ended with {describe_status(status)}")
    answer: dict[str, Any] = json.loads(data)
    return answer


def describe_status(status: int) -> str:
    if os.WIFSIGNALED(status):
        return f"signal {signal.Signals(os.WTERMSIG(status)).name}"
    return f"exit code {os.waitstatus_to_exitcode(status)}"


def read_until(descriptor: int, deadline: float) -> bytes | None:
    """Everything up to the end of the pipe, or None when the deadline comes first."""
    parts: list[bytes] = []
    while True:
        ready, _w, _x = select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            return None
        part = os.read(descriptor, 1 << 16)
        if not part:
            return b"".join(parts)
        parts.append(part)


def query(python_path: str, seconds: float) -> dict[str, Any]:
    """collect(), guarded: what hangs or crashes is a finding too."""
    empty: dict[str, Any] = {"driver_version": None, "cuda_driver_version": None, "gpus": [], "topology": []}
    try:
        return in_time(lambda: collect(python_path), seconds)
    except TimeoutError as error:
        return {**empty, "findings": [finding("NVML_TIMEOUT", str(error), gpu="the GPU")], "verdict": "fail"}
    except RuntimeError as error:
        return {**empty, "findings": [finding("NVML_CRASHED", str(error))], "verdict": "fail"}
