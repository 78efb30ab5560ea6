# Copyright: gpulab.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The controller's side of target_python: asks the target first, and fetches and sends only what it lacks."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.gpulab.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.gpulab.fleet.plugins.module_utils._findings import from_error, message
from ansible_collections.gpulab.fleet.plugins.plugin_utils._wheels import LOCK, cache_root, digest_of, provide

MODULE = "gpulab.fleet.target_python"


class ActionModule(ActionBase):
    """target_python"""

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        _result, given = self.validate_argument_spec(
            {
                "index": {"type": "str", "default": ""},
                "root": {"type": "path", "default": "/var/lib/gpulab/python"},
                "gpu_only": {"type": "bool", "default": False},
            }
        )
        digest = digest_of(LOCK.read_text(encoding="utf-8"))
        arguments = {"root": given["root"], "gpu_only": given["gpu_only"], "digest": digest}
        answer = self._execute_module(module_name=MODULE, module_args=arguments, task_vars=task_vars)
        if answer.get("failed") or not answer.pop("lacks", False) or self._task.check_mode:
            return dict(answer)
        try:
            archive = provide(index=given["index"])
        except FleetError as error:
            found = from_error(error, cache=str(cache_root() / digest))
            return {"failed": True, "msg": message(found), "finding": found}
        return self.send(archive, arguments, task_vars)

    def send(self, archive: Path, arguments: dict[str, Any], task_vars: dict[str, Any] | None) -> dict[str, Any]:
        shell = self._connection._shell
        folder = shell.tmpdir or self._make_tmp_path()
        there = shell.join_path(folder, archive.name)
        self._transfer_file(str(archive), there)
        self._fixup_perms2((folder, there))
        checksum = hashlib.sha256(archive.read_bytes()).hexdigest()
        try:
            arguments = {**arguments, "archive": there, "checksum": checksum}
            answer = self._execute_module(module_name=MODULE, module_args=arguments, task_vars=task_vars)
        finally:
            self._remove_tmp_path(folder)
        answer.pop("lacks", None)
        return dict(answer)
