# Copyright: gpulab.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Acting as a user from a module that runs as root.

What lies in a user's home is read and written as that user: root would follow any link the user puts there.
"""

from __future__ import annotations

import json
import os
import pwd
import subprocess
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible_collections.gpulab.fleet.plugins.module_utils._errors import FleetError

SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True)
class Account:
    """A user as the host knows it."""

    name: str
    uid: int
    gid: int
    home: Path

    @property
    def runtime_dir(self) -> Path:
        return Path(f"/run/user/{self.uid}")

    @property
    def socket(self) -> Path:
        return self.runtime_dir / "docker.sock"

    def environment(self) -> dict[str, str]:
        """What a program of the user's needs to find its systemd manager and engine, and nothing of root's."""
        return {
            "HOME": str(self.home),
            "USER": self.name,
            "LOGNAME": self.name,
            "PATH": SYSTEM_PATH,
            "LC_ALL": "C",
            "XDG_RUNTIME_DIR": str(self.runtime_dir),
            "DBUS_SESSION_BUS_ADDRESS": f"unix:path={self.runtime_dir}/bus",
        }


def account(name: str) -> Account:
    """The account of that name; it must be an ordinary user's."""
    try:
        entry = pwd.getpwnam(name)
    except KeyError as error:
        raise FleetError("USER_MISSING", name) from error
    if entry.pw_uid == 0:
        raise FleetError("USER_IS_ROOT", name)
    return Account(entry.pw_name, entry.pw_uid, entry.pw_gid, Path(entry.pw_dir))


def run(argv: list[str], timeout: float = 60) -> subprocess.CompletedProcess[str]:
    """Run a program in the present environment; never raises for its exit status."""
    return subprocess.run(argv, capture_output=True, text=True, timeout=timeout, check=False, stdin=subprocess.DEVNULL)


def as_user(user: Account, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Do `work` in a child process that has become the user for good; its result must be plain data.

    All modules that the work needs must be imported before: the user cannot read root's temporary folder.
    """
    return in_child(lambda: _become(user), work)


def in_child(become: Callable[[], None], work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Do `work` in a child process that first becomes something else; results and errors come back."""
    receive, send = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(receive)
        answer: dict[str, Any]
        try:
            become()
            answer = {"result": work()}
        except FleetError as error:
            answer = {"code": error.code, "detail": error.detail}
        except BaseException:
            answer = {"crash": traceback.format_exc()}
        with os.fdopen(send, "w", encoding="utf-8") as pipe:
            json.dump(answer, pipe)
        os._exit(0)
    os.close(send)
    with os.fdopen(receive, encoding="utf-8") as pipe:
        text = pipe.read()
    os.waitpid(child, 0)
    answer = json.loads(text or '{"crash": "the process that did the work was killed"}')
    if "code" in answer:
        raise FleetError(answer["code"], answer["detail"])
    if "crash" in answer:
        raise RuntimeError(answer["crash"])
    result: dict[str, Any] = answer["result"]
    return result


def _become(user: Account) -> None:
    os.initgroups(user.name, user.gid)
    os.setresgid(user.gid, user.gid, user.gid)
    os.setresuid(user.uid, user.uid, user.uid)
    os.umask(0o022)
    os.environ.clear()
    os.environ.update(user.environment())
    os.chdir("/")
