# Copyright: gpulab.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What is done to a stack as a whole or not at all: deploy, roll back, undeploy, and the settling of what was cut off.

Before anything that runs is touched, a new release lies complete on the disk (_release_make). Then a note of what is
about to happen is synced to the disk, the release is brought up in place of the old one and judged (_release_gate), and
the link `current` is moved. Whoever finds the note without a run that holds the stack's lock goes back to where it
came from, or finishes what was committed already. Everything here runs as the stack's user.
"""

from __future__ import annotations

import contextlib
import errno
import getpass
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ansible_collections.gpulab.fleet.plugins.module_utils import (
    _generated_secrets,
    _gpu_holders,
    _stack_lock,
    _stack_mounts,
    _stack_volumes,
)
from ansible_collections.gpulab.fleet.plugins.module_utils import _release_gate as gate
from ansible_collections.gpulab.fleet.plugins.module_utils import _stack_images as archives
from ansible_collections.gpulab.fleet.plugins.module_utils._compose import (
    Container,
    Project,
)
from ansible_collections.gpulab.fleet.plugins.module_utils._deploy_plan import Handed, Plan
from ansible_collections.gpulab.fleet.plugins.module_utils._disk_room import refuse_standstill
from ansible_collections.gpulab.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.gpulab.fleet.plugins.module_utils._files import make_folders
from ansible_collections.gpulab.fleet.plugins.module_utils._home_record import remember_stacks
from ansible_collections.gpulab.fleet.plugins.module_utils._port_holders import refuse_taken
from ansible_collections.gpulab.fleet.plugins.module_utils._release import (
    COMMITTED,
    PREPARING,
    Release,
    Store,
    unknown_release,
)
from ansible_collections.gpulab.fleet.plugins.module_utils._release_files import masked, secret_path
from ansible_collections.gpulab.fleet.plugins.module_utils._release_images import nameless, outdated_tags, restore_tags
from ansible_collections.gpulab.fleet.plugins.module_utils._release_make import Made, Making
from ansible_collections.gpulab.fleet.plugins.module_utils._settle_unit import ensure_unit
from ansible_collections.gpulab.fleet.plugins.module_utils._stack import check_name
from ansible_collections.gpulab.fleet.plugins.module_utils._stack_files import checksum
from ansible_collections.gpulab.fleet.plugins.module_utils._stack_places import Part, folders, volumes
from ansible_collections.gpulab.fleet.plugins.module_utils._stack_snapshot import Snapshot, Snapshots
from ansible_collections.gpulab.fleet.plugins.module_utils._userenv import Account

LOCK_WAIT = 10  # seconds to wait for another run on the same stack
LATER = {"STACK_ENGINE_DOWN", "STACK_DISK_FULL"}  # what keeps a stack from being settled now, and will not for ever
NO_ROOM = {errno.ENOSPC, errno.EDQUOT}


@dataclass
class Done:
    """What a verb did, or would do."""

    actions: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    diff: list[dict[str, str]] = field(default_factory=list)
    containers: Sequence[Container] = ()
    release: Release | None = None
    notes: list[str] = field(default_factory=list)


def stacks_root(user: Account, root: str) -> Path:
    return Path(root.replace("~", str(user.home), 1) if root.startswith("~") else root)


class Transaction:
    """The verbs on one stack of one user."""

    def __init__(self, user: Account, root: str, name: str, *, check: bool = False, who: str = "") -> None:
        check_name(name)
        self.user, self.name, self.check = user, name, check
        self.who = who or getpass.getuser()
        self.store = Store(stacks_root(user, root), name)
        self.done = Done()

    def project(self, release: Release | None = None) -> Project:
        return Project(self.user, self.name, release.folder if release else self.store.link)

    @contextlib.contextmanager
    def _alone(self, verb: str) -> Iterator[None]:
        """Nobody else is at work on this stack, and nothing is left unfinished."""
        if self.check:
            yield
            return
        try:
            with _stack_lock.held(self.store.stacks, self.name, self.who, verb, LOCK_WAIT):
                self.store.clear()
                if verb != "undeploy":  # takes away all there is, whatever was under way
                    self._settle_unfinished()
                yield
        except OSError as error:
            if error.errno in NO_ROOM:
                raise FleetError("STACK_DISK_FULL", str(error)) from error
            raise

    # --- deploy ------------------------------------------------------------------------------------------

    def deploy(self, plan: Plan, handed: Handed) -> dict[str, Any]:
        """The stack as the plan says, healthy; or what ran before still runs (again), and the error says why.

        {"needs": ...} when the controller has to send something first.
        """
        if not self.check:
            remember_stacks(self.user.home, self.store.root)
            make_folders(self.store.stacks)
        with self._alone("deploy"):
            project = self.project()
            if not self._answers(project):
                self.done.actions.append("deploy (there is no engine to ask yet)")
                return self.result()
            making = Making(self.store, self.user, project, plan, handed, self.check, self.who)
            needs = making.needs()
            if needs:
                return {"needs": needs}
            current = self.store.current()
            if current and making.is_same(current):
                self._keep(current)
                return self.result()
            self._refuse_full_disk(project)
            if self.check:
                with making.scratch() as scratch:
                    self._foresee(self._make(making, scratch, current), current)
                return self.result()
            self.store.begin("deploy", current.id if current else None, self.store.next_id(), self.who, PREPARING)
            try:
                with making.scratch() as scratch:
                    made = self._make(making, scratch, current)
                    if current and plan.snapshot:
                        self._snapshots().make(self._places(current), current.id, check=True)  # there is room for it
                    release = making.keep(made)
                self._switch("deploy", current, release, snapshot=plan.snapshot, keep=plan.keep)
            except BaseException:
                with contextlib.suppress(FleetError, OSError):
                    self._forget_prepared()
                raise
            return self.result()

    def _make(self, making: Making, scratch: Path, current: Release | None) -> Made:
        made = making.make(scratch, current)
        self.done.actions += made.actions
        self.done.seconds.update(made.seconds)
        self.done.diff, self.done.notes = made.diff, made.notes
        return made

    def _refuse_full_disk(self, project: Project) -> None:
        refuse_standstill([Path(project.api("/info")["DockerRootDir"]), self.store.folder])

    def _answers(self, project: Project) -> bool:
        try:
            project.engine()
        except FleetError:
            if self.check:
                return False
            raise
        return True

    def _foresee(self, made: Made, current: Release | None) -> None:
        """What a deploy would restart, from the hashes that Compose would compare."""
        self.done.release = current
        containers = self.project().containers()
        self.done.containers = containers
        self.done.actions += _stack_volumes.prepare(self.project(), made.release.volume_users, check=True)
        known = {each.service: each for each in containers}
        for name in made.release.started:
            if name not in known:
                self.done.actions.append(f"create {name}")
            elif not gate.as_released(known[name], made.release):
                self.done.actions.append(f"recreate {name}")
        gone = sorted(set(known) - set(made.release.started))
        self.done.actions += [f"remove {name}" for name in gone] + [f"release {made.release.id}"]

    def _keep(self, current: Release) -> None:
        """Nothing new is wanted: what runs has to be the current release, whole."""
        project = self.project(current)
        containers = project.containers()
        self.done.release, self.done.containers = current, containers
        if gate.is_up(current, containers):
            if not self.check and any(not each.well for each in containers):
                self.done.containers = self._wait(project, current)
            return
        if self.check:
            self.done.actions.append("docker compose up")
            return
        restore_tags(project, current)
        refuse_taken(current.ports, containers)
        self.store.begin("repair", current.id, current.id, self.who)
        self._claim(current)
        try:
            self._bring_up(current)
        except FleetError as error:
            if error.code not in LATER:
                self.store.end()
            raise
        self.store.note(current.id, "repaired", self.who)
        self.store.end()

    @staticmethod
    def _wait(project: Project, release: Release) -> Sequence[Container]:
        return project.settle(list(release.started), time.monotonic() + release.wait_timeout)

    # --- switching ---------------------------------------------------------------------------------------

    def _switch(
        self, verb: str, old: Release | None, new: Release, snapshot: bool = False, keep: int | None = None
    ) -> None:
        project = self.project(new)
        restore_tags(project, new)
        refuse_taken(new.ports, project.containers(), new.settings, project.others_ports)
        self._refuse_full_disk(project)
        ensure_unit(self.user)
        self.store.begin(verb, old.id if old else None, new.id, self.who, keep=keep)
        try:
            self._claim(new)
            if old and snapshot:
                self._copy_data(old, f"before release {new.id}")
            self._bring_up(new)
            self.store.committed()
        except BaseException as error:
            self._give_up(verb, old, new, error)
            raise AssertionError("unreachable") from error
        self._finish(verb, new, new.why, keep)

    def _bring_up(self, release: Release) -> None:
        """Brings a release up, and notes which containers that made or started."""
        project = self.project(release)
        before = {each.id: each.started for each in project.containers()}
        self.done.actions += _stack_volumes.prepare(project, release.volume_users)
        began = time.monotonic()
        try:
            containers = gate.bring_up(project, release)
        except FleetError as error:
            raise FleetError(error.code, masked(self.store, release, error.detail)) from error
        self.done.seconds["up"] = time.monotonic() - began
        for each in containers:
            if each.id not in before:
                self.done.actions.append(f"create {each.name}")
            elif before[each.id] != each.started:
                self.done.actions.append(f"start {each.name}")
        self.done.containers = containers

    def _finish(self, verb: str, release: Release, why: str, keep: int | None) -> None:
        """The release has passed the gate: from here on there is no way but forward."""
        self.store.point(release.id)
        event = {"deploy": "deployed", "rollback": "rolled back to"}[verb]
        self.store.note(release.id, event, self.who, why)
        with contextlib.suppress(FleetError, OSError):  # nothing of this can fail a deploy
            self._sweep(keep)
        self.store.end()
        self.done.release = release
        self.done.actions.append(f"release {release.id}")

    def _give_up(self, verb: str, old: Release | None, new: Release, error: BaseException) -> None:
        """Back to what ran before; the failed release is kept with its logs."""
        code = error.code if isinstance(error, FleetError) else "STACK_INTERRUPTED"
        detail = error.detail if isinstance(error, FleetError) else f"{type(error).__name__}: {error}"
        if isinstance(error, OSError) and error.errno in NO_ROOM:
            code = "STACK_DISK_FULL"
        try:
            went = self._back_from(verb, old, new, code, detail)
        except (FleetError, OSError) as later:
            before = f"release {old.id} runs" if old else "nothing of this stack runs"
            went = f"That {before} again has to wait for the next boot, verb or `gpulab settle`: {later}"
        if not isinstance(error, (FleetError, Exception)):
            raise error
        logs = f"; logs: {new.folder / 'logs'}" if (new.folder / "logs").is_dir() else ""
        raise FleetError(code, f"release {new.id}: {detail}\n{went}{logs}") from error

    def _back_from(self, verb: str, old: Release | None, new: Release | None, code: str, detail: str) -> str:
        """The note of what was under way goes only when all of this is done: a full disk is no reason to stay down."""
        marked: OSError | None = None
        try:
            if new:
                if verb == "deploy":
                    gate.save_logs(self.project(new), new)
                    self.store.fail(new, code, detail)
                self.store.note(new.id, f"failed ({code})", self.who)
        except OSError as error:
            marked = error
        went = self._go_back(old, new)
        if marked:
            raise marked
        self._sweep(None)
        self.store.end()
        return went

    def _go_back(self, old: Release | None, new: Release | None) -> str:
        """Brings up the old release, or nothing where there was none; says what runs now."""
        self._claim(old)
        if old is None:
            gate.take_down(self.project(new))
            self.store.point(None)
            return "Nothing of this stack ran before, and nothing runs now"
        try:
            restore_tags(self.project(old), old)
            self._bring_up(old)
        except FleetError as error:
            if error.code in LATER:
                raise
            self.store.note(old.id, f"is not well either ({error.code})", self.who)
            return f"Release {old.id} was started again and is not well either: {error.detail}"
        self.store.note(old.id, "runs again", self.who)
        return f"Release {old.id} runs again"

    def _claim(self, release: Release | None) -> None:
        """Every user of the host can read which GPUs the stack has from now on; refused when another has one of them."""
        services: dict[str, dict[str, Any]] = {}
        if release:
            services = {name: {"gpus": gpus, "sharing": release.sharing} for name, gpus in release.gpus.items()}
        mine = (self.user.name, self.name)
        if services or any((each.user, each.stack) == mine for each in _gpu_holders.read()):
            _gpu_holders.claim(self.user, self.name, services)

    # --- settling ----------------------------------------------------------------------------------------

    def settle(self) -> dict[str, Any]:
        """After a reboot or a killed run, without anybody's help: what was cut off goes back, or is finished."""
        with self._alone("settle"):
            current = self.store.current()
            if current and not self.check:
                containers = self.project(current).containers()
                there = {each.service for each in containers if each.status not in ("created", "dead")}
                if not set(current.started) <= there:
                    self._keep(current)
                with contextlib.suppress(FleetError):  # those that an engine which went away had left
                    self._untag()
            self.done.release = current
            return self.result()

    def _settle_unfinished(self) -> None:
        left = self.store.unfinished()
        if left is None:
            return
        old = self.store.read(left["from"]) if left.get("from") else None
        new = self.store.read(left["to"]) if left.get("to") else None
        verb = str(left.get("verb"))
        self.done.actions.append(f"settle a {verb} that was cut off")
        if verb in ("snapshot", "restore"):
            self.done.actions += self._snapshots().settle()
            self._go_back(old, None)
            self.store.end()
        elif verb == "undeploy":
            self._remove(old)
        elif left.get("step") == PREPARING:
            self._forget_prepared()
        elif left.get("step") == COMMITTED and new:
            self._finish(verb, new, "settled after it was cut off", left.get("keep"))
        else:
            failed = new if verb != "repair" else None
            self._back_from(verb, old, failed, "STACK_INTERRUPTED", f"the run of {left.get('when')} was cut off")

    def _forget_prepared(self) -> None:
        """A release that was still being made goes: it never ran, and nothing is to be learnt from it."""
        left = self.store.unfinished()
        if left and left.get("step") == PREPARING:
            shutil.rmtree(self.store.releases / left["to"], ignore_errors=True)
            self.store.clear()
            self._sweep(None)
            self.store.end()

    # --- rollback ----------------------------------------------------------------------------------------

    def rollback(self, to: str | None = None) -> dict[str, Any]:
        """The previous release, or a named one, runs again: without a pull or a build, through the same gate."""
        with self._alone("rollback"):
            self.project().engine()
            current = self.store.current()
            led = self.store.before(current) if current else []
            target = self.store.read(to) if to else next(iter(led), None)
            if target is None:
                if to:
                    raise unknown_release(self.store, to)
                there = f"no release that ran before {current.id} is kept" if current else "nothing is deployed"
                raise FleetError("RELEASE_NONE_BEFORE", f"stack {self.name}: {there}")
            if current and target.id == current.id:
                self._keep(current)
                return self.result()
            self._refuse_incomplete(target)
            if self.check:
                self.done.actions.append(f"roll back to {target.id}")
                self.done.release = current
                return self.result()
            self._switch("rollback", current, target)
            return self.result()

    def _refuse_incomplete(self, release: Release) -> None:
        """Everything that a release needs is kept with it; says what somebody has taken away or changed."""
        missing = [name for name, wanted in release.checksums.items() if checksum(release.folder / name) != wanted]
        missing += [f"mounts/{digest}" for digest in release.mounts if not (self.store.mounts / digest).is_dir()]
        missing += [
            f"the secret {name}"
            for name, digest in release.secrets.items()
            if not secret_path(self.store, name, digest).exists()
        ]
        missing += _stack_mounts.missing(release.host_mounts)
        if missing:
            raise FleetError("RELEASE_INCOMPLETE", f"release {release.id}: {', '.join(missing)}")

    # --- data --------------------------------------------------------------------------------------------

    def _snapshots(self) -> Snapshots:
        return Snapshots(self.user, self.store.root, self.name)

    def _places(self, release: Release) -> list[Part]:
        return [*folders(release.data), *volumes(self.project(release))]

    def _copy_data(self, release: Release, why: str) -> Snapshot:
        """A copy of the data while nothing of the stack writes to them; the services stay stopped."""
        gate.stop(self.project(release))
        made = self._snapshots().make(self._places(release), release.id, why)
        self.done.actions.append(f"snapshot {made.id}")
        self.store.note(release.id, f"snapshot {made.id}", self.who, why)
        return made

    # --- undeploy ----------------------------------------------------------------------------------------

    def undeploy(self, without_engine: bool = False) -> dict[str, Any]:
        """Stops the stack and takes its releases away; data folders, volumes and images of others stay."""
        if not self.store.folder.is_dir() and (self.check or not self.store.stacks.is_dir()):
            return self.result()
        with self._alone("undeploy"):
            current = self.store.current()
            project, answers = self.project(current), True
            try:
                project.engine()
                containers, runs = project.containers(), project.one_off_runs()
            except FleetError:
                if self.store.folder.exists() and not self.check and not without_engine:
                    raise
                containers, runs, answers = [], [], False
            self.done.actions += [f"end the run {name}" for name in runs]
            self.done.actions += [f"remove {each.name}" for each in containers]
            if self.store.folder.exists():
                self.done.actions.append(f"remove {self.store.folder}")
            if not self.check and self.done.actions:
                if self.store.folder.exists():
                    self.store.begin("undeploy", current.id if current else None, None, self.who)
                self._remove(current, bool(containers or runs), answers)
            return self.result()

    def _remove(self, release: Release | None, running: bool = True, answers: bool = True) -> None:
        if running:
            gate.take_down(self.project(release))
        self._claim(None)
        self.store.point(None)
        releases = self.store.all()
        built = {archives.reference(each.image) for one in releases for each in one.services.values() if each.build}
        self.store.forget(releases)
        if answers:
            self._untag()  # no release needs any of them now
            here = self.project().images()
            for name in sorted(built):
                if name in here:
                    self.project().docker("rmi", name)
        self.store.remove()

    # --- tidying -----------------------------------------------------------------------------------------

    def _sweep(self, keep: int | None) -> None:
        """Releases beyond those to keep go, and the images that only they needed."""
        self.store.forget(self.store.outdated(keep))
        self._untag()

    def _untag(self) -> None:
        project = self.project()
        for tag in [*outdated_tags(self.store, project.images()), *nameless(project, self.store)]:
            if project.docker("rmi", tag).returncode != 0:
                project.engine()

    # --- results -----------------------------------------------------------------------------------------

    def status(self) -> dict[str, Any]:
        """What is current, what runs, what is kept; asks and changes nothing."""
        current = self.store.current()
        with contextlib.suppress(FleetError):
            self.done.containers = self.project(current).containers()
        self.done.release = current
        kept = [
            {"release": each.id, "made": each.made, "by": each.by, "why": each.why, "failed": each.failed}
            for each in self.store.all()
        ]
        return {**self.result(), "kept": kept, "unfinished": self.store.unfinished()}

    def result(self) -> dict[str, Any]:
        release = self.done.release
        return {
            "changed": bool(self.done.actions),
            "actions": self.done.actions,
            "stack": self.name,
            "release": release.id if release else None,
            "folder": str(self.store.link),
            "data": release.data if release else {},
            "gpus": release.gpus if release else {},
            "secret_files": _generated_secrets.where(self.store, release.plain()) if release else {},
            "services": [container.plain() for container in self.done.containers],
            "notes": self.done.notes,
            "seconds": {name: round(seconds, 2) for name, seconds in self.done.seconds.items()},
            "diff": self.done.diff,
        }
