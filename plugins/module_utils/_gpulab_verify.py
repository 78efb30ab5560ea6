# Copyright: gpulab.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""`gpulab verify`: the proof of the user's GPUs in containers of their own engine, made now; or the one on record."""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path
from typing import Any

from ansible_collections.gpulab.fleet.plugins.module_utils import _proof, _stack_gpus
from ansible_collections.gpulab.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.gpulab.fleet.plugins.module_utils._findings import from_error, message, sort_findings
from ansible_collections.gpulab.fleet.plugins.module_utils._gpulab_gpus import PYTHON_PARTS
from ansible_collections.gpulab.fleet.plugins.module_utils._gpulab_stacks import load
from ansible_collections.gpulab.fleet.plugins.module_utils._passthrough import Passthrough, Settings
from ansible_collections.gpulab.fleet.plugins.module_utils._userenv import Account

SCHEMA = 1
RATIO = 0.5
SECONDS = 60.0


def given(user: Account, proof: Path | None = None) -> list[str]:
    """The GPUs that the host's own record says are this user's."""
    path = proof or _stack_gpus.PROOF
    record = load(path)
    if user.name not in (record.get("users") or {}):
        raise FleetError("CLI_NO_GPUS_GIVEN", f"{path}: {user.name} is not in it")
    return list(record["users"][user.name]["gpus"])


def prove(user: Account, python_path: str = PYTHON_PARTS) -> dict[str, Any]:
    """Containers with each GPU, with none and with all; what `gpulab.fleet.verify` does, without root."""
    gpus = given(user)
    for number in (signal.SIGHUP, signal.SIGTERM):
        # Through every finally, so that no container stays.
        signal.signal(number, lambda signum, _frame: sys.exit(128 + signum))
    started = time.monotonic()
    judged = Passthrough(Settings(user.name, gpus, python_path, RATIO, SECONDS)).run().judged
    verdict = _proof.fold(step["verdict"] for step in judged.steps)
    return {
        "schema": SCHEMA,
        "user": user.name,
        "gpus": gpus,
        "verdict": verdict,
        "steps": judged.steps,
        "findings": sort_findings(_proof.gathered(judged.findings)),
        "seconds": round(time.monotonic() - started, 3),
    }


def recorded(user: Account) -> dict[str, Any]:
    """What the last `site.yml` or `verify` proved, and whether it still holds: boot and specification are the same."""
    record = (load(_stack_gpus.PROOF).get("users") or {}).get(user.name)
    if record is None:
        given(user)  # says so
    found = []
    try:
        _stack_gpus.proven(user.name)
    except FleetError as error:
        found = [from_error(error, user=user.name)]
    verdict = (record or {}).get("verdict", "unknown")
    return {
        "schema": SCHEMA,
        "user": user.name,
        "gpus": (record or {}).get("gpus", []),
        "verdict": "unknown" if found and verdict == "pass" else verdict,
        "steps": (record or {}).get("steps", []),
        "findings": found,
    }


def status_code(result: dict[str, Any]) -> int:
    return 0 if result["verdict"] == "pass" else 1


def lines(result: dict[str, Any]) -> list[str]:
    text = _proof.lines(result["user"], result["verdict"], result["steps"])
    for found in result["findings"]:
        text += ["", *message(found).splitlines()]
    return text
