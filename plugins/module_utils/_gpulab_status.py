# Copyright: gpulab.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""`gpulab status`: what runs, of which release, and whether it is well."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ansible_collections.gpulab.fleet.plugins.module_utils import _generated_secrets, _gpu_holders, _stack_mounts
from ansible_collections.gpulab.fleet.plugins.module_utils._compose import Container
from ansible_collections.gpulab.fleet.plugins.module_utils._gpulab_stacks import Place, find, pick
from ansible_collections.gpulab.fleet.plugins.module_utils._gpulab_text import cut, table, when, width
from ansible_collections.gpulab.fleet.plugins.module_utils._userenv import Account

SCHEMA = 1
WELL = "healthy"


def state_of(services: Sequence[str], containers: Sequence[Container], unfinished: bool) -> str:
    """One word for a stack: healthy, starting, unhealthy, stopped, unfinished."""
    if unfinished:
        return "unfinished"
    mine = [each for each in containers if each.service in services]
    if not any(each.status in ("running", "restarting", "paused") or each.done for each in mine):
        return "stopped"
    missing = set(services) - {each.service for each in mine}
    if not missing and all(each.well for each in mine):
        return WELL
    return "unhealthy" if missing or any(each.hopeless or each.status != "running" for each in mine) else "starting"


def look(place: Place) -> dict[str, Any]:
    """What is known of one stack; FleetError when its engine does not answer."""
    containers = place.project().containers()
    release, unfinished = place.release, place.unfinished
    services = place.services(containers)
    held = {h.service: h for h in _gpu_holders.read() if (h.uid, h.stack) == (place.user.uid, place.name)}
    failed = place.failed()
    told = [service(name, containers, release, held) for name in services]
    extra = {each.service for each in containers} - set(services)
    return {
        "name": place.name,
        "state": state_of(services, containers, bool(unfinished)),
        "release": release.get("id"),
        "made": release.get("made"),
        "by": release.get("by"),
        "why": release.get("why"),
        "folder": str(place.current),
        "secret_files": _generated_secrets.where(place.store, release),
        "mounts": release.get("host_mounts") or {},
        "services": told + [service(name, containers, release, held) for name in sorted(extra)],
        "unfinished": unfinished or None,
        "failed": {"release": failed[0], **failed[1]} if failed else None,
    }


def service(
    name: str, containers: Sequence[Container], release: dict[str, Any], held: dict[str, _gpu_holders.Holder]
) -> dict[str, Any]:
    mine = [each for each in containers if each.service == name]
    first = mine[0] if mine else None
    known = (release.get("services") or {}).get(name) or {}
    gpus = list(held[name].gpus) if name in held else list(known.get("gpus") or [])
    return {
        "service": name,
        "status": first.describe() if first else "no container",
        "well": bool(mine) and all(each.well for each in mine),
        "since": first.started[:19] + "Z" if first and first.status == "running" else None,
        "image": first.image if first else known.get("image"),
        "addresses": sorted({f"{ip}:{port}" for each in mine for ip, port, _inside in each.published}),
        "gpus": gpus,
    }


def answer(user: Account, name: str | None) -> dict[str, Any]:
    places = [pick(user, name)] if name else list(find(user).values())
    return {"schema": SCHEMA, "user": user.name, "stacks": [look(place) for place in places]}


def status_code(result: dict[str, Any]) -> int:
    """0 when everything that should run is well."""
    return 0 if all(stack["state"] == WELL for stack in result["stacks"]) else 1


def lines(result: dict[str, Any]) -> list[str]:
    if not result["stacks"]:
        return [f"{result['user']} has no stacks on this host"]
    text: list[str] = []
    for stack in result["stacks"]:
        text += [""] * bool(text) + of_stack(stack)
    return text


def of_stack(stack: dict[str, Any]) -> list[str]:
    columns = width()
    head = f"{stack['name']}: {stack['state']}"
    if stack["release"]:
        head += f", release {stack['release']} of {when(stack['made'] or '')}"
        head += f" by {stack['by']}" if stack["by"] else ""
    text = [cut(head, columns)]
    if stack["why"]:
        text.append(cut(f"  why: {stack['why']}", columns))
    rows = []
    for each in stack["services"]:
        since = f" since {when(each['since'])}" if each["since"] else ""
        where = [*each["addresses"], *(["1 GPU"] if len(each["gpus"]) == 1 else [])]
        where += [f"{len(each['gpus'])} GPUs"] if len(each["gpus"]) > 1 else []
        rows.append([each["service"], each["status"] + since, ", ".join(where)])
    text += table(rows, columns, "  ")
    text.append(f"  in {stack['folder']}")
    text += [f"  {name} is in {path}" for name, path in stack["secret_files"].items()]
    text += [f"  {_stack_mounts.line(name, entry)}" for name, entry in stack["mounts"].items()]
    if stack["unfinished"]:
        step = stack["unfinished"]
        text.append(f"  unfinished: {step.get('verb')} of release {step.get('to')}; settled by: gpulab settle")
    if stack["failed"]:
        failed = stack["failed"]
        text.append(
            f"  release {failed['release']} failed ({failed.get('code')}): "
            f"gpulab logs {stack['name']} --release {failed['release']}"
        )
    return text
