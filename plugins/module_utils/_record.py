# Copyright: gpulab.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The record of a host's proof: what was proven, of which GPUs, driver, toolkit, engines and specs.

It changes when a verdict or one of these identities changes. Times are kept as they were when it was
written and are not compared, so that proving the same again changes nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ansible_collections.gpulab.fleet.plugins.module_utils._findings import finding
from ansible_collections.gpulab.fleet.plugins.module_utils._lines import wrapped
from ansible_collections.gpulab.fleet.plugins.module_utils._proof import fold

SCHEMA = 1
NOT_COMPARED = {"seconds", "detail"}


def checksum(path: str) -> str | None:
    try:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()
    except OSError:
        return None


def has_no_gpu(info: Mapping[str, Any]) -> bool:
    return any(found["code"] == "NO_GPU" for found in info["findings"])


def count_finding(info: Mapping[str, Any], expected: int | None) -> list[dict[str, Any]]:
    """The finding when the host has more or fewer usable GPUs than the inventory says."""
    there = [gpu for gpu in info["gpus"] if gpu["uuid"] and gpu["status"] == "ok"]
    if expected is None or expected == len(there):
        return []
    lost = [f"GPU {gpu['index']} ({gpu['uuid'] or 'lost'})" for gpu in info["gpus"] if gpu not in there]
    names = ", ".join(f"{gpu['uuid']} ({gpu['name']})" for gpu in there) or "none"
    text = f"expected {expected}, usable {len(there)}: {names}"
    text += f"; not usable: {', '.join(lost)}" if lost else ""
    return [finding("PROOF_GPU_COUNT", text)]


def user_record(proof: Mapping[str, Any]) -> dict[str, Any]:
    """One user's part: what was proven and what it stands for."""
    return {
        "verdict": proof["verdict"],
        "gpus": sorted(proof["gpus"]),
        "engine": (proof.get("engine") or {}).get("version"),
        "specs": {path: checksum(path) for path in (proof.get("spec") or {}).get("files", [])},
        "findings": sorted({found["code"] for found in proof["findings"]}),
        "steps": [dict(step) for step in proof["steps"]],
    }


def make(
    info: Mapping[str, Any], proofs: Sequence[Mapping[str, Any]], expected: int | None, toolkit: str | None
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The record, and every finding behind it."""
    users = {proof["user"]: user_record(proof) for proof in proofs}
    counted = count_finding(info, expected)
    findings = [*counted, *info["findings"], *(found for proof in proofs for found in proof["findings"])]
    # Without a container nothing was proven, however well the driver answers.
    verdicts = [info["verdict"], *(user["verdict"] for user in users.values()), *([] if users else ["unknown"])]
    return {
        "schema": SCHEMA,
        "verdict": fold([*verdicts, *(["fail"] if counted else [])]),
        "driver": info["driver_version"],
        "cuda": info["cuda_driver_version"],
        "toolkit": toolkit,
        "gpus": [{"uuid": gpu["uuid"], "name": gpu["name"], "status": gpu["status"]} for gpu in info["gpus"]],
        "users": users,
        "findings": sorted({found["code"] for found in findings if found["severity"] == "error"}),
    }, findings


def compared(value: Any) -> Any:
    """A record without what may differ from run to run."""
    if isinstance(value, Mapping):
        return {key: compared(each) for key, each in value.items() if key not in NOT_COMPARED}
    if isinstance(value, list):
        return [compared(each) for each in value]
    return value


def host_lines(info: Mapping[str, Any]) -> list[str]:
    """The host's GPUs as a person reads them."""
    if has_no_gpu(info):
        return ["no GPU on this host"]
    driver = info["driver_version"] or "unknown"
    text = [
        f"{info['verdict'].upper():7} {len(info['gpus'])} GPUs, driver {driver}, CUDA {info['cuda_driver_version']}"
    ]
    for gpu in info["gpus"]:
        memory = (gpu.get("memory_total_bytes") or 0) / (1 << 30)
        name = gpu["uuid"] or f"index {gpu['index']}"
        text += wrapped(f"  {gpu['status']:7} ", f"{name} {gpu['name']}, {memory:.0f} GiB")
    for found in info["findings"]:
        text += wrapped(f"  {found['severity']:7} ", f"{found['code']}: {found['evidence']}")
    return text
