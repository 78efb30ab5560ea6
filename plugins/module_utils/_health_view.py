# Copyright: gpulab.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A host as the checks see it: files, devices, commands and engine sockets, read only.

Everything a check knows of a host comes through one HostView, so that a test can hand it
a made-up tree and made-up answers. Three outcomes are kept apart: a fact that was read, a
fact that is not there (None), and a fact that could not be read (Unreadable is raised).
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast

from ansible_collections.gpulab.fleet.plugins.module_utils._docker_api import get
from ansible_collections.gpulab.fleet.plugins.module_utils._proxy import proxy_from

T = TypeVar("T")

# Nothing a caller's environment holds decides which programs answer, or in which language.
SEARCH_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Unreadable(Exception):
    """A fact that could not be read: what it was and why not."""

    def __init__(self, what: str, why: str) -> None:
        super().__init__(f"{what}: {why}")


class Result(NamedTuple):
    """What a command answered."""

    rc: int
    out: str
    err: str


class Node(NamedTuple):
    """What stat says of a file or device."""

    mode: int
    uid: int
    gid: int
    device: tuple[int, int] | None  # major and minor of a character device
    inode: tuple[int, int, int]  # major and minor of its file system, inode number
    acl: bool  # whether an access list says more than the mode


class Space(NamedTuple):
    """Room on the file system that holds a path, as an ordinary user finds it."""

    total: int
    free: int
    inodes_total: int
    inodes_free: int


class Account(NamedTuple):
    """One line of passwd."""

    name: str
    uid: int
    gid: int
    home: str


class HostView:
    """Reads one host under a root folder.

    users     names whose engines matter; the health facts add those found on the host
    settings  the collection's public variables, as the inventory has them
    names     names of further variables there that may have been meant for it
    """

    def __init__(
        self,
        root: str = "/",
        users: list[str] | None = None,
        settings: dict[str, Any] | None = None,
        controller_time: float | None = None,
        names: list[str] | None = None,
    ) -> None:
        self.root = Path(root)
        self.users = users or []
        self.settings = settings or {}
        self.controller_time = controller_time
        self.variable_names = names or []
        self.uid = os.geteuid()
        self._remembered: dict[str, Any] = {}

    def remember(self, name: str, read: Callable[[], T]) -> T:
        """What read() gives, asked for once; a failure is remembered as well."""
        if name not in self._remembered:
            try:
                self._remembered[name] = read()
            except Unreadable as error:
                self._remembered[name] = error
        known = self._remembered[name]
        if isinstance(known, Unreadable):
            raise known
        return cast(T, known)

    # --- files -------------------------------------------------------------------------------
    def path(self, name: str) -> Path:
        """Where a path of the host really lies."""
        return self.root / name.lstrip("/")

    def read(self, name: str) -> str | None:
        """The text of a file; None when there is none."""
        try:
            return self.path(name).read_text(encoding="utf-8", errors="replace")
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise Unreadable(name, error.strerror or str(error)) from error

    def word(self, name: str) -> str | None:
        """The text of a one-line file such as a sysctl, without the line's end."""
        text = self.read(name)
        return None if text is None else text.strip()

    def exists(self, name: str) -> bool:
        """Whether a path is there (a link counts by itself)."""
        try:
            self.path(name).lstat()
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError as error:
            raise Unreadable(name, error.strerror or str(error)) from error
        return True

    def names(self, folder: str) -> list[str]:
        """What a folder holds, sorted; empty when there is none."""
        try:
            return sorted(entry.name for entry in self.path(folder).iterdir())
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise Unreadable(folder, error.strerror or str(error)) from error

    def glob(self, pattern: str) -> list[str]:
        """Paths of the host that match, sorted; folders that may not be read match nothing."""
        found = self.root.glob(pattern.lstrip("/"))
        return sorted("/" + str(path.relative_to(self.root)) for path in found)

    def link(self, name: str) -> str | None:
        """What a symbolic link names; None when it is no link or not there."""
        try:
            return str(self.path(name).readlink())
        except (FileNotFoundError, NotADirectoryError, ProcessLookupError):
            return None
        except OSError as error:
            if error.errno == errno.EINVAL:  # no link
                return None
            raise Unreadable(name, error.strerror or str(error)) from error

    def node(self, name: str) -> Node | None:
        """What stat says; None when there is nothing."""
        try:
            seen = self.path(name).stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise Unreadable(name, error.strerror or str(error)) from error
        device = (os.major(seen.st_rdev), os.minor(seen.st_rdev)) if stat.S_ISCHR(seen.st_mode) else None
        where = (os.major(seen.st_dev), os.minor(seen.st_dev), seen.st_ino)
        try:
            acl = "system.posix_acl_access" in os.listxattr(self.path(name))
        except OSError:
            acl = False  # a file system without such attributes
        return Node(stat.S_IMODE(seen.st_mode), seen.st_uid, seen.st_gid, device, where, acl)

    def space(self, name: str) -> Space:
        """Room where a path lies or would lie: its nearest folder that exists."""
        path = self.path(name)
        while not path.exists() and path != path.parent:
            path = path.parent
        try:
            seen = os.statvfs(path)
        except OSError as error:
            raise Unreadable(name, error.strerror or str(error)) from error
        return Space(seen.f_frsize * seen.f_blocks, seen.f_frsize * seen.f_bavail, seen.f_files, seen.f_ffree)

    # --- the network -------------------------------------------------------------------------
    def fetch(self, url: str, timeout: float = 10) -> bytes:
        """What an address answers, through the inventory's proxy; OSError (urllib's) when it does not."""
        # Loaded here: a converged host is asked for nothing, and this takes longer than most checks.
        from ansible_collections.gpulab.fleet.plugins.module_utils._fetch import opener

        with opener(proxy_from(self.settings.get("gpulab_proxy"))).open(url, timeout=timeout) as answer:
            data: bytes = answer.read()
        return data

    # --- accounts ----------------------------------------------------------------------------
    def accounts(self) -> dict[str, Account]:
        """The accounts of /etc/passwd."""
        return self.remember("accounts", lambda: _accounts(self.read("/etc/passwd") or ""))

    def account(self, name: str) -> Account | None:
        """One account, asked of the directory service when /etc/passwd does not know it."""
        known = self.accounts().get(name)
        if known:
            return known
        answer = self.remember(f"getent {name}", lambda: self.run(["getent", "passwd", name]))
        return _accounts(answer.out).get(name) if answer and answer.rc == 0 else None

    # --- commands and sockets ----------------------------------------------------------------
    def kernel(self) -> tuple[str, str]:
        """The running kernel's release and machine type."""
        name = os.uname()
        return name.release, name.machine

    def run(self, argv: list[str], timeout: float = 10, account: Account | None = None) -> Result | None:
        """What a command answers, at most timeout seconds; None when the program is not installed.

        account  run as this user, with the user's own systemd and engine in reach
        """
        program = shutil.which(argv[0], path=SEARCH_PATH)
        if program is None:
            return None
        environment = {"PATH": SEARCH_PATH, "LC_ALL": "C.UTF-8", "HOME": str(Path.home())}
        identity: dict[str, Any] = {}
        if account is not None:
            if self.uid not in (0, account.uid):
                raise Unreadable(f"{' '.join(argv)} as {account.name}", "needs root or that user")
            runtime = f"/run/user/{account.uid}"
            environment.update(
                HOME=account.home,
                USER=account.name,
                XDG_RUNTIME_DIR=runtime,
                DBUS_SESSION_BUS_ADDRESS=f"unix:path={runtime}/bus",
            )
            if self.uid == 0:
                identity = {"user": account.uid, "group": account.gid, "extra_groups": []}
        try:
            done = subprocess.run(
                [program, *argv[1:]],
                capture_output=True,
                check=False,
                cwd="/",
                encoding="utf-8",
                errors="replace",
                env=environment,
                stdin=subprocess.DEVNULL,
                timeout=timeout,
                **identity,
            )
        except subprocess.TimeoutExpired as error:
            raise Unreadable(" ".join(argv), f"no answer within {timeout:g} s") from error
        except OSError as error:
            raise Unreadable(" ".join(argv), error.strerror or str(error)) from error
        return Result(done.returncode, done.stdout, done.stderr)

    def api(self, socket: str, request: str, timeout: float = 5) -> Any:
        """What an engine answers to a GET; None when there is no socket or nobody behind it."""
        try:
            return get(str(self.path(socket)), request, timeout)
        except (FileNotFoundError, ConnectionRefusedError):
            return None
        except (OSError, ValueError) as error:
            raise Unreadable(f"{request} on {socket}", str(error)) from error


def _accounts(text: str) -> dict[str, Account]:
    found = {}
    for line in text.splitlines():
        parts = line.split(":")
        if len(parts) >= 7 and parts[2].isdigit() and parts[3].isdigit():
            found[parts[0]] = Account(parts[0], int(parts[2]), int(parts[3]), parts[5])
    return found
