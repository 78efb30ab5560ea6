# Copyright: gpulab.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The controller's part of compose_release: finds and checks the stack's folder, and sends what the host lacks."""

from __future__ import annotations

import tarfile
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.gpulab.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.gpulab.fleet.plugins.module_utils._findings import from_error, message
from ansible_collections.gpulab.fleet.plugins.module_utils._release import whoever
from ansible_collections.gpulab.fleet.plugins.module_utils._settings import STACK_KEYS
from ansible_collections.gpulab.fleet.plugins.plugin_utils._command_archive import archive, digest, send
from ansible_collections.gpulab.fleet.plugins.plugin_utils._stack_plan import find, make_plan


def refuse_unknown_keys(stacks: Any, name: str) -> None:
    """A mistyped key of the inventory's entry would silently do nothing: what tasks hand over are the known ones."""
    entry = stacks.get(name) if isinstance(stacks, Mapping) else None
    unknown = sorted(map(str, set(entry) - set(STACK_KEYS))) if isinstance(entry, Mapping) else []
    if unknown:
        text = f"gpulab_stacks.{name}.{unknown[0]}: there is no such key; known are {', '.join(STACK_KEYS)}"
        raise FleetError("STACK_SETTING_INVALID", text)


class ActionModule(ActionBase):
    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        task_vars = task_vars or {}
        args = dict(self._task.args)
        args.pop("plan", None)
        args.setdefault("who", whoever())
        try:
            if args.get("state", "present") == "present" and args.get("name"):
                refuse_unknown_keys(task_vars.get("gpulab_stacks"), str(args["name"]))
                base = Path(task_vars.get("inventory_dir") or Path.cwd())
                found = find(str(args.get("source") or args["name"]), base)
                args["plan"] = make_plan(str(args["name"]), found, args)
            args["program"] = {"sha256": digest(archive())}
            result.update(self._execute(args, task_vars))
            if result.get("needs", {}).get("program"):
                args["program"]["file"] = send(self)
                del result["needs"]
                result.update(self._execute(args, task_vars))
            if "needs" in result:
                args["plan"]["sent"] = self._send(found.tree, args["plan"], result.pop("needs"))
                result.update(self._execute(args, task_vars))
        except FleetError as error:
            finding = from_error(error, user=args.get("user"), stack=args.get("name"))
            result.update(failed=True, msg=message(finding), finding=finding)
        finally:
            self._remove_tmp_path(self._connection._shell.tmpdir)
        return result

    def _execute(self, args: dict[str, Any], task_vars: dict[str, Any]) -> dict[str, Any]:
        answer: dict[str, Any] = self._execute_module(
            module_name="gpulab.fleet.compose_release", module_args=args, task_vars=task_vars
        )
        return answer

    def _send(self, tree: Path, plan: dict[str, Any], needs: dict[str, Any]) -> dict[str, Any]:
        """Puts on the host what it said it lacks; returns where that is now."""
        if not self._connection._shell.tmpdir:
            self._make_tmp_path()
        where = self._connection._shell.tmpdir
        sent: dict[str, Any] = {}
        if needs.get("bundle"):
            with tempfile.NamedTemporaryFile(suffix=".tar") as file:
                with tarfile.open(fileobj=file, mode="w", dereference=True) as whole:
                    for name in needs["bundle"]:
                        whole.add(tree / name, arcname=name, recursive=False)
                file.flush()
                sent["bundle"] = self._transfer_file(file.name, self._connection._shell.join_path(where, "stack.tar"))
        archives = {archive["name"]: archive for archive in plan["archives"]}
        for name in needs.get("archives", []):
            archive = archives[name]
            target = self._connection._shell.join_path(where, f"{archive['sha256']}.tar")
            sent.setdefault("archives", {})[name] = self._transfer_file(archive["archive"], target)
        paths = [sent[key] for key in ("bundle",) if key in sent] + list(sent.get("archives", {}).values())
        self._fixup_perms2((where, *paths))
        return sent
