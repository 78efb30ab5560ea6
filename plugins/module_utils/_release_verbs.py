# Copyright: gpulab.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the module compose_release does on a host, from its options to its result."""

from __future__ import annotations

import os
from typing import Any

from ansible_collections.gpulab.fleet.plugins.module_utils._deploy_plan import Handed, Plan
from ansible_collections.gpulab.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.gpulab.fleet.plugins.module_utils._findings import from_error, message
from ansible_collections.gpulab.fleet.plugins.module_utils._gpulab_copies import restore
from ansible_collections.gpulab.fleet.plugins.module_utils._gpulab_stacks import Place
from ansible_collections.gpulab.fleet.plugins.module_utils._stack_lines import lines
from ansible_collections.gpulab.fleet.plugins.module_utils._stack_purge import purge
from ansible_collections.gpulab.fleet.plugins.module_utils._transaction import Transaction, stacks_root
from ansible_collections.gpulab.fleet.plugins.module_utils._userenv import Account, account, as_user


def plan_of(params: dict[str, Any]) -> Plan:
    """The plan, from what the controller's part sent."""
    made: dict[str, Any] = dict(params["plan"] or {})
    made.pop("sent", None)
    made["wait_timeout"] = max(params["wait_timeout"], made.get("wait_timeout", 0))
    return Plan(**made, secrets=params["secrets"], keep=params["keep"], why=params["why"])


def handed_over(params: dict[str, Any]) -> Handed:
    """Opens what was sent while this process may still read it: the user may not."""
    made = (params["plan"] or {}).get("sent", {})
    archives = {name: os.open(path, os.O_RDONLY) for name, path in made.get("archives", {}).items()}
    return Handed(os.open(made["bundle"], os.O_RDONLY) if "bundle" in made else None, archives)


def act(params: dict[str, Any], user: Account, handed: Handed, check: bool) -> dict[str, Any]:
    """The verb that state names, as the user."""
    name, state = params["name"], params["state"]
    stack = Transaction(user, params["root"], name, check=check, who=params["who"] or "")
    if state == "present":
        return stack.deploy(plan_of(params), handed)
    if state == "rolled_back":
        return stack.rollback(params["release"])
    if state == "restored":
        restored = restore(Place(user, stacks_root(user, params["root"]), name), params["copy"], check)
        return {**stack.status(), "actions": restored["actions"], "changed": True}
    result = stack.undeploy()
    if params["purge"] is None:
        return result
    gone = purge(stack.project(), stacks_root(user, params["root"]), params["purge"], check)
    return {
        **result,
        "actions": [*result["actions"], *gone["actions"]],
        "changed": result["changed"] or gone["changed"],
    }


def answer(params: dict[str, Any], check: bool) -> dict[str, Any]:
    """The module's result; one with msg and finding is a failure."""
    name = params["name"]
    try:
        user = account(params["user"])
        handed = handed_over(params)

        def work() -> dict[str, Any]:
            return act(params, user, handed, check)

        result = work() if os.geteuid() == user.uid else as_user(user, work)
    except FleetError as error:
        if check and error.code == "USER_MISSING":
            actions = [f"deploy (there is no {params['user']} yet)"] if params["state"] == "present" else []
            shown = lines(name, params["user"], {"actions": actions, "services": []}, check=True)
            return {"changed": bool(actions), "actions": actions, "lines": shown}
        found = from_error(error, user=params["user"], stack=name)
        return {"msg": message(found), "finding": found}
    if "needs" not in result:
        result["lines"] = lines(name, params["user"], result, check)
    return result
