# Copyright: gpulab.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A stack's releases on a host: where they lie, which one is current, what happened, and what is unfinished.

ROOT/stacks/NAME/
  current -> releases/0003   the release that runs
  releases/0003/             compose.yml and .env (`docker compose` works there), release.json, and failed.json if it failed
  files/DIGEST/              shipped trees, the context of builds
  mounts/DIGEST/NAME         parts of a tree that containers mount: by content, so that what is unchanged keeps its path
  secrets/NAME.DIGEST        versions of secrets
  history                    one line an event, for people
  unfinished.json            what a transaction that is under way would need to be settled
"""

from __future__ import annotations

import contextlib
import getpass
import json
import os
import re
import shutil
import socket
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from ansible_collections.gpulab.fleet.plugins.module_utils._clock import now
from ansible_collections.gpulab.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.gpulab.fleet.plugins.module_utils._files import make_folders, write_atomic

SCHEMA = 1
RECORD = "release.json"
FAILED = "failed.json"
COMPOSE = "compose.yml"
DOTENV = ".env"
LOGS = "logs"
ID = re.compile(r"\d{4,}")
HALF = re.compile(r"\.(new-.*|current|.+\.[a-z0-9_]{8})")  # as files.write_atomic and tempfile name things
PREPARING, SWITCHING, COMMITTED = "preparing", "switching", "committed"


def whoever() -> str:
    """Who runs this, as the history has it."""
    return f"{getpass.getuser()}@{socket.gethostname()}"


@dataclass(frozen=True)
class Service:
    """One service of a release: which image, by id; which GPUs, by UUID."""

    image: str
    image_id: str
    tag: str
    build: str = ""  # digest of what the image was built from; empty for one that was fetched
    config_hash: str = ""  # Compose's own, as it is on the containers
    gpus: list[str] = field(default_factory=list)
    health: bool = False  # whether it has a health check
    one_off: bool = False  # only for `gpulab run`: never started by a deploy


@dataclass(frozen=True)
class Release:
    """What was deployed: everything that is needed to run it again. Never changed once it is written."""

    id: str
    folder: Path
    made: str
    by: str
    why: str
    inputs: str
    settings: dict[str, str]
    profiles: list[str]
    source: dict[str, Any]
    services: dict[str, Service]
    ports: list[list[Any]]
    data: dict[str, str]
    volumes: list[str]
    secrets: dict[str, str]
    files: str
    mounts: list[str]
    checks: list[dict[str, Any]]
    checksums: dict[str, str]
    wait_timeout: int
    sharing: str = "exclusive"
    graphics: list[str] = field(default_factory=list)  # services that render on their GPU
    after: str = ""  # id of the release that ran when this one was made: the one to go back to
    generated: list[str] = field(default_factory=list)  # those of its secrets that were made on this host
    volume_users: dict[str, dict[str, Any]] = field(default_factory=dict)  # see _stack_volumes.writers
    contexts: dict[str, str] = field(default_factory=dict)  # host folders that images are built from -> their state
    host_mounts: dict[str, dict[str, Any]] = field(default_factory=dict)  # what a site mounts: see _stack_mounts
    given: dict[str, Any] | None = None  # what was asked for besides the stack's own files; None: nobody noted it

    def plain(self) -> dict[str, Any]:
        record = asdict(self)
        del record["folder"]
        return {"schema": SCHEMA, **record}

    @classmethod
    def read(cls, folder: Path) -> Release | None:
        """The release in a folder; None where there is none that this program understands."""
        try:
            record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        if not isinstance(record, dict) or record.get("schema") != SCHEMA:
            return None
        known = {each.name for each in fields(Service)}
        services = {
            name: Service(**{key: value for key, value in entry.items() if key in known})
            for name, entry in record["services"].items()
        }
        known = {each.name for each in fields(cls)}
        values = {key: value for key, value in record.items() if key in known and key != "services"}
        return cls(**{**values, "id": folder.name, "folder": folder, "services": services})

    @property
    def failed(self) -> dict[str, Any] | None:
        try:
            found: dict[str, Any] = json.loads((self.folder / FAILED).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return found

    @property
    def started(self) -> dict[str, Service]:
        """The services that a deploy starts."""
        return {name: service for name, service in self.services.items() if not service.one_off}

    @property
    def gpus(self) -> dict[str, list[str]]:
        return {name: service.gpus for name, service in self.started.items() if service.gpus}


class Store:
    """The releases of one stack."""

    def __init__(self, root: Path, name: str) -> None:
        self.root, self.name = root, name
        self.stacks = root / "stacks"
        self.folder = self.stacks / name
        self.releases = self.folder / "releases"
        self.files = self.folder / "files"
        self.mounts = self.folder / "mounts"
        self.secrets = self.folder / "secrets"
        self.link = self.folder / "current"
        self.history = self.folder / "history"
        self._journal = self.folder / "unfinished.json"
        self._salt = self.folder / "salt"

    # --- reading -----------------------------------------------------------------------------------------

    def current(self) -> Release | None:
        try:
            target = self.link.readlink()
        except OSError:
            return None
        return self.read(target.name)

    def read(self, release: str) -> Release | None:
        return Release.read(self.releases / release) if ID.fullmatch(release) else None

    def all(self) -> list[Release]:
        """Every release that is kept, the oldest first."""
        if not self.releases.is_dir():
            return []
        found = (Release.read(path) for path in self.releases.iterdir() if ID.fullmatch(path.name))
        return sorted((each for each in found if each), key=lambda each: int(each.id))

    def before(self, current: Release) -> list[Release]:
        """The good releases that led to this one, the last first. One that was rolled back from is not among them."""
        good = {each.id: each for each in self.all() if not each.failed}
        led, last = [], good.pop(current.id, current)
        while found := good.pop(last.after, None):
            led.append(found)
            last = found
        return led

    def next_id(self) -> str:
        taken = [int(path.name) for path in self.releases.glob("*") if ID.fullmatch(path.name)]
        with contextlib.suppress(OSError):  # a number is never given twice, also when its release is gone
            taken += [int(each) for each in re.findall(r"^\S+  (\d{4,})  ", self.history.read_text("utf-8"), re.M)]
        return f"{max(taken, default=0) + 1:04}"

    def unfinished(self) -> dict[str, Any] | None:
        try:
            found = json.loads(self._journal.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return found if isinstance(found, dict) else None

    # --- writing -----------------------------------------------------------------------------------------

    def salt(self) -> str:
        """What the digests of this stack's secrets are made with: they say nothing to who has only the digest."""
        try:
            return self._salt.read_text(encoding="ascii")
        except OSError:
            return ""

    def keep_salt(self, salt: str) -> None:
        if self.salt() != salt:
            write_atomic(self._salt, salt.encode(), 0o600)

    def begin(
        self, verb: str, old: str | None, new: str | None, who: str, step: str = SWITCHING, keep: int | None = None
    ) -> None:
        """From here on a run that dies is settled: the entry is on disk when this returns."""
        entry = {"schema": SCHEMA, "verb": verb, "from": old, "to": new, "step": step, "who": who, "when": now()}
        self._write_journal({**entry, "keep": keep})

    def committed(self) -> None:
        entry = self.unfinished()
        if entry:
            self._write_journal({**entry, "step": COMMITTED})

    def _write_journal(self, entry: Mapping[str, Any]) -> None:
        write_atomic(self._journal, (json.dumps(entry) + "\n").encode(), 0o600)
        sync_folder(self.folder)

    def end(self) -> None:
        self._journal.unlink(missing_ok=True)
        sync_folder(self.folder)
        with contextlib.suppress(OSError):  # of a first deploy that was given up before there was a release
            self.folder.rmdir()

    def point(self, release: str | None) -> None:
        """Makes a release the current one, atomically; None for no release at all."""
        if release is None:
            self.link.unlink(missing_ok=True)
        elif not self.link.is_symlink() or self.link.readlink().name != release:
            beside = self.folder / ".current"
            beside.unlink(missing_ok=True)
            beside.symlink_to(Path("releases", release))
            beside.replace(self.link)
        sync_folder(self.folder)

    def note(self, release: str | None, event: str, who: str, why: str = "") -> None:
        """One line of the history. Line breaks in what people say would make two of it."""
        words = " ".join(f"{event}  {who}  {why}".split("\n")).rstrip()
        line = f"{now()}  {release or '-':<4}  {words}\n"
        make_folders(self.folder)
        with self.history.open("a", encoding="utf-8") as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())

    def fail(self, release: Release, code: str, detail: str) -> None:
        entry = {"when": now(), "code": code, "detail": detail}
        write_atomic(release.folder / FAILED, (json.dumps(entry, indent=1) + "\n").encode(), 0o600)

    # --- keeping and forgetting --------------------------------------------------------------------------

    def outdated(self, keep: int | None) -> list[Release]:
        """The releases beyond those that are kept: the current one, `keep` - 1 others, the newest failed one.

        Of the others those that led to the current one come first. Without `keep`, every good one is kept.
        """
        current, everything = self.current(), self.all()
        led = self.before(current) if current else []
        good = [each for each in reversed(everything) if not each.failed and each not in (current, *led)]
        others = [*led, *good]
        kept = {each.id for each in (others if keep is None else others[: max(keep, 1) - 1])}
        failed = [each for each in everything if each.failed and each != current]
        kept |= {each.id for each in failed[-1:]} | ({current.id} if current else set())
        return [each for each in everything if each.id not in kept]

    def forget(self, outdated: list[Release]) -> None:
        """Removes releases, and then the trees, mounts and secrets that no release needs any more."""
        for each in outdated:  # at once or not at all: half a release would be nobody's
            gone = self.releases / f".new-{each.id}"
            each.folder.replace(gone)
            _remove(gone)
        left = self.all()
        needed = {
            self.files: {each.files for each in left},
            self.mounts: {digest for each in left for digest in each.mounts},
            self.secrets: {f"{name}.{digest}" for each in left for name, digest in each.secrets.items()},
        }
        for folder, names in needed.items():
            for path in folder.iterdir() if folder.is_dir() else []:
                if path.name not in names:
                    _remove(path)
        if not left:
            self._salt.unlink(missing_ok=True)
        for folder in (self.files, self.mounts, self.secrets, self.releases, self.folder):
            with contextlib.suppress(OSError):  # only where nothing is left
                folder.rmdir()

    def clear(self) -> None:
        """Removes what a run that died was just writing beside its place."""
        for folder in (self.folder, self.mounts, self.secrets, self.releases, *self.releases.glob("*")):
            for path in folder.glob(".*"):
                if HALF.fullmatch(path.name):
                    _remove(path)

    def remove(self) -> None:
        """Everything of the stack but its data; what a person put into the folder stays, and so does the folder then."""
        self.point(None)
        self.clear()
        for path in (self.releases, self.files, self.mounts, self.secrets, self.history, self._salt, self._journal):
            _remove(path)
        with contextlib.suppress(OSError):
            self.folder.rmdir()


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """A name that was made or changed in a folder is on disk when this returns."""
    with contextlib.suppress(FileNotFoundError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def sync_tree(folder: Path) -> None:
    """Every file and folder below is on disk when this returns."""
    for where, _folders, names in os.walk(folder):
        for name in names:
            path = Path(where, name)
            if not path.is_symlink():
                handle = os.open(path, os.O_RDONLY)
                try:
                    os.fsync(handle)
                finally:
                    os.close(handle)
        sync_folder(Path(where))


def unknown_release(store: Store, wanted: str) -> FleetError:
    there = ", ".join(each.id for each in store.all()) or "none"
    return FleetError("RELEASE_UNKNOWN", f"stack {store.name} has no release {wanted}; there are: {there}")
