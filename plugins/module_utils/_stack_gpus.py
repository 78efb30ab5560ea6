# Copyright: gpulab.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Which GPU each service of a stack gets: what it asked for, held against what was proven."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from ansible_collections.gpulab.fleet.plugins.module_utils._errors import FleetError

PROOF = Path("/var/lib/gpulab/proof.json")
PROOF_OF_THIS_BOOT = Path("/run/gpulab/proof.json")


def wanted(request: Any) -> bool:
    """Whether a request (all, a count, a list) is for any GPU."""
    return bool(request) and request not in ("none", "0")


def is_request(request: Any) -> bool:
    """Whether this asks for GPUs in a form that is understood.

    A count may be text: Jinja makes one of every number; an empty list may be nothing: Compose makes that of it.
    """
    if request is None:
        return True
    if isinstance(request, list):
        return all(isinstance(gpu, (str, int)) and not isinstance(gpu, bool) for gpu in request)
    if isinstance(request, str):
        return request in ("all", "none") or request.isdecimal()
    return isinstance(request, int) and not isinstance(request, bool) and request >= 0


def check_request(service: str, request: Any) -> None:
    if not is_request(request):
        text = f"gpus.{service} is {request!r}, not all, a number, or a list of UUIDs and indices"
        raise FleetError("STACK_SETTING_INVALID", text)


def proven(user: str, proof: Path = PROOF, this_boot: Path = PROOF_OF_THIS_BOOT) -> tuple[list[str], list[str]]:
    """(this user's GPUs, the host's GPUs in their order), by UUID; an error when they are not proven now."""
    try:
        record = json.loads(proof.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise FleetError("STACK_GPU_UNPROVEN", f"{proof}: {getattr(error, 'strerror', None) or error}") from error
    mine = record.get("users", {}).get(user)
    if mine is None:
        raise FleetError("STACK_GPU_UNPROVEN", f"no GPU was proven for {user}")
    if mine["verdict"] != "pass":
        failed = [step for step in mine["steps"] if step["verdict"] != "pass"]
        text = "; ".join(
            f"step {step['name']}{' of ' + step['gpu'] if step.get('gpu') else ''}: "
            f"{step['verdict']} ({step.get('detail') or 'no detail'})"
            for step in failed
        )
        raise FleetError("STACK_GPU_UNPROVEN", f"verdict for {user} is {mine['verdict']}: {text or 'no step was run'}")
    if not this_boot.exists():
        raise FleetError("STACK_GPU_UNPROVEN", f"the proof is of an earlier boot ({this_boot} is not there)")
    for path, checksum in mine.get("specs", {}).items():
        try:
            same = sha256(Path(path).read_bytes()).hexdigest() == checksum
        except OSError:
            same = False
        if not same:
            raise FleetError("STACK_GPU_UNPROVEN", f"{path} is not what was proven")
    return list(mine["gpus"]), [gpu["uuid"] for gpu in record.get("gpus", [])]


def specs(user: str, proof: Path = PROOF) -> list[Path]:
    """The CDI specs of a user's engine, as they were proven."""
    record = json.loads(proof.read_text(encoding="utf-8"))
    return [Path(path) for path in record["users"][user].get("specs", {})]


def driver_cuda(proof: Path = PROOF) -> str:
    """The newest CUDA version that the host's driver knows, empty where that was never asked."""
    try:
        return str(json.loads(proof.read_text(encoding="utf-8")).get("cuda") or "")
    except (OSError, ValueError, AttributeError):
        return ""


def assign(
    requests: Mapping[str, Any],
    mine: Sequence[str],
    host: Sequence[str],
    before: Mapping[str, Sequence[str]],
    elsewhere: Sequence[str],
    taken: Mapping[str, str] | None = None,
) -> dict[str, list[str]]:
    """UUIDs for each service.

    mine       the user's proven GPUs
    host       all of the host's, in order: what an index counts
    before     what this stack's services have now: kept as long as it fits
    elsewhere  what the user's other stacks hold (with repeats): a count takes what is least held
    taken      GPUs that others hold for themselves, and who: nobody else gets those
    """
    taken = taken or {}
    requests = {name: int(each) if str(each).isdecimal() else each for name, each in requests.items()}
    held, given = Counter(elsewhere), {}
    order = [uuid for uuid in host if uuid in mine] + [uuid for uuid in mine if uuid not in host]
    free = [uuid for uuid in order if uuid not in taken]
    # Those who name their GPUs come first, so that those who only count can keep out of their way.
    for service, request in sorted(requests.items(), key=lambda each: isinstance(each[1], int)):
        if not wanted(request):
            continue
        if request == "all":
            chosen = list(order)
        elif isinstance(request, list):
            # The same GPU may be named twice, once by its index and once by its UUID.
            chosen = list(dict.fromkeys(_named(service, each, order, host) for each in request))
        else:
            if request > len(order):
                text = f"gpus.{service} asks for {request}; the user has {len(order)}: {', '.join(order) or 'none'}"
                raise FleetError("STACK_GPUS_SHORT", text)
            kept = [uuid for uuid in before.get(service, []) if uuid in free][:request]
            rest = sorted((uuid for uuid in free if uuid not in kept), key=lambda uuid: held[uuid])
            chosen = kept + rest[: request - len(kept)]
            if len(chosen) < request:
                chosen = [*chosen, *(uuid for uuid in order if uuid in taken)]  # refused below, by name
        if not chosen:
            raise FleetError("STACK_GPUS_SHORT", f"gpus.{service} asks for {request}; the user has none")
        others = [f"{uuid} is held by {taken[uuid]}" for uuid in chosen if uuid in taken]
        if others:
            left = ", ".join(free) or "none"
            raise FleetError("GPU_HELD", f"gpus.{service} asks for {request}; {'; '.join(others)}; free: {left}")
        held.update(chosen)
        given[service] = chosen
    return given


def _named(service: str, name: Any, mine: Sequence[str], host: Sequence[str]) -> str:
    index = int(name) if str(name).isdecimal() else -1
    uuid = host[index] if 0 <= index < len(host) else str(name)
    if uuid not in mine:
        text = f"gpus.{service} asks for {name}; the user has {', '.join(mine) or 'none'}"
        raise FleetError("STACK_GPUS_SHORT", text)
    return uuid
