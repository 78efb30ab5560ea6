# Copyright: gpulab.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""`gpulab rollback`, `undeploy` and `settle`: transactions on the user's own stacks, and what is said of them."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ansible_collections.gpulab.fleet.plugins.module_utils import _docker_api
from ansible_collections.gpulab.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.gpulab.fleet.plugins.module_utils._findings import from_error
from ansible_collections.gpulab.fleet.plugins.module_utils._gpulab_stacks import Place, find
from ansible_collections.gpulab.fleet.plugins.module_utils._gpulab_text import cut, table, width
from ansible_collections.gpulab.fleet.plugins.module_utils._release import whoever
from ansible_collections.gpulab.fleet.plugins.module_utils._transaction import Transaction
from ansible_collections.gpulab.fleet.plugins.module_utils._userenv import Account
from ansible_collections.gpulab.fleet.plugins.module_utils._working_tree import rollback_words, state

SCHEMA = 1
ENGINE_STARTS = 60.0  # seconds that an engine may take at boot until it answers


def transaction(place: Place, check: bool = False) -> Transaction:
    return Transaction(place.user, str(place.root), place.name, check=check, who=whoever())


def prepare(user: Account) -> None:
    """What Compose and Git are started with is the user's own, whatever shell this was called from."""
    os.environ.update(user.environment())
    for name in [name for name in os.environ if name.startswith(("COMPOSE_", "DOCKER_"))]:
        del os.environ[name]


def rollback(place: Place, release: str | None, check: bool) -> dict[str, Any]:
    result = plain(transaction(place, check).rollback(release))
    return {**result, "notes": [*result["notes"], *([] if check else code_words(place))]}


def code_words(place: Place) -> list[str]:
    """Of a release whose code is edited where it lies: what has come back with it, and what has not."""
    release = place.store.current()
    if release is None or release.source.get("kind") != "mutable":
        return []
    diff = release.folder / "source.diff"
    words = rollback_words(release.source, diff, state(Path(release.source["path"])))
    return words if diff.exists() or not release.source.get("dirty") else words[:1]


def undeploy(place: Place, check: bool) -> dict[str, Any]:
    data = place.root / "data" / place.name
    result = plain(transaction(place, check).undeploy())
    return {**result, "kept": [str(data)] if data.is_dir() else []}


def settle(user: Account) -> dict[str, Any]:
    """Every stack of the user, one after the other; one that cannot be settled is not in the others' way."""
    places = find(user)
    if places:
        wait_for_engine(user)
    stacks = []
    for name, place in places.items():
        entry: dict[str, Any] = {"stack": name, "actions": [], "finding": None}
        try:
            entry["actions"] = transaction(place).settle()["actions"]
        except FleetError as error:
            entry["finding"] = from_error(error, user=user.name, stack=name)
        stacks.append(entry)
    return {"schema": SCHEMA, "stacks": stacks}


def wait_for_engine(user: Account, seconds: float = ENGINE_STARTS) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            _docker_api.get(str(user.socket), "/version")
            return
        except OSError as error:
            if time.monotonic() > deadline:
                raise FleetError("STACK_ENGINE_DOWN", f"{user.socket}: {error}") from error
        time.sleep(0.5)


def plain(result: Mapping[str, Any]) -> dict[str, Any]:
    """A transaction's result for programs: without what only Ansible's --diff shows."""
    return {"schema": SCHEMA, **{key: value for key, value in result.items() if key != "diff"}}


# --- for people ------------------------------------------------------------------------------------------------


def lines(result: Mapping[str, Any], check: bool) -> list[str]:
    columns = width()
    would = "would " if check else ""
    text = [cut(f"{would}{action}", columns) for action in result["actions"]] or ["nothing to do"]
    text += [f"note: {note}" for note in result.get("notes") or []]
    if result.get("release") and not check:
        text.append(f"{result['stack']} runs release {result['release']}{took(result.get('seconds') or {})}")
        rows = [[each["service"], each["health"] or each["status"], addresses(each)] for each in result["services"]]
        text += table(rows, columns, "  ")
    text += [f"data stay in {path}" for path in result.get("kept") or []]
    return text


def addresses(service: Mapping[str, Any]) -> str:
    return ", ".join(sorted({each["address"] for each in service["addresses"]}))


def took(seconds: Mapping[str, float]) -> str:
    told = [f"{name} {value:.1f} s" for name, value in seconds.items() if value >= 0.1]
    return f" ({', '.join(told)})" if told else ""


def settled_lines(result: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    text = []
    for each in result["stacks"]:
        done = ", ".join(each["actions"]) or "as it should be"
        text.append(f"{each['stack']}: {each['finding']['code'] if each['finding'] else done}")
    return text or ["no stacks"]
