#!/usr/bin/python
# Copyright: gpulab.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The containers that run on a host's rootless engines: listed, stopped for a change, started again."""

from __future__ import annotations

DOCUMENTATION = r"""
module: engine_work
short_description: List, stop and start again what runs on the users' engines
version_added: 0.1.0
description:
  - Running containers are somebody's work. This lists them, and stops and starts them around a change.
  - Containers are stopped in the reverse of the order in which they were started, those of a stack one after the other,
    each with its own grace period, and started in their order, each once the one before it is healthy.
  - What is stopped is written down in the user's home first; a run that is killed in between is made up for by the
    next one of this module or of M(gpulab.fleet.rootless_docker_user).
options:
  users:
    description: Users whose engines are meant.
    type: list
    elements: str
    required: true
  state:
    description: >-
      V(listed) looks. V(stopped) stops what runs as O(when_busy) says. V(started) starts what was stopped and waits until
      all of it runs and is healthy.
    type: str
    choices: [listed, stopped, started]
    default: listed
  when_busy:
    description: >-
      What V(stopped) does where containers run. V(skip) leaves them and says so in RV(busy), V(wait) waits up to
      O(busy_timeout) for their end and then does the same, V(proceed) stops them.
    type: str
    choices: [skip, wait, proceed]
    default: skip
  busy_timeout:
    description: Seconds to wait for running containers to end.
    type: int
    default: 3600
  healthy_within:
    description: Seconds that the containers of a user may take until they are healthy.
    type: int
    default: 300
extends_documentation_fragment: [gpulab.fleet.platform.systemd]
attributes:
  check_mode:
    description: Predicts without changing, and does not wait.
    support: full
  diff_mode:
    description: Has no files to show; RV(lines) says it in words.
    support: none
author:
  - gpulab.fleet contributors
"""

EXAMPLES = r"""
- name: Stop what runs
  gpulab.fleet.engine_work:
    users: [mara]
    state: stopped
    when_busy: proceed
"""

RETURN = r"""
busy:
  description: Whether containers run that O(when_busy) leaves alone.
  type: bool
  returned: success
running:
  description: Running containers by user, in words.
  type: dict
  returned: success
  sample: {mara: ["trainer (stack quickstart, image quickstart/trainer:1, running since 2026-01-01T10:00:00Z)"]}
lines:
  description: What was found or done, for people.
  type: list
  elements: str
  returned: success
downtime:
  description: Seconds from the stop until all was healthy again, by user (with O(state=started)).
  type: dict
  returned: success
  sample: {mara: 21.4}
finding:
  description: Code, cause and remedy of a failure. Codes are WORK_NOT_BACK and ENGINE_UNRESPONSIVE.
  type: dict
  returned: failure
"""

import time
from functools import partial
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.gpulab.fleet.plugins.module_utils import _work
from ansible_collections.gpulab.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.gpulab.fleet.plugins.module_utils._findings import from_error, message
from ansible_collections.gpulab.fleet.plugins.module_utils._userenv import Account, account, as_user


def end(user: Account) -> dict[str, Any]:
    try:
        return {"stopped": [each["name"] for each in _work.stop(str(user.socket), user.home)]}
    except OSError as error:
        raise FleetError("ENGINE_UNRESPONSIVE", f"{user.name}: {error}") from error


def begin(user: Account, seconds: float) -> dict[str, Any]:
    back, wrong = _work.start(str(user.socket), user.home, seconds)
    return {"back": [each["name"] for each in back], "wrong": wrong}


class EngineWork:
    """The work of some users: what runs, what was stopped."""

    def __init__(self, module: AnsibleModule) -> None:
        self.p: dict[str, Any] = module.params
        self.check: bool = module.check_mode
        self.users = [user for name in self.p["users"] if (user := self.known(name))]
        self.lines: list[str] = []
        self.downtime: dict[str, float] = {}
        self.changed = False

    @staticmethod
    def known(name: str) -> Account | None:
        """The account; a user that is still to be made has no work."""
        try:
            return account(name)
        except FleetError:
            return None

    def running(self) -> dict[str, list[str]]:
        found = {}
        for user in self.users:
            try:
                work = [_work.told(each) for each in _work.running(str(user.socket))]
            except ConnectionRefusedError:
                continue  # a socket that an engine left behind
            except OSError as error:
                raise FleetError("ENGINE_UNRESPONSIVE", f"{user.name}: {error}") from error
            if work:
                found[user.name] = work
        return found

    def converge(self) -> dict[str, Any]:
        state = self.p["state"]
        busy = False
        running = {} if state == "started" else self.running()
        if state == "listed":
            self.lines = [f"{name}: {each}" for name, work in running.items() for each in work]
        elif state == "stopped":
            busy = not _work.may_go_on(
                self.p["when_busy"], lambda: list(self.running()), self.p["busy_timeout"], self.check
            )
            running = self.running()
            if not busy:
                self.stop(running)
            else:
                self.lines = [f"{name}: {each}" for name, work in running.items() for each in work]
        else:
            self.start()
        return {
            "changed": self.changed,
            "busy": busy,
            "running": running,
            "lines": self.lines,
            "downtime": self.downtime,
        }

    def stop(self, running: dict[str, list[str]]) -> None:
        for user in self.users:
            if user.name not in running:
                continue
            self.changed = True
            self.lines += [f"stopped {user.name}'s {each}" for each in running[user.name]]
            if not self.check:
                as_user(user, partial(end, user))

    def start(self) -> None:
        wrong = []
        for user in self.users:
            record = as_user(user, partial(_work.load, user.home))
            if not record:
                continue
            self.changed = True
            names = [each["name"] for each in record["containers"]]
            if self.check:
                self.lines.append(f"started {user.name}'s {', '.join(names)} again")
                continue
            answer = as_user(user, partial(begin, user, self.p["healthy_within"]))
            wrong += [f"{user.name}: {each}" for each in answer["wrong"]]
            seconds = round(time.time() - record["stopped_at"], 1)
            self.downtime[user.name] = seconds
            back = ", ".join(answer["back"]) or "nothing"
            self.lines.append(f"{user.name}: {back} up again after {seconds} s of downtime")
            gone = [each["name"] for each in record["containers"] if each["temporary"]]
            if gone:
                self.lines.append(f"{user.name}: {', '.join(gone)} ended for good (docker run --rm)")
        if wrong:
            raise FleetError("WORK_NOT_BACK", "; ".join(wrong))


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "users": {"type": "list", "elements": "str", "required": True},
            "state": {"type": "str", "choices": ["listed", "stopped", "started"], "default": "listed"},
            "when_busy": {"type": "str", "choices": ["skip", "wait", "proceed"], "default": "skip"},
            "busy_timeout": {"type": "int", "default": 3600},
            "healthy_within": {"type": "int", "default": 300},
        },
        supports_check_mode=True,
    )
    try:
        result = EngineWork(module).converge()
    except FleetError as error:
        user = error.detail.partition(":")[0]
        found = from_error(error, user=user, record="~/.local/state/gpulab/stopped.json")
        module.fail_json(msg=message(found), finding=found)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
