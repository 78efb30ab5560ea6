"""What the lab knows of each host: one folder each, with a record that is written before anything is made.

So whatever is found there can be removed by name, and nothing else ever is.
"""

import contextlib
import os
import re
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from . import cgroup, network
from .settings import FIRST_ADDRESS, LAST_ADDRESS, STATE, LabError, address
from .system import Busy, is_locked, lock, process_runs, read_json, spread, write_json

NAME = re.compile(r"[a-z][a-z0-9-]{0,38}[a-z0-9]|[a-z]")


@dataclass
class Record:
    name: str
    number: int
    suite: str
    identity: str
    gpus: int
    faults: list[str] = field(default_factory=list)
    base: str = ""
    # creating -> ready -> destroying; anything but ready with no command at work on it is what a killed one left
    phase: str = "creating"
    created: str = ""

    @property
    def address(self) -> str:
        return address(self.number)

    @property
    def folder(self) -> Path:
        return folder(self.name)

    @property
    def root(self) -> Path:
        return self.folder / "root"

    @property
    def console(self) -> Path:
        return self.folder / "console.log"

    def save(self) -> None:
        write_json(self.folder / "host.json", asdict(self))


def folder(name: str) -> Path:
    return STATE / "hosts" / name


def fresh_folder(name: str) -> Path:
    """An empty folder for a host, to be filled and then renamed into place; what is left of one goes with the host."""
    hosts = STATE / "hosts"
    hosts.mkdir(parents=True, exist_ok=True)
    spread(hosts)
    path = hosts / f".{name}.{os.urandom(6).hex()}"  # a name that never was, for a place of its own
    path.mkdir(mode=0o755)
    return path


def unplaced(name: str = "*") -> list[Path]:
    """Fresh folders whose command died before it could rename them (or is still at work)."""
    return list((STATE / "hosts").glob(f".{name}.*"))


def lock_path(name: str) -> Path:
    return STATE / "locks" / name


@contextlib.contextmanager
def held(name: str) -> Iterator[None]:
    """One command at a time works on a host. (A command that only looks has the lock for a moment: wait that long.)"""
    deadline = time.monotonic() + 1
    with contextlib.ExitStack() as holding:
        while True:
            try:
                holding.enter_context(lock(lock_path(name), wait=False))
                break
            except Busy:
                if time.monotonic() > deadline:
                    raise LabError(f"another command is at work on {name}") from None
                time.sleep(0.05)
        try:
            yield
        finally:
            if not folder(name).exists():  # nothing left to protect
                lock_path(name).unlink(missing_ok=True)


def names() -> list[str]:
    hosts = STATE / "hosts"
    if not hosts.is_dir():
        return []
    return sorted(path.name for path in hosts.iterdir() if path.is_dir() and not path.name.startswith("."))


def load(name: str) -> Record | None:
    content = read_json(folder(name) / "host.json")
    return Record(**content) if content else None


def get(name: str) -> Record:
    record = load(name)
    if record is None:
        known = ", ".join(names()) or "none"
        raise LabError(f"no host {name} (there are: {known})")
    return record


def check_name(name: str) -> None:
    if not NAME.fullmatch(name):
        raise LabError(f"{name!r} is no name for a host: small letters, digits and dashes, a letter first, at most 40")


def claim(record: Record) -> None:
    """Write the record of a new host with an address that nobody has.

    Addresses go round: one that was just given back may still be in somebody's open ssh connection.
    """
    with lock(STATE / "addresses.lock"):
        others = [other.number for other in map(load, names()) if other is not None]
        used = {*others, *network.taken()}
        last = read_json(STATE / "last-address.json") or FIRST_ADDRESS - 1
        span = LAST_ADDRESS - FIRST_ADDRESS + 1
        for step in range(1, span + 1):
            number = FIRST_ADDRESS + (last - FIRST_ADDRESS + step) % span
            if number not in used:
                break
        else:
            raise LabError(f"all {span} addresses are in use")
        record.number = number
        fresh = fresh_folder(record.name)
        write_json(fresh / "host.json", asdict(record))
        fresh.rename(record.folder)
        write_json(STATE / "last-address.json", number)


def supervisor(name: str) -> dict[str, int] | None:
    """What the process that keeps a host running wrote of itself, if that process is alive."""
    content = read_json(folder(name) / "running.json")
    if content and process_runs(content["pid"], "_supervise", name):
        return {key: int(value) for key, value in content.items()}
    return None


def status(name: str) -> str:
    record = load(name)
    if record is None or record.phase != "ready":
        if is_locked(lock_path(name)):
            return record.phase if record else "creating"
        return "broken"
    if supervisor(name):
        return "running"
    return "broken" if cgroup.populated(name) else "stopped"
