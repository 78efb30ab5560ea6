# Copyright: gpulab.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The controller's part of rootless_docker_host: brings the researcher's command where the host has another one or none.

The command is made of files that the module itself does not need. As part of the module they would travel to every host
in every run; here only a checksum does.
"""

from __future__ import annotations

from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.gpulab.fleet.plugins.plugin_utils._command_archive import archive, digest, send


class ActionModule(ActionBase):
    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        command = {"sha256": digest(archive())}
        try:
            answer = self._execute(command, task_vars or {})
            if answer.pop("needs", None):
                answer = self._execute({**command, "file": send(self)}, task_vars or {})
        finally:
            self._remove_tmp_path(self._connection._shell.tmpdir)
        result.update(answer)
        return result

    def _execute(self, command: dict[str, str], task_vars: dict[str, Any]) -> dict[str, Any]:
        answer: dict[str, Any] = self._execute_module(
            module_name="gpulab.fleet.rootless_docker_host",
            module_args={**self._task.args, "command": command},
            task_vars=task_vars,
        )
        return answer
