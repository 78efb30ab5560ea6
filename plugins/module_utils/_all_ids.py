# Copyright: gpulab.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a user does with the files of their own containers: as themselves and all their subordinate ids, without sudo.

It is done in the engine's own user namespace while the engine runs, and else in one that rootlesskit makes: on hosts
where AppArmor lets only named programs make one, that one is among them. There the user is 0, and a container's uid is
what the container calls it. Everything here runs as the user.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ansible_collections.gpulab.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.gpulab.fleet.plugins.module_utils._userenv import Account, in_child

CLONE_NEWUSER = 0x10000000


def outside(id_map: str, inside: int) -> int | None:
    """The host's number of an id of the namespace, by the text of its uid_map; None where there is none."""
    for line in id_map.splitlines():
        first, host, count = map(int, line.split())
        if first <= inside < first + count:
            return host + inside - first
    return None


def as_all_ids(user: Account, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Do `work` in a child process that may do whatever the user and their subordinate ids may do."""
    with _namespace(user) as handle:
        enter: Callable[[int, int], int] = ctypes.CDLL(None, use_errno=True).setns

        def become() -> None:
            if enter(handle, CLONE_NEWUSER) != 0:
                number = ctypes.get_errno()
                raise FleetError("USER_NAMESPACE_REFUSED", f"setns: {os.strerror(number)}")
            os.umask(0o022)

        return in_child(become, work)


def engine_runs(user: Account) -> bool:
    """Whether the user's engine is alive, whether or not it answers."""
    handle = _of_engine(user)
    if handle is not None:
        os.close(handle)
    return handle is not None


@contextlib.contextmanager
def _namespace(user: Account) -> Iterator[int]:
    engine = _of_engine(user)
    if engine is not None:
        try:
            yield engine
        finally:
            os.close(engine)
        return
    with _made(user) as handle:
        yield handle


def _of_engine(user: Account) -> int | None:
    """The namespace of the engine that runs, open. A number that a killed engine left may mean any process by now."""
    try:
        pid = int((user.runtime_dir / "dockerd-rootless" / "child_pid").read_text(encoding="ascii"))
        id_map = Path(f"/proc/{pid}/uid_map").read_text(encoding="ascii")
        if outside(id_map, 0) != user.uid or outside(id_map, 1) is None:
            return None
        return os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    except (OSError, ValueError):
        return None


@contextlib.contextmanager
def _made(user: Account) -> Iterator[int]:
    """A namespace that lives as long as a shell in it waits for the end of its input."""
    try:
        holder = subprocess.Popen(
            ["rootlesskit", "sh", "-c", "echo $$; read _"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd="/",
            env=user.environment(),
        )
    except OSError as error:
        raise FleetError("USER_NAMESPACE_REFUSED", f"rootlesskit: {error.strerror}") from error
    with holder:
        assert holder.stdin and holder.stdout and holder.stderr
        try:
            pid = holder.stdout.readline().strip()
            if not pid.isdecimal():
                raise FleetError("USER_NAMESPACE_REFUSED", f"rootlesskit: {holder.stderr.read().strip()[-300:]}")
            handle = os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
            try:
                yield handle
            finally:
                os.close(handle)
        finally:
            holder.stdin.close()
