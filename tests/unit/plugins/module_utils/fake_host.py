"""A user's home and engine that live through what happens to a host: killed runs, power cuts, full disks, lost engines.

Every change on the disk and every word to the engine is a step, and at each of them the run may end. A run that was
killed does nothing any more, also not in its `finally`. After a power cut, files that were not synced end somewhere.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.gpulab.fleet.plugins.module_utils import (
    _compose,
    _gpu_holders,
    _image_integrity,
    _release_gate,
    _release_images,
    _stack_gpus,
    _stack_lock,
    _transaction,
)
from ansible_collections.gpulab.fleet.plugins.module_utils._deploy_plan import Handed, Plan
from ansible_collections.gpulab.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.gpulab.fleet.plugins.module_utils._release import Release, Store
from ansible_collections.gpulab.fleet.plugins.module_utils._release_files import have_tree
from ansible_collections.gpulab.fleet.plugins.module_utils._stack_files import shipped
from ansible_collections.gpulab.fleet.plugins.module_utils._transaction import Transaction
from ansible_collections.gpulab.fleet.plugins.module_utils._userenv import Account

from .fake_engine import FakeEngine, FakeProject

GPUS = ["GPU-a", "GPU-b"]
KEEP = 2
NAME = "small"
BIND = {"type": "bind", "target": "/serve.py", "source": "./serve.py", "read_only": True}
COMPOSE = {
    "services": {
        "web": {
            "build": {"context": "."},
            "environment": {"WORD": "${WORD:-one}", "MODE": "${MODE:-serve}"},
            "healthcheck": {"test": ["CMD", "true"]},
            "volumes": [{"type": "bind", "source": "${NOTES}", "target": "/notes"}],
            "secrets": [{"source": "TOKEN"}],
        },
        "side": {
            "image": "base:1",
            "environment": {"WORD": "${SIDE:-side}"},
            "healthcheck": {"test": ["CMD", "true"]},
            "volumes": [BIND],
        },
    },
    "secrets": {"TOKEN": {"file": "${TOKEN_FILE}"}},
}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.symlink", "os.chmod"}
TAKES_ROOM = {"open", "os.mkdir", "os.symlink"}

_watching: list[Callable[[str], None]] = []
_installed: list[bool] = []


class Cut(BaseException):
    """The run is dead."""


def _audit(event: str, args: tuple[Any, ...]) -> None:
    if not _watching:
        return
    writes = event == "open" and isinstance(args[2], int) and args[2] & WRITING
    if event in CHANGES or (writes and not str(args[0]).endswith(("/starts", ".pyc"))):
        _watching[-1](event)


@dataclass(frozen=True)
class Home(Account):
    @property
    def runtime_dir(self) -> Path:
        return self.home / "run"


class Host:
    """The host, one stack on it, and what is to befall the next run."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch, rng: Random) -> None:
        self.rng, self.folder = rng, folder
        self.user = Home("root", os.getuid(), os.getgid(), folder / "home")
        self.user.home.mkdir(parents=True)
        self.holders = folder / "holders"
        self.holders.mkdir()
        self.store = Store(self.user.home / "gpulab", NAME)
        self.machine = FakeEngine(step=self.step)
        self.steps, self.at, self.fate = 0, 0, ""
        self.dead = self.full = False
        self.befell: list[str] = []
        self.ran: set[str] = set()
        self.on_disk: dict[int, int] = {}
        self.clock = 0.0
        self._patch(patch)
        if not _installed:
            sys.addaudithook(_audit)
            _installed.append(True)

    def _patch(self, patch: pytest.MonkeyPatch) -> None:
        patch.setattr(FakeProject, "machine", self.machine, raising=False)
        patch.setattr(_transaction, "Project", FakeProject)
        patch.setattr(_transaction, "LOCK_WAIT", 0)
        patch.setattr(_gpu_holders, "FOLDER", self.holders)
        patch.setattr(_stack_gpus, "proven", lambda _user: (GPUS, GPUS))
        patch.setattr(_stack_gpus, "driver_cuda", lambda: "")
        patch.setattr(_release_images, "sync", self.machine.sync)
        patch.setattr(_release_images, "room", lambda *_args, **_more: None)
        patch.setattr(_transaction, "refuse_standstill", lambda _paths: None)
        patch.setattr(_image_integrity, "intact", self.machine.intact)
        patch.setattr(os, "fsync", self._fsync)
        clock = SimpleNamespace(monotonic=lambda: self.clock, time=lambda: self.clock, sleep=self._sleep)
        for module in (_compose, _release_gate, _release_images, _stack_lock, _transaction):
            patch.setattr(module, "time", clock)

    def _sleep(self, seconds: float) -> None:
        self.clock += max(seconds, 1)

    def _fsync(self, handle: int) -> None:
        status = os.fstat(handle)
        self.on_disk[status.st_ino] = status.st_size

    # --- what may happen at each step --------------------------------------------------------------------

    def step(self, what: str) -> None:
        if self.dead:
            raise Cut
        self.steps += 1
        if self.steps == self.at:
            self.befell.append(self.fate)
            if self.fate in ("kill", "power cut"):
                self.dead = True
                raise Cut
            if self.fate == "interrupt":
                raise KeyboardInterrupt
            if self.fate == "disk full":
                self.full = self.machine.full = True
            if self.fate == "engine away":
                self.machine.answers = False
            if self.fate == "second run":
                self._second_run()
        if self.full and what in TAKES_ROOM:
            raise OSError(errno.ENOSPC, "No space left on device")

    def _second_run(self) -> None:
        """Nobody else gets at the stack as long as a run is at work on it."""
        locked = (self.store.stacks / ".locks" / NAME).exists()
        steps, self.steps, self.at = self.steps, 0, 0
        if locked and self.store.unfinished():
            with pytest.raises(FleetError, match="STACK_BUSY"):
                self.verb().rollback()
        self.steps = steps

    # --- running a verb ----------------------------------------------------------------------------------

    def verb(self) -> Transaction:
        return Transaction(self.user, "~/gpulab", NAME, who="tester")

    def run(self, work: Callable[[Transaction], Any], fate: str = "", at: int = 0) -> str:
        """Does it, and lets `fate` befall it at that step; returns how it ended: done, cut, or the finding."""
        self.steps, self.at, self.fate = 0, at, fate
        self.on_disk = {status.st_ino: status.st_size for _path, status in self._files()}
        _watching.append(self.step)
        try:
            work(self.verb())
            ended = "done"
        except Cut:
            ended = "cut"
        except KeyboardInterrupt:
            ended = "interrupted"
        except FleetError as error:
            ended = error.code
        finally:
            _watching.pop()
            self.at = 0
        self._let_go()
        if ended == "cut":
            self._after_death()
        self.full = self.machine.full = False
        if not self.machine.answers:
            self.machine.restart()
        current = self.store.current()
        if ended == "done" and current:
            self.ran.add(current.id)
        return ended

    def _let_go(self) -> None:
        for handle in list(Path("/proc/self/fd").iterdir()):  # the kernel closes them
            with contextlib.suppress(OSError):
                if f"{self.folder}/home/gpulab/stacks/.locks/" in str(handle.readlink()):
                    os.close(int(handle.name))

    def _after_death(self) -> None:
        self.dead = False
        if self.fate == "power cut":
            for path, status in self._files():
                synced = self.on_disk.get(status.st_ino, 0)
                if status.st_size > synced and path.name != "starts":
                    os.truncate(path, self.rng.randint(synced, status.st_size))
            self.machine.power_cut()
        else:
            self.machine.finish()

    def _files(self) -> Iterator[tuple[Path, os.stat_result]]:
        for where, _folders, names in os.walk(self.folder):
            for name in names:
                path = Path(where, name)
                if not path.is_symlink():
                    yield path, path.stat()

    # --- what can be asked for ---------------------------------------------------------------------------

    def plan(self, version: int = 1, secret: str = "x", gpu: int = 0, **settings: str) -> Plan:
        tree = self.folder / "tree"
        tree.mkdir(exist_ok=True)
        (tree / "compose.yml").write_text(json.dumps(COMPOSE), encoding="utf-8")
        (tree / "serve.py").write_text(f"serve {version // 2}\n", encoding="utf-8")
        (tree / "version").write_text(f"{version}\n", encoding="utf-8")
        return Plan(
            settings=settings,
            data={"NOTES": {"folder": "notes"}},
            gpus={"web": gpu},
            secrets={"TOKEN": secret},
            files=shipped(tree),
            archives=[{"name": "base:1", "sha256": "ab", "kind": "saved", "archive": "base.tar"}],
            wait_timeout=20,
            source={"kind": "folder", "path": str(tree)},
            local=str(tree),
            keep=KEEP,
        )

    def deploy(self, plan: Plan, fate: str = "", at: int = 0) -> str:
        return self.run(lambda verb: verb.deploy(plan, Handed(archives={"base:1": 0})), fate, at)

    def settle(self, fate: str = "", at: int = 0) -> str:
        return self.run(lambda verb: verb.settle(), fate, at)

    # --- what has to be true -----------------------------------------------------------------------------

    def wrong(self) -> list[str]:
        """What is not as it should be on a host on which nothing is under way."""
        current, found = self.store.current(), []
        found += self._wrong_containers(current)
        found += self._wrong_files(current)
        for path, text in self.machine.written.items():
            there = Path(path).read_text(encoding="utf-8") if Path(path).exists() else None
            if there != text:
                found.append(f"data: {path} has {there!r}, {text!r} was written")
        held = {gpu for holder in _gpu_holders.read() for gpu in holder.gpus}
        wanted = {gpu for gpus in current.gpus.values() for gpu in gpus} if current else set()
        if held != wanted:
            found.append(f"holders say {held}, the release has {wanted}")
        return found

    def _wrong_containers(self, current: Release | None) -> list[str]:
        boxes = self.machine.of(NAME)
        if current is None:
            return [f"{box.name} is there, and no release is" for box in boxes]
        found = []
        if sorted(box.service for box in boxes) != sorted(current.started):
            found.append(f"containers: {[(box.name, box.status) for box in boxes]}")
        for box in boxes:
            service = current.started.get(box.service)
            if service and (box.hash, box.image) != (service.config_hash, service.image_id):
                found.append(f"{box.name} is not of release {current.id}")
            if (box.status, box.health) != ("running", "healthy") or "_" in box.name:
                found.append(f"{box.name} is {box.status}, {box.health}")
        return found

    def _wrong_files(self, current: Release | None) -> list[str]:
        found, store = [], self.store
        whole, folders = store.all(), [path.name for path in store.releases.glob("*")]
        if sorted(folders) != [each.id for each in whole]:
            found.append(f"releases: {sorted(folders)}, whole are {[each.id for each in whole]}")
        good = [each for each in whole if not each.failed]
        if len(good) > KEEP or len(whole) - len(good) > 1:
            found.append(f"kept: {[each.id for each in good]} of {folders}")
        found += [f"release {each.id} never ran and did not fail" for each in good if each.id not in self.ran]
        needed = {
            store.files: {each.files for each in whole},
            store.mounts: {digest for each in whole for digest in each.mounts},
            store.secrets: {f"{name}.{digest}" for each in whole for name, digest in each.secrets.items()},
        }
        for folder, names in needed.items():
            there = {path.name for path in folder.glob("*")} | {path.name for path in folder.glob(".*")}
            if there != names:
                found.append(f"{folder.name}: {there} are there, {names} are needed")
        for each in whole:
            files = {path.name for path in each.folder.iterdir()} - {"failed.json", "logs"}
            if files != {"compose.yml", ".env", "release.json"}:
                found.append(f"release {each.id} has {files}")
        tags = {tag for tag in self.machine.tags if tag.startswith(f"gpulab/{NAME}-")}
        wanted = {service.tag for each in whole for service in each.services.values()}
        if tags - wanted:
            found.append(f"tags without a release: {tags - wanted}")
        for each in good:
            ids = {service.tag: service.image_id for service in each.services.values()}
            found += [f"release {each.id}: {tag} is gone" for tag in ids if self.machine.tags.get(tag) != ids[tag]]
            found += [f"release {each.id}: {tag} is broken" for tag in ids if ids[tag] in self.machine.broken]
        known = {"current", "releases", "files", "mounts", "secrets", "history", "salt"}
        found += [f"{path} is left" for path in store.folder.glob("*") if path.name not in known]
        found += [f"{path} is left" for path in store.folder.glob(".*")]
        found += [f"{path} is left" for path in store.stacks.glob(".*")]
        if store.folder.exists() and not whole:
            found += [
                f"{path} is left without any release" for path in store.folder.iterdir() if path.name != "history"
            ]
        return found + self._wrong_history(current)

    def _wrong_history(self, current: Release | None) -> list[str]:
        if not self.store.history.exists():
            return [] if current is None else ["there is no history"]
        runs = ""
        for line in self.store.history.read_text(encoding="utf-8").splitlines():
            _when, release, event = line.split("  ")[:3]
            if event in ("deployed", "rolled back to", "runs again", "repaired"):
                runs = release
        if runs != (current.id if current else ""):
            return [
                f"the history says that {runs or 'nothing'} runs, current is {current.id if current else 'nothing'}"
            ]
        return []


__all__ = ["GPUS", "KEEP", "Cut", "Host", "have_tree"]
