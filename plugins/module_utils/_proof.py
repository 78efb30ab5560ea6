# Copyright: gpulab.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the probe's answers mean: steps with verdicts, findings, and the lines a person reads.

Verdicts are pass, fail and unknown. What was not looked at is unknown: never a pass.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.gpulab.fleet.plugins.module_utils._cuda import FORMAT, bare
from ansible_collections.gpulab.fleet.plugins.module_utils._findings import finding
from ansible_collections.gpulab.fleet.plugins.module_utils._lines import wrapped

CUDA_CODES = {
    2: "CUDA_OUT_OF_MEMORY",
    3: "CUDA_NOT_INITIALIZED",
    46: "CUDA_DEVICES_UNAVAILABLE",
    100: "CUDA_NO_DEVICE",
    101: "CUDA_INVALID_DEVICE",
    209: "CUDA_PTX_REJECTED",
    214: "CUDA_ECC",
    218: "CUDA_PTX_REJECTED",
    221: "CUDA_JIT_MISSING",
    222: "CUDA_PTX_REJECTED",
    700: "CUDA_KERNEL_FAULT",
    702: "CUDA_KERNEL_FAULT",
    714: "CUDA_KERNEL_FAULT",
    715: "CUDA_KERNEL_FAULT",
    716: "CUDA_KERNEL_FAULT",
    717: "CUDA_KERNEL_FAULT",
    718: "CUDA_KERNEL_FAULT",
    719: "CUDA_KERNEL_FAULT",
    802: "CUDA_FABRIC_NOT_READY",
    803: "CUDA_DRIVER_MISMATCH",
    804: "CUDA_COMPAT_NOT_SUPPORTED",
    999: "CUDA_UNKNOWN",
}
PROBE_ERRORS = {
    "TIMEOUT": "CUDA_TIMEOUT",
    "LIBRARY_NOT_FOUND": "CUDA_LIBRARY_NOT_FOUND",
    "UUID_NOT_VISIBLE": "PROOF_GPU_SET_DIFFERS",
    "COPY_DIFFERS": "CUDA_COPY_DIFFERS",
    "RESULT_WRONG": "CUDA_WRONG_RESULT",
}
UNKNOWN_ERROR = 999
UVM = "/dev/nvidia-uvm"
REFUSED = ("EACCES", "EPERM")
COMPUTE_STEPS = ("library", "cuInit", "devices", "device", "context", "memory", "copy", "kernel")
NOT_REACHED = "not reached"


@dataclass
class Judged:
    """Steps and findings of one part of the proof."""

    steps: list[dict[str, Any]] = field(default_factory=list)
    findings: list[dict[str, Any]] = field(default_factory=list)

    def add(self, name: str, verdict: str, detail: str, seconds: float = 0.0, gpu: str | None = None) -> None:
        self.steps.append(
            {"name": name, "gpu": gpu, "verdict": verdict, "seconds": round(seconds, 3), "detail": detail}
        )

    def find(self, code: str, evidence: str, **data: Any) -> None:
        self.findings.append(finding(code, evidence, **data))

    def extend(self, other: Judged) -> None:
        self.steps += other.steps
        self.findings += other.findings


def gathered(findings: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """One finding a code; what was seen of several GPUs is told in one."""
    kinds: dict[str, dict[str, Any]] = {}
    seen: dict[str, dict[str, list[str]]] = {}
    for found in findings:
        kinds.setdefault(found["code"], found)
        subject, colon, text = found["evidence"].partition(": ")
        subject, text = (subject, text) if colon else ("", subject)
        subjects = seen.setdefault(found["code"], {}).setdefault(text, [])
        if subject not in subjects:
            subjects.append(subject)
    return [{**found, "evidence": evidence(seen[code])} for code, found in kinds.items()]


def evidence(texts: Mapping[str, list[str]]) -> str:
    lines = [": ".join(filter(None, (", ".join(subjects), text))) for text, subjects in texts.items()]
    return "\n          ".join(lines)


def fold(verdicts: Iterable[str]) -> str:
    """fail beats unknown, unknown beats pass; nothing at all is unknown."""
    seen = set(verdicts)
    if "fail" in seen:
        return "fail"
    return "pass" if seen == {"pass"} else "unknown"


def parse_answer(output: str) -> dict[str, Any] | None:
    """The probe's line among whatever else was printed; None when there is none."""
    for line in reversed(output.splitlines()):
        if line.startswith("{"):
            try:
                answer = json.loads(line)
            except ValueError:
                continue
            if isinstance(answer, dict) and answer.get("probe") == FORMAT:
                return answer
    return None


def error_text(error: Mapping[str, Any]) -> str:
    number = "" if error["code"] is None else f" {error['code']}"
    return f"step {error['step']}, {error['call']}: {error['name']}{number}: {error['text']}"


def error_code(answer: Mapping[str, Any]) -> str | None:
    """The finding's code for what went wrong in the probe; None when nothing did."""
    error = answer["error"]
    if error is None:
        return None
    files = {**answer.get("nodes", {}), **answer.get("control_nodes", {})}
    if any(said in REFUSED for said in files.values()):
        return "PROOF_NODE_FORBIDDEN"
    if error["code"] == UNKNOWN_ERROR and UVM not in answer.get("control_nodes", {}):
        return "UVM_MISSING"
    return PROBE_ERRORS.get(error["name"]) or CUDA_CODES.get(error["code"] or 0, "CUDA_ERROR")


def evidence_of(answer: Mapping[str, Any], gpu: str | None) -> str:
    """What was seen, with what explains the usual cause."""
    text = f"{gpu or 'container'}: {error_text(answer['error'])}"
    files = {**answer.get("nodes", {}), **answer.get("control_nodes", {})}
    refused = [path for path, said in files.items() if said in REFUSED]
    if refused:
        text += f"; may not open {', '.join(refused)}"
    elif error_code(answer) == "UVM_MISSING":
        text += f"; {UVM} is not there"
    return text


def reached(answer: Mapping[str, Any]) -> list[str]:
    """Forbidden GPUs that could be reached after all, each with how."""
    found = []
    for path, tried in answer.get("forbidden", {}).items():
        if tried["open"] != "ENOENT":
            found.append(f"{path} is there (open: {tried['open']})")
        elif tried.get("open_made") == "ok":
            found.append(f"{path} can be made and opened")
    return found


def seconds_of(answer: Mapping[str, Any], names: Iterable[str]) -> float:
    wanted = set(names)
    return float(sum(step["seconds"] for step in answer["steps"] if step["name"] in wanted))


def judge_gpu(answer: Mapping[str, Any], gpu: str, others: int, started: float, user: str) -> Judged:
    """A container that was given one GPU: sees it and it alone, and computes on it."""
    judged = Judged()
    code = error_code(answer)
    seen = answer.get("uuids")
    if seen is None:
        judged.add("visible", "fail", error_text(answer["error"]), started, gpu)
        if code:
            judged.find(code, evidence_of(answer, gpu), gpu=gpu, user=user)
        seen = []
    elif seen == [bare(gpu)]:
        judged.add("visible", "pass", "exactly this GPU", started, gpu)
    else:
        text = f"sees {', '.join(seen) or 'no GPU'}"
        judged.add("visible", "fail", text, started, gpu)
        isolation = bare(gpu) in seen
        judged.find("ISOLATION_BROKEN" if isolation else "PROOF_GPU_SET_DIFFERS", f"{gpu}: {text}", user=user)
    if others:
        judge_isolation(judged, answer, gpu, others, user)
    computed = seconds_of(answer, COMPUTE_STEPS)
    if "kernel" in answer and not answer["kernel"]["wrong"]:
        device = answer["device"]
        detail = (
            f"{device['name']}, compute capability {device['compute_capability']}: "
            f"{answer['copy']['bytes']} bytes there and back, {answer['kernel']['words']} results right"
        )
        judged.add("compute", "pass", detail, computed, gpu)
    elif code is None or "uuids" not in answer:
        judged.add("compute", "unknown", NOT_REACHED, computed, gpu)
    else:
        judged.add("compute", "fail", error_text(answer["error"]), computed, gpu)
        judged.find(code, evidence_of(answer, gpu), gpu=gpu, user=user)
    return judged


def judge_isolation(judged: Judged, answer: Mapping[str, Any], gpu: str | None, others: int, user: str) -> None:
    """Whether the host's other GPUs cannot be reached from this container."""
    tried = answer.get("forbidden", {})
    found = reached(answer)
    if found:
        judged.add("isolated", "fail", "; ".join(found), gpu=gpu)
        judged.find("ISOLATION_BROKEN", f"{gpu or 'a container without a GPU'}: {'; '.join(found)}", user=user)
    elif len(tried) < others:
        judged.add("isolated", "unknown", f"{len(tried)} of {others} other nodes were tried", gpu=gpu)
    else:
        detail = f"no way to {', '.join(sorted(tried))}"
        judged.add("isolated", "pass", detail, seconds_of(answer, ["nodes"]), gpu)


def judge_none(answer: Mapping[str, Any], nodes: int, seconds: float, user: str) -> Judged:
    """The negative control: a container that was given no GPU must not find one."""
    judged = Judged()
    wrong = [f"sees {uuid}" for uuid in answer.get("uuids") or []] + reached(answer)
    wrong += [f"{path} is there" for path in answer.get("nodes", {}) if path not in answer.get("forbidden", {})]
    if wrong:
        judged.add("none", "fail", "; ".join(wrong), seconds)
        judged.find("ISOLATION_BROKEN", f"a container without a GPU: {'; '.join(wrong)}", user=user)
    elif len(answer.get("forbidden", {})) < nodes:
        judged.add("none", "unknown", "not every node of this host was tried", seconds)
    else:
        said = error_text(answer["error"]) if answer["error"] else "CUDA counts 0 GPUs"
        judged.add("none", "pass", f"a container without a GPU finds none ({said})", seconds)
    return judged


def judge_all(answer: Mapping[str, Any], gpus: list[str], others: int, seconds: float, user: str) -> Judged:
    """nvidia.com/gpu=all is exactly what was assigned."""
    judged = Judged()
    seen, wanted = answer.get("uuids"), sorted(bare(gpu) for gpu in gpus)
    # A CUDA process sees one MIG instance at a time, whichever it was given.
    partitioned = any(gpu.startswith("MIG-") for gpu in gpus)
    if seen is None:
        judged.add("all", "fail", error_text(answer["error"]), seconds)
        judged.find(error_code(answer) or "CUDA_ERROR", evidence_of(answer, None), gpu="all", user=user)
        return judged
    extra, missing = sorted(set(seen) - set(wanted)), sorted(set(wanted) - set(seen))
    found = reached(answer)
    if extra or found:
        text = "; ".join([f"sees {uuid}" for uuid in extra] + found)
        judged.add("all", "fail", text, seconds)
        judged.find("ISOLATION_BROKEN", f"nvidia.com/gpu=all of {user}: {text}", user=user)
    elif missing and not (partitioned and seen):
        text = f"does not see {', '.join(missing)}"
        judged.add("all", "fail", text, seconds)
        judged.find("PROOF_GPU_SET_DIFFERS", f"nvidia.com/gpu=all of {user}: {text}", user=user)
    elif len(answer.get("forbidden", {})) < others:
        judged.add("all", "unknown", "not every other node of this host was tried", seconds)
    else:
        judged.add("all", "pass", f"all means exactly the {len(gpus)} assigned", seconds)
    return judged


def bandwidth_ratio(container: Mapping[str, Any], host: Mapping[str, Any]) -> float | None:
    """Container against host, the worse of both directions; None when one was not measured."""
    a, b = container.get("bandwidth"), host.get("bandwidth")
    if not a or not b:
        return None
    keys = ("host_to_device_bytes_per_second", "device_to_host_bytes_per_second")
    return float(min(a[key] / max(b[key], 1) for key in keys))


def judge_bandwidth(
    container: Mapping[str, Any] | None, host: Mapping[str, Any] | None, gpu: str, minimum: float, user: str
) -> Judged:
    """Copies in the container against copies on the host."""
    judged = Judged()
    if not container or not container.get("bandwidth"):
        judged.add("bandwidth", "unknown", NOT_REACHED, gpu=gpu)
        return judged
    seconds = seconds_of(container, ["bandwidth"])
    speed = container["bandwidth"]
    text = (
        f"to the GPU {speed['host_to_device_bytes_per_second'] / 1e9:.1f} GB/s, "
        f"back {speed['device_to_host_bytes_per_second'] / 1e9:.1f} GB/s"
    )
    ratio = bandwidth_ratio(container, host or {})
    if ratio is None:
        why = error_text(host["error"]) if host and host.get("error") else "the probe did not answer there"
        judged.add("bandwidth", "unknown", f"{text}; nothing measured on the host", seconds, gpu)
        judged.find("PROOF_HOST_UNKNOWN", f"{gpu}: {why}", user=user)
    elif ratio < minimum:
        judged.add("bandwidth", "fail", f"{text}; {ratio:.2f} of the host's", seconds, gpu)
        judged.find("PROOF_BANDWIDTH_LOW", f"{gpu}: {text}; {ratio:.2f} of the host's, below {minimum}", user=user)
    else:
        share = f"{ratio:.2f} of the host's" if ratio < 1 else "no less than the host's"
        judged.add("bandwidth", "pass", f"{text}; {share}", seconds, gpu)
    return judged


SAYS = {
    "engine": "rootless engine",
    "spec": "CDI spec",
    "image": "probe image",
    "visible": "sees it alone",
    "isolated": "reaches no other",
    "compute": "computes",
    "bandwidth": "copies",
    "none": "negative control",
    "all": "gpu=all",
}


def lines(user: str, verdict: str, steps: Iterable[Mapping[str, Any]]) -> list[str]:
    """The proof as a person reads it: one line a step, with times; a GPU's steps below its UUID."""
    text = [f"{verdict.upper():7} containers of {user}"]
    heading = None
    for step in steps:
        if step["gpu"] and step["gpu"] != heading:
            text.append(f"  {step['gpu']}")
        heading = step["gpu"]
        start = f"{'    ' if heading else '  '}{step['verdict']:7} {step['seconds']:5.2f} s  "
        text += wrapped(start, f"{SAYS.get(step['name'], step['name'])}: {step['detail']}")
    return text
