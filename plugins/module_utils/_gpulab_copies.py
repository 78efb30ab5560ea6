# Copyright: gpulab.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""`gpulab snapshot`, `restore` and `purge`: copies of a stack's data, put back, and all of it deleted for good.

While data are copied or put back the stack is down. A note beside its releases says so: whoever finds it without a run
that holds the stack's lock (at boot, or before the next verb) brings the stack up again.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ansible_collections.gpulab.fleet.plugins.module_utils import _release_gate as gate
from ansible_collections.gpulab.fleet.plugins.module_utils import _stack, _stack_lock, _stack_places, _stack_purge
from ansible_collections.gpulab.fleet.plugins.module_utils._compose import Project
from ansible_collections.gpulab.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.gpulab.fleet.plugins.module_utils._gpulab_stacks import Place, find, roots
from ansible_collections.gpulab.fleet.plugins.module_utils._gpulab_text import table
from ansible_collections.gpulab.fleet.plugins.module_utils._gpulab_verbs import transaction
from ansible_collections.gpulab.fleet.plugins.module_utils._release import Release, whoever
from ansible_collections.gpulab.fleet.plugins.module_utils._stack_snapshot import Snapshot, Snapshots
from ansible_collections.gpulab.fleet.plugins.module_utils._transaction import LOCK_WAIT
from ansible_collections.gpulab.fleet.plugins.module_utils._user_space import readable
from ansible_collections.gpulab.fleet.plugins.module_utils._userenv import Account

SCHEMA = 1


def copies(place: Place) -> Snapshots:
    return Snapshots(place.user, place.root, place.name)


def snapshot(place: Place, why: str, keep: int | None, check: bool) -> dict[str, Any]:
    release = current(place)
    parts = [*_stack_places.folders(release.data), *_stack_places.volumes(place.project())]
    if not parts:
        raise FleetError("STACK_NO_DATA", f"release {release.id} of {place.name} has no data folders and no volumes")
    if check:
        made = copies(place).make(parts, release.id, why, check=True)
        return {**plain(place, [made]), "changed": True, "removed": []}
    with stopped(place, "snapshot"):
        made = copies(place).make(parts, release.id, why)
    removed = copies(place).thin(keep) if keep is not None else []
    return {**plain(place, [made]), "changed": True, "removed": removed}


def restore(place: Place, name: str, check: bool) -> dict[str, Any]:
    release = current(place)
    if check or copies(place).read(name) is None:  # which is said before anything is stopped
        actions = copies(place).restore(name, check=True)
    else:
        with stopped(place, "restore"):
            actions = copies(place).restore(name)
        place.store.note(release.id, f"data of {name} put back", whoever())
    return {"schema": SCHEMA, "stack": place.name, "changed": True, "actions": actions}


def listed(place: Place) -> dict[str, Any]:
    return plain(place, copies(place).all())


def plain(place: Place, snapshots: list[Snapshot]) -> dict[str, Any]:
    keys = ("id", "release", "when", "why")
    rows = [{**{key: getattr(each, key) for key in keys}, "bytes": each.bytes} for each in snapshots]
    return {"schema": SCHEMA, "stack": place.name, "snapshots": rows}


def current(place: Place) -> Release:
    release = place.store.current()
    if release is None:
        raise FleetError("STACK_NOT_DEPLOYED", f"{place.folder} has no current release")
    return release


@contextlib.contextmanager
def stopped(place: Place, verb: str) -> Iterator[None]:
    """The stack is down, and up again afterwards, however this ends."""
    transaction(place).settle()
    store = place.store
    with _stack_lock.held(store.stacks, place.name, whoever(), verb, LOCK_WAIT):
        release = current(place)
        project = place.project()
        store.begin(verb, release.id, None, whoever())
        try:
            gate.stop(project)
            yield
        finally:
            gate.bring_up(project, release)
            store.end()


# --- purge -----------------------------------------------------------------------------------------------------


def purge(user: Account, name: str, typed: str, check: bool) -> dict[str, Any]:
    if not _stack.NAME.fullmatch(name):
        raise FleetError("STACK_NOT_HERE", f"{name} cannot be the name of a stack")
    deployed = find(user).get(name)
    if deployed:
        raise FleetError("STACK_PURGE_RUNS", f"{name} is deployed in {deployed.folder}")
    project = Project(user, name, Path("/"))
    found: dict[str, Any] = {"changed": False, "actions": [], "going": []}
    for root in roots(user):
        for key, value in _stack_purge.purge(project, Path(root), name if check else typed, check).items():
            found[key] = found[key] or value if key == "changed" else found[key] + value
    return {"schema": SCHEMA, "stack": name, **found}


# --- for people ------------------------------------------------------------------------------------------------


def lines(result: dict[str, Any]) -> list[str]:
    rows = [
        [each["id"], f"release {each['release']}", readable(each["bytes"]), each["why"]] for each in result["snapshots"]
    ]
    return [*(table(rows) or ["no snapshots"]), *(f"removed {each}" for each in result.get("removed") or [])]


def done_lines(result: dict[str, Any], check: bool) -> list[str]:
    return [f"{'would ' if check else ''}{action}" for action in result["actions"]] or ["nothing to do"]
