# Copyright: gpulab.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""`gpulab deploy`: what was typed becomes a plan, and the plan a release."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ansible_collections.gpulab.fleet.plugins.module_utils import _gpulab_catalogue
from ansible_collections.gpulab.fleet.plugins.module_utils._deploy_plan import Handed
from ansible_collections.gpulab.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.gpulab.fleet.plugins.module_utils._gpulab_plan import (
    Source,
    Wish,
    make,
    of_catalogue,
    of_folder,
    of_release,
)
from ansible_collections.gpulab.fleet.plugins.module_utils._gpulab_stacks import DEFAULT_ROOT, Place, find
from ansible_collections.gpulab.fleet.plugins.module_utils._gpulab_verbs import plain, prepare, transaction
from ansible_collections.gpulab.fleet.plugins.module_utils._stack import check_name
from ansible_collections.gpulab.fleet.plugins.module_utils._userenv import Account


def deploy(user: Account, options: argparse.Namespace) -> dict[str, Any]:
    wish = Wish(
        settings=pairs("--set", options.set),
        unset=options.unset,
        gpus=pairs("--gpus", options.gpus),
        secrets={key: Path(path).absolute() for key, path in pairs("--secret", options.secret).items()},
        mounts=pairs("--mount", options.mount),
        mutable=options.mutable,
        why=options.why,
    )
    with tempfile.TemporaryDirectory(prefix="gpulab-") as scratch:
        name, source, notes = choose(user, options.target, options.name, Path(scratch))
        options.name = name
        check_name(name, "; choose one with --name")
        place = find(user).get(name) or Place(user, user.home / DEFAULT_ROOT, name)
        prepare(user)
        release = place.store.current()
        if release and source.kept and wish == Wish(why=wish.why):
            # Nothing else is wanted: that it runs.
            return plain(transaction(place, options.check).rollback(release.id))
        plan, more = make(user, place.store, source, wish)
        result = transaction(place, options.check).deploy(plan, Handed())
    if "needs" in result:
        raise FleetError("STACK_IMAGE_MISSING", ", ".join(result["needs"].get("archives") or result["needs"]))
    return {**plain(result), "notes": [*notes, *more, *result["notes"]]}


def choose(user: Account, target: str, name: str | None, scratch: Path) -> tuple[str, Source, list[str]]:
    """The stack's name, where its files are, and what there is to say of that choice.

    What has a slash in it is a path. A bare name is, the first that there is: a stack of the user's, a shipped one, a
    folder here. scratch is where a shipped one is unpacked.
    """
    path = Path(target).expanduser()
    if "/" not in target and target != "..":
        stacks, shipped = find(user), _gpulab_catalogue.known()
        notes = [f"{target} is a folder here, too: for that, write ./{target}"] if path.exists() else []
        if target in stacks:
            return name or target, of_stack(stacks[target], shipped, scratch), notes
        if target in shipped:
            return name or target, of_catalogue(target, scratch), notes
        if not path.exists():
            text = f"{target}; {user.name} has: {', '.join(stacks) or 'none'}; the catalogue has: {', '.join(shipped) or 'none'}"
            raise FleetError("STACK_NOT_HERE", f"{text}; nor is it a folder here")
    source = of_folder(path)
    return name or source.found.tree.name, source, []


def of_stack(place: Place, shipped: Mapping[str, str], scratch: Path) -> Source:
    """The files of a stack that is deployed, as they are now: the folder's on this host, the catalogue's, the kept ones."""
    store = place.store
    release = store.current() or next((each for each in reversed(store.all()) if not each.failed), None)
    if release is None:
        raise FleetError("STACK_NOT_DEPLOYED", f"{place.name} has no release that was well; name its folder")
    known = release.source
    if known.get("kind") == "catalogue" and (name := Path(str(known.get("path"))).name) in shipped:
        return of_catalogue(name, scratch, known.get("archives") or [])
    return of_release(store, release)


def pairs(option: str, given: Sequence[str]) -> dict[str, str]:
    """K=V as a dict."""
    found = {}
    for each in given:
        key, equals, text = each.partition("=")
        if not equals or not key:
            raise FleetError("STACK_SETTING_INVALID", f"{option} {each} is not of the form NAME=VALUE")
        found[key] = text
    return found
