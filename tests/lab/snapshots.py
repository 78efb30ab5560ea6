"""Copies of a host's files, to come back to."""

import re
from pathlib import Path

from . import cgroup, hosts, records
from .records import Record
from .settings import LabError
from .system import WITH_US, remove_tree, run

NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,39}")


def _path(record: Record, snapshot: str) -> Path:
    if not NAME.fullmatch(snapshot):
        raise LabError(f"{snapshot!r} is no name for a snapshot: small letters, digits, dot, dash, underscore")
    return record.folder / "snapshots" / snapshot


def listed(record: Record) -> list[str]:
    folder = record.folder / "snapshots"
    return sorted(path.name for path in folder.iterdir() if NAME.fullmatch(path.name)) if folder.is_dir() else []


def _copy(record: Record, source: Path, target: Path) -> None:
    """Exact: owners, modes, times, links, holes, devices, access lists and attributes; whole or not at all."""
    for unplaced in records.unplaced(record.name):
        remove_tree(unplaced)  # of a copy that did not come to its end
    copy = records.fresh_folder(record.name)
    run([*WITH_US, "cp", "--archive", "--one-file-system", "--sparse=always", "--reflink=auto", f"{source}/.", copy])
    if target.exists():
        old = records.fresh_folder(record.name)
        target.rename(old)
        copy.rename(target)
        remove_tree(old)
    else:
        copy.rename(target)


def take(name: str, snapshot: str) -> None:
    """A running host stands still meanwhile; the copy is what a power cut at that moment would leave."""
    with records.held(name):
        record = hosts.ready(name)
        target = _path(record, snapshot)
        target.parent.mkdir(exist_ok=True)
        with cgroup.frozen(name):
            _copy(record, record.root, target)


def restore(name: str, snapshot: str) -> None:
    """The host has the files it had then. One that runs is booted from them; one that is off stays off."""
    with records.held(name):
        record = hosts.ready(name)
        source = _path(record, snapshot)
        if not source.is_dir():
            raise LabError(f"{name} has no snapshot {snapshot} (there are: {', '.join(listed(record)) or 'none'})")
        ran = records.status(name) == "running"
        hosts.clear_runtime(record)
        _copy(record, source, record.root)
        if ran:
            hosts.boot(record)
