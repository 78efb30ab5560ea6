# Copyright: gpulab.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Checks of the NVIDIA driver: module, library, device nodes, and what the kernel log says of the GPUs."""

from __future__ import annotations

import re

from ansible_collections.gpulab.fleet.plugins.module_utils import _driver_origin
from ansible_collections.gpulab.fleet.plugins.module_utils import _health_facts as facts
from ansible_collections.gpulab.fleet.plugins.module_utils._cdi import SHARES
from ansible_collections.gpulab.fleet.plugins.module_utils._findings import finding
from ansible_collections.gpulab.fleet.plugins.module_utils._floors import DRIVER_FLOOR, accepted, dotted
from ansible_collections.gpulab.fleet.plugins.module_utils._health import Check, Seen
from ansible_collections.gpulab.fleet.plugins.module_utils._health_view import HostView, Unreadable
from ansible_collections.gpulab.fleet.plugins.module_utils._nvml import CODES, code_finding
from ansible_collections.gpulab.fleet.plugins.module_utils._settings import UUID

LIBRARY_FOLDERS = ("/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64", "/usr/lib")
NO_DEVICES = 6  # nvidia-smi's exit code for "No devices were found"

# Xid numbers that speak of the GPU, its memory, its links or its firmware, and not of a program's mistake.
XID_HARDWARE = {
    48: "double-bit memory error",
    62: "internal micro-controller halt",
    63: "memory row remapped or page retired",
    64: "memory row could not be remapped",
    74: "NVLink error",
    79: "GPU has fallen off the bus",
    92: "many single-bit memory errors",
    94: "contained memory error",
    95: "uncontained memory error",
    110: "security fault",
    119: "GSP firmware does not answer",
    120: "GSP firmware error",
    140: "unrecovered memory error",
    154: "GPU needs a reset or reboot",
}
XID_PROGRAM = {13, 31, 43, 45, 68, 69, 109}


def module(host: HostView) -> Seen:
    """The kernel module is loaded, and nothing else holds the GPUs."""
    if facts.driver_version(host) is not None:
        return
    yield from _driver_origin.not_loaded(host, expected=str(host.settings.get("gpulab_gpus_expected", 0)) != "0")


def library_version(host: HostView) -> str | None:
    """The version that libnvidia-ml's file name carries."""
    for folder in LIBRARY_FOLDERS:
        for path in host.glob(f"{folder}/libnvidia-ml.so.*"):
            found = re.fullmatch(r"libnvidia-ml\.so\.(\d+(?:\.\d+)+)", path.rsplit("/", 1)[1])
            if found:
                return found.group(1)
    return None


def answers(host: HostView) -> Seen:
    """The driver's library fits the module and answers; nvidia-smi's exit code is NVML's return code."""
    loaded = facts.driver_version(host)
    if loaded is None:
        return  # told by the check 'module'
    library = library_version(host)
    if library is not None and library != loaded:
        yield finding("NVML_LIBRARY_MISMATCH", f"module {loaded}, library {library}")
        return
    if facts.version(loaded) < DRIVER_FLOOR and not accepted(loaded, facts.accepted_versions(host)):
        yield finding("DRIVER_TOO_OLD", f"driver {loaded}", oldest=dotted(DRIVER_FLOOR))
    try:
        smi = facts.smi(host)
    except Unreadable as error:
        if "no answer within" not in str(error):
            raise
        yield finding("NVML_TIMEOUT", str(error), gpu="A GPU")
        return
    if smi is None:
        yield Unreadable("GPUs", "nvidia-smi is not installed")
        return
    said = smi.text.splitlines()[0] if smi.text else "no text"
    if smi.rc == NO_DEVICES or (smi.rc == 0 and not smi.gpus):
        yield finding("NVML_NO_DEVICES", f"nvidia-smi: {said} (exit code {smi.rc})")
    elif smi.rc in CODES:
        yield code_finding(smi.rc, f"nvidia-smi: {said}")
    elif "Unknown Error" in smi.text:
        yield code_finding(999, f"nvidia-smi: {said}")  # an exit code has 8 bits: 255
    elif smi.rc != 0:
        yield code_finding(smi.rc, f"nvidia-smi: {said}")


def count(host: HostView) -> Seen:
    """As many GPUs as the inventory expects. Where the driver does not answer, that has been told instead."""
    expected = host.settings.get("gpulab_gpus_expected")
    if not str(expected).isdigit():
        return
    if not facts.gpu_present(host):
        seen, names = 0, "no NVIDIA GPU on the PCI bus and no driver"
    elif facts.driver_version(host) is None:
        return
    else:
        listed = facts.smi(host)
        if listed is not None and (listed.rc != 0 or not listed.gpus):
            return
        gpus = [f"{gpu['uuid']} ({gpu['name']})" for gpu in listed.gpus] if listed else facts.cards(host)["driver"]
        seen, names = len(gpus), ", ".join(gpus)
    if seen != int(str(expected)):
        yield finding("PROOF_GPU_COUNT", f"expected {expected}, usable {seen}: {names}")


def given(host: HostView) -> Seen:
    """The GPUs that the inventory gives to users are there."""
    users = facts.dict_of(host.settings.get("gpulab_users"))
    if not any(isinstance(facts.dict_of(user).get("gpus"), list) for user in users.values()):
        return
    listed = facts.smi(host)
    if listed is None or not listed.gpus:
        return  # told by the check 'answers'
    known = {str(gpu[key]) for gpu in listed.gpus for key in ("index", "uuid")}
    for name, user in users.items():
        gpus = facts.dict_of(user).get("gpus")
        for gpu in gpus if isinstance(gpus, list) else []:
            # What nvidia-smi does not list: instances of MIG; and malformed names, which the settings' check tells.
            if str(gpu) not in known and re.fullmatch(rf"\d+|GPU-{UUID}", str(gpu)):
                there = ", ".join(f"{each['index']} = {each['uuid']}" for each in listed.gpus)
                yield finding("GPU_UNKNOWN", f"gpulab_users.{name}.gpus has {gpu}", user=name, known=there)


def nodes(host: HostView) -> Seen:
    """The device nodes are there, are the driver's, and open to a container of an ordinary user."""
    uvm = host.node("/dev/nvidia-uvm")
    drivers = re.findall(r"^ *(\d+) ", (host.read("/proc/devices") or "").partition("Block devices:")[0], re.MULTILINE)
    if uvm is None:
        yield finding("UVM_MISSING", "/dev/nvidia-uvm does not exist")
    elif uvm.device and drivers and str(uvm.device[0]) not in drivers:
        yield finding(
            "UVM_NODE_STALE", f"/dev/nvidia-uvm has major {uvm.device[0]}, which no driver in /proc/devices has"
        )
    present = [
        path for path in host.glob("/dev/nvidia*") if re.fullmatch(r"/dev/nvidia(\d+|ctl|-uvm|-uvm-tools)", path)
    ]
    if not any(path[-1].isdigit() for path in present):
        yield finding("GPU_NODES_MISSING", "no /dev/nvidia0, /dev/nvidia1 ...")
    known = {path: node for path in present if (node := host.node(path))}
    closed = [path for path, node in known.items() if node.mode & 0o006 != 0o006 and not node.acl]
    if closed and not host.exists(SHARES):
        yield finding("GPU_NODES_RESTRICTED", f"{', '.join(closed)} lack read and write for others")


def shares(host: HostView) -> Seen:
    """Where shares are enforced, the driver leaves the nodes alone."""
    told = re.search(r"^ModifyDeviceFiles: (\S+)", host.read("/proc/driver/nvidia/params") or "", re.MULTILINE)
    if host.exists(SHARES) and told and told.group(1) != "0":
        yield finding("GPU_SHARES_PENDING", f"/proc/driver/nvidia/params: {told.group()}")


def fabric(host: HostView) -> Seen:
    """nvidia-fabricmanager has the driver's version and runs, where it is installed."""
    manager = {
        name: package for name, package in facts.packages(host).items() if name.startswith("nvidia-fabricmanager")
    }
    loaded = facts.driver_version(host)
    for name, package in manager.items():
        number = ".".join(map(str, facts.version(package.version)))
        wanted = ".".join(map(str, facts.version(loaded or "")))
        if loaded and number != wanted and not name.endswith("-dev"):
            yield finding("FABRIC_MANAGER_MISMATCH", f"{name} {package.version}, driver {loaded}")


def kernel_log(host: HostView) -> Seen:
    """What the kernel log of this boot says of the GPUs: faults of hardware, apart from those of programs."""
    lines = _kernel_lines(host)
    seen: dict[tuple[str, int], int] = {}
    for line in lines:
        found = re.search(r"NVRM: Xid \(PCI:([0-9a-fA-F:.]+)\): (\d+)", line)
        if found:
            key = (found.group(1), int(found.group(2)))
            seen[key] = seen.get(key, 0) + 1
    for (gpu, xid), times in sorted(seen.items()):
        text = f"GPU {gpu}: Xid {xid}, {times} time{'s' if times > 1 else ''} since boot"
        if xid in XID_HARDWARE:
            yield finding("XID_HARDWARE", f"{text}: {XID_HARDWARE[xid]}", gpu=gpu, xid=xid)
        elif xid in XID_PROGRAM:
            yield finding("XID_PROGRAM", text, gpu=gpu, xid=xid)
        else:
            yield finding("XID_OTHER", text, gpu=gpu, xid=xid)


def _kernel_lines(host: HostView) -> list[str]:
    """NVRM's lines of the kernel log, from the journal or the kernel's buffer; not being allowed to is no empty log."""
    journal = host.run(["journalctl", "-k", "-b", "-q", "--no-pager", "-o", "cat", "-n", "20000"], timeout=20)
    if journal and journal.rc == 0 and journal.out.strip():
        return [line for line in journal.out.splitlines() if "NVRM" in line]
    ring = host.run(["dmesg"])
    if ring and ring.rc == 0 and ring.out.strip():
        return [line for line in ring.out.splitlines() if "NVRM" in line]
    why = next(
        (each.err.strip().splitlines()[-1] for each in (journal, ring) if each and each.err.strip()), "it is empty"
    )
    raise Unreadable("kernel log (Xid errors)", why)


CHECKS = (
    Check(
        "module",
        module,
        (
            "NOUVEAU_LOADED",
            "DRIVER_MISSING",
            "DRIVER_EXPECTED",
            "DRIVER_HEADERS_MISSING",
            "DRIVER_NOT_SIGNED",
            "DRIVER_NOT_LOADED",
        ),
        preflight=True,
        needed=facts.gpu_present,
        for_gpus=True,
    ),
    Check(
        "answers",
        answers,
        (
            "NVML_LIBRARY_MISMATCH",
            "DRIVER_TOO_OLD",
            "NVML_NO_DEVICES",
            "NVML_TIMEOUT",
            "NVML_ERROR",
            *sorted(CODES.values()),
        ),
        preflight=True,
        needed=facts.gpu_present,
        for_gpus=True,
    ),
    Check("count", count, ("PROOF_GPU_COUNT",), preflight=True),
    Check("given", given, ("GPU_UNKNOWN",), preflight=True, needed=facts.gpu_present),
    Check(
        "nodes",
        nodes,
        ("UVM_MISSING", "UVM_NODE_STALE", "GPU_NODES_MISSING", "GPU_NODES_RESTRICTED"),
        needed=lambda host: facts.driver_version(host) is not None,
    ),
    Check("shares", shares, ("GPU_SHARES_PENDING",)),
    Check(
        "next_kernel",
        _driver_origin.next_kernel,
        ("DRIVER_NOT_FOR_NEXT_KERNEL",),
        preflight=True,
        needed=facts.gpu_present,
        for_gpus=True,
    ),
    Check("fabric", fabric, ("FABRIC_MANAGER_MISMATCH",)),
    Check(
        "kernel_log",
        kernel_log,
        ("XID_HARDWARE", "XID_PROGRAM", "XID_OTHER"),
        needed=lambda host: facts.driver_version(host) is not None,
    ),
)
