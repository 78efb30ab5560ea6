# Copyright: gpulab.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""`gpulab deploy`: what was typed becomes a plan, and the plan a release."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ansible_collections.gpulab.fleet.plugins.module_utils._deploy_plan import Handed
from ansible_collections.gpulab.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.gpulab.fleet.plugins.module_utils._gpulab_plan import Source, Wish, make, of_folder, of_release
from ansible_collections.gpulab.fleet.plugins.module_utils._gpulab_stacks import DEFAULT_ROOT, Place, find
from ansible_collections.gpulab.fleet.plugins.module_utils._gpulab_verbs import plain, prepare, transaction
from ansible_collections.gpulab.fleet.plugins.module_utils._userenv import Account


def deploy(user: Account, options: argparse.Namespace) -> dict[str, Any]:
    wish = Wish(
        settings=pairs("--set", options.set),
        unset=options.unset,
        gpus=pairs("--gpus", options.gpus),
        secrets={key: Path(path).absolute() for key, path in pairs("--secret", options.secret).items()},
        mutable=options.mutable,
        why=options.why,
    )
    name, source = choose(user, options.target, options.name)
    options.name = name
    stacks = find(user)
    place = stacks.get(name) or Place(user, user.home / DEFAULT_ROOT, name)
    prepare(user)
    release = place.store.current()
    if release and source.record is not None and wish == Wish(why=wish.why):
        # Of a copy that was kept, and nothing else is wanted: that it runs.
        return plain(transaction(place, options.check).rollback(release.id))
    plan, notes = make(user, place.store, source, wish)
    result = transaction(place, options.check).deploy(plan, Handed())
    if "needs" in result:
        raise FleetError("STACK_IMAGE_MISSING", ", ".join(result["needs"].get("archives") or result["needs"]))
    return {**plain(result), "notes": [*notes, *result["notes"]]}


def choose(user: Account, target: str, name: str | None) -> tuple[str, Source]:
    """The stack's name and where its files are: a path is a folder, a bare name a stack if there is one."""
    stacks = find(user)
    if "/" not in target and target in stacks:
        store = stacks[target].store
        release = store.current() or next((each for each in reversed(store.all()) if not each.failed), None)
        if release is None:
            raise FleetError("STACK_NOT_DEPLOYED", f"{target} has no release that was well; name its folder")
        return name or target, of_release(store, release)
    if "/" not in target and not Path(target).expanduser().exists():
        raise FleetError(
            "STACK_NOT_HERE", f"{target}; {user.name} has: {', '.join(stacks) or 'none'}; nor is it a folder"
        )
    source = of_folder(Path(target))
    return name or source.folder.name, source


def pairs(option: str, given: Sequence[str]) -> dict[str, str]:
    """K=V as a dict."""
    found = {}
    for each in given:
        key, equals, text = each.partition("=")
        if not equals or not key:
            raise FleetError("STACK_SETTING_INVALID", f"{option} {each} is not of the form NAME=VALUE")
        found[key] = text
    return found
