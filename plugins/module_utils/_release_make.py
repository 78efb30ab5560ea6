# Copyright: gpulab.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A release is made beside everything that runs: judged, its images here, its files on disk. Nothing is stopped by it."""

from __future__ import annotations

import contextlib
import json
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ansible_collections.gpulab.fleet.plugins.module_utils import (
    _generated_secrets,
    _gpu_holders,
    _stack_data,
    _stack_gpus,
    _stack_graphics,
    _stack_images,
    _stack_mounts,
    _stack_volumes,
)
from ansible_collections.gpulab.fleet.plugins.module_utils import _release_compose as composing
from ansible_collections.gpulab.fleet.plugins.module_utils import _release_files as files
from ansible_collections.gpulab.fleet.plugins.module_utils import _release_refuse as refuse
from ansible_collections.gpulab.fleet.plugins.module_utils._clock import now
from ansible_collections.gpulab.fleet.plugins.module_utils._compose import Project
from ansible_collections.gpulab.fleet.plugins.module_utils._compose_adapt import Host, adapt, requests
from ansible_collections.gpulab.fleet.plugins.module_utils._deploy_plan import Handed, Plan
from ansible_collections.gpulab.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.gpulab.fleet.plugins.module_utils._files import make_folders, write_atomic
from ansible_collections.gpulab.fleet.plugins.module_utils._home_record import remember_stacks
from ansible_collections.gpulab.fleet.plugins.module_utils._image_integrity import mend
from ansible_collections.gpulab.fleet.plugins.module_utils._port_holders import refuse_taken
from ansible_collections.gpulab.fleet.plugins.module_utils._release import (
    COMPOSE,
    DOTENV,
    RECORD,
    SCHEMA,
    Release,
    Service,
    Store,
    sync_folder,
    sync_tree,
)
from ansible_collections.gpulab.fleet.plugins.module_utils._release_images import Images, refuse_unfit
from ansible_collections.gpulab.fleet.plugins.module_utils._stack_files import checksum, digest, dotenv, folder_state
from ansible_collections.gpulab.fleet.plugins.module_utils._tree_delta import absent
from ansible_collections.gpulab.fleet.plugins.module_utils._userenv import Account


@dataclass
class Made:
    """A release as it will be, still beside its place."""

    release: Release
    pins: dict[str, str]  # path in the tree -> where it is kept
    writers: dict[str, set[int]]  # data folder -> users of containers that mount it
    actions: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    diff: list[dict[str, str]] = field(default_factory=list)


class Making:
    """Makes one release from a plan."""

    def __init__(
        self, store: Store, user: Account, project: Project, plan: Plan, handed: Handed, check: bool, who: str
    ) -> None:
        self.store, self.user, self.project = store, user, project
        self.plan, self.handed, self.check, self.who = plan, handed, check, who
        self.salt = store.salt() or secrets.token_hex(16)
        self.secrets, self.generated = _generated_secrets.complete(store, plan.generate, plan.secrets)
        self.digests = files.secret_digests(self.salt, self.secrets)
        self.data_root = store.root / "data" / store.name
        self.data = {
            name: self._home(plan.settings.get(name) or str(self.data_root / entry["folder"]))
            for name, entry in plan.data.items()
        }
        self.mounts = {name: {**each, "source": self._home(each["source"])} for name, each in plan.mounts.items()}
        chosen = [each for each in plan.settings.get("COMPOSE_PROFILES", "").split(",") if each]
        self.mended: list[str] = []
        self.profiles = list(dict.fromkeys([*plan.profiles, *chosen]))

    def _home(self, path: str) -> str:
        return str(self.user.home) + path[1:] if path == "~" or path.startswith("~/") else path

    # --- before ------------------------------------------------------------------------------------------

    def needs(self) -> dict[str, Any]:
        """What the controller has to send before this can go on: only what is not here in the same form."""
        found: dict[str, Any] = {}
        refuse.foreign_archives(self.plan.archives)
        ours = self.plan.mutable or self.plan.local or self.handed.bundle is not None
        if not ours and not files.have_tree(self.store, self.plan):
            missing = absent(self.store.files, self.plan.files)
            found.update({"bundle": missing} if missing else {})
        here = self.project.images()
        guards = [here.get(_stack_images.guard(each["sha256"]), "") for each in self.plan.archives]
        self.mended = mend(self.project, [image for image in guards if image], self.check)
        if self.mended and not self.check:
            here = self.project.images()
        archives = [each["name"] for each in _stack_images.absent(here, self.plan.archives)]
        archives = [name for name in archives if name not in self.handed.archives]
        if archives and not self.check:
            found["archives"] = archives
        return found

    def inputs(self) -> str:
        """One checksum of everything that a release is made of."""
        plan = self.plan
        mine, host = self._proven()
        return digest(
            {
                "schema": SCHEMA,
                "files": plan.files,
                "source": [plan.source, plan.diff, *self._compose_checksums()] if plan.mutable else [],
                "compose_file": plan.compose_file,
                "override": plan.override,
                "settings": plan.settings,
                "data": self.data,
                "gpus": [plan.gpus, plan.sharing, mine, host],
                "secrets": [self.digests, plan.secret_modes],
                "archives": [archive["sha256"] for archive in plan.archives],
                "profiles": plan.profiles,
                "publish": plan.publish,
                **({"mounts": self.mounts} if self.mounts else {}),
                "gate": [plan.runs, plan.no_health, plan.checks, plan.wait_timeout, plan.graphics],
            }
        )

    def _compose_checksums(self) -> list[str | None]:
        """Of a folder that is mounted as it is, whose files nobody else looks through."""
        return [checksum(path) for path in self._compose_files(Path(self.plan.source["path"]))]

    def _compose_files(self, tree: Path) -> list[Path]:
        return [tree / name for name in (self.plan.compose_file, self.plan.override) if name]

    def is_same(self, current: Release) -> bool:
        """Whether the current release is what this plan would make, and all of it is still there."""
        if current.inputs != self.inputs():
            return False
        whole = all(checksum(current.folder / name) == wanted for name, wanted in current.checksums.items())
        whole &= all(folder_state(path) == wanted for path, wanted in current.contexts.items())
        return whole and (self.plan.mutable or files.have_tree(self.store, self.plan))

    def _proven(self) -> tuple[list[str], list[str]]:
        """The user's proven GPUs, where a service may want one: they make no difference to the others."""
        if any(_stack_gpus.wanted(request) for request in self.plan.gpus.values()):
            with contextlib.suppress(FleetError):  # a profile that is off needs none: _assign knows what there is
                return _stack_gpus.proven(self.user.name)
        return [], []

    @contextlib.contextmanager
    def scratch(self) -> Iterator[Path]:
        """A folder to make things in; on the file system where they will lie, so that they can be moved there."""
        if self.check:
            folder = Path(tempfile.mkdtemp(prefix="gpulab-"))
        else:
            make_folders(self.store.folder)
            folder = Path(tempfile.mkdtemp(prefix=".new-", dir=self.store.folder))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            if not self.check:
                self.store.forget([])  # what was brought for a release that was not made

    # --- making ------------------------------------------------------------------------------------------

    def make(self, scratch: Path, current: Release | None) -> Made:
        plan, store = self.plan, self.store
        tree = files.bring_tree(store, plan, self.handed, scratch)
        if not self.check:
            store.keep_salt(self.salt)
            tree = files.keep_tree(store, plan, tree)
            _generated_secrets.keep(self.user, store, {name: self.secrets[name] for name in self.generated})
            files.keep_secrets(store, self.secrets, plan.secret_modes, self.digests)
        env = scratch / "settings.env"
        env.write_text(self._settings(), encoding="utf-8")
        env.chmod(0o600)
        compose_files = self._compose_files(tree)

        def compose(*arguments: str, timeout: float | None = None) -> subprocess.CompletedProcess[str]:
            profiles = [text for each in [*self.profiles, "run"] for text in ("--profile", each)]
            base = ["--project-name", store.name, "--env-file", str(env)]
            named = [text for each in compose_files for text in ("-f", str(each))]
            return self.project.compose(*base, *named, *profiles, *arguments, timeout=timeout)

        everything = self.project.resolve(compose_files, env, tree)
        refuse.profiles(everything, self.profiles)
        config = composing.keep_services(everything, self.profiles, list(plan.runs))
        gpus = self._assign(config, current)
        render = [name for name in plan.graphics if gpus.get(name)]
        _stack_graphics.check_specs(render, _stack_gpus.specs(self.user.name) if render else [])
        notes = _stack_mounts.add(config, self.mounts, self.user.name)
        config, more = adapt(config, self._host(), gpus, plan.publish)
        self._refuse_early(config)

        images = Images(self.project, store.name, self.check, compose)
        images.bring_in(plan.archives, self.handed.archives)
        bases = [images.here.get(_stack_images.reference(each["name"])) for each in plan.archives]
        built = [service for service in config["services"].values() if service.get("build")]
        contexts = {path: folder_state(path) for each in built for path in composing.outside(each, tree)}
        builds = {
            name: "" if plan.mutable else composing.build_digest(service, tree, plan.files, bases, contexts)
            for name, service in config["services"].items()
            if service.get("build")
        }
        images.find(config["services"], builds, reversed(store.all()))
        about = {name: images.inspect(image) for name, (image, _source) in images.found.items()}
        health = self._judge(config, about, gpus)
        tags = images.keep()

        pins = {} if plan.mutable else self._pins(config, tree)
        loose = {} if plan.mutable else composing.loose_binds(config, tree, pins)
        moved = {**pins, **{source: str(self.data_root / _data_name(name)) for source, name in loose.items()}}
        final = composing.finish(store.name, config, tags, self.digests, moved)
        texts = self._write(scratch, final)
        hashes = self.project.hashes(scratch / "release")
        services = {
            name: Service(
                image=service.get("image") or f"{store.name}-{name}",
                image_id=images.found[name][0],
                tag=tags[name],
                build=images.found[name][1],
                config_hash=hashes.get(name, ""),
                gpus=list(gpus.get(name, [])),
                health=health[name],
                one_off=name in plan.runs,
            )
            for name, service in config["services"].items()
        }
        known = {name: image for name, (image, _source) in images.found.items() if image.startswith("sha256:")}
        data = {**self.data, **{name: moved[source] for source, name in loose.items()}}
        release = Release(
            id=store.next_id(),
            folder=scratch / "release",
            made=now(),
            by=self.who,
            why=plan.why,
            inputs=self.inputs(),
            settings=plan.settings,
            profiles=self.profiles,
            source=plan.source,
            services=services,
            ports=composing.published({**final, "services": _only(final["services"], plan.runs)}),
            data=data,
            volumes=composing.named_volumes(final),
            secrets=self.digests,
            files="" if plan.mutable else files.tree_digest(plan.files),
            mounts=sorted({Path(place).parent.name for place in pins.values() if str(store.mounts) in place}),
            checks=plan.checks,
            checksums={name: checksum(scratch / "release" / name) or "" for name in texts},
            wait_timeout=plan.wait_timeout,
            sharing=plan.sharing,
            graphics=render,
            after=current.id if current else "",
            generated=self.generated,
            volume_users=_stack_volumes.writers(self.project, final, known),
            given=plan.given,
            contexts=contexts,
            host_mounts=self.mounts,
        )
        writers = _stack_data.writers(self.project, final, known, data.values())
        made = Made(release, pins, writers, [*self.mended, *images.actions], seconds=images.seconds)
        made.notes = [*plan.notes, *notes, *more] + [
            f"{name} in compose.yml is kept as data in {moved[path]}" for path, name in loose.items()
        ]
        made.diff = self._diff(texts, current)
        self._foresee_data(made)
        return made

    def _refuse_early(self, config: Mapping[str, Any]) -> None:
        """What can be told without any image: nobody waits for a build to hear it."""
        refuse.missing_files(config, self.store.secrets)
        refuse.missing_externals(config, self.project)
        started = {**config, "services": _only(config["services"], self.plan.runs)}
        if ports := composing.published(started):
            refuse_taken(ports, self.project.containers(), self.plan.settings, self.project.others_ports)

    def _settings(self) -> str:
        values = {name: self._home(text) for name, text in self.plan.settings.items()}
        values.update(self.data)
        values.update(
            {f"{name}_FILE": str(files.secret_path(self.store, name, made)) for name, made in self.digests.items()}
        )
        return dotenv(values)

    def _host(self) -> Host:
        version = self.project.engine()["Version"]
        return Host.read(self.user, version, self.project.api("/info"), self.project.names())

    def _assign(self, config: Mapping[str, Any], current: Release | None) -> dict[str, list[str]]:
        asked = {**requests(config), **self.plan.gpus}
        asked = {name: request for name, request in asked.items() if name in config["services"]}
        if not any(_stack_gpus.wanted(request) for request in asked.values()):
            return {}
        mine, host = _stack_gpus.proven(self.user.name)
        others = [Store(self.store.root, path.name).current() for path in self.store.stacks.glob("[!.]*")]
        elsewhere = [
            uuid
            for other in others
            if other and other.folder.parent != self.store.releases
            for uuids in other.gpus.values()
            for uuid in uuids
        ]
        taken = _gpu_holders.taken(self.user.name, self.store.name, self.plan.sharing)
        told = {uuid: holder.told() for uuid, holder in taken.items()}
        before = {name: service.gpus for name, service in current.services.items()} if current else {}
        return _stack_gpus.assign(asked, mine, host, before, elsewhere, told)

    def _judge(
        self, config: Mapping[str, Any], about: Mapping[str, Mapping[str, Any]], gpus: Mapping[str, Any]
    ) -> dict[str, bool]:
        """Refuses what would fail, or lose data, only later; says which services have a health check."""
        volumes = {name: list((image.get("Config") or {}).get("Volumes") or {}) for name, image in about.items()}
        nameless = composing.anonymous(config, volumes)
        if nameless:
            text = ", ".join(f"{path} of {service}" for service, path in nameless)
            raise FleetError("STACK_VOLUME_ANONYMOUS", text)
        driver = _stack_gpus.driver_cuda()
        health = {}
        for name, service in config["services"].items():
            refuse_unfit(name, service, about[name], bool(gpus.get(name)), driver)
            check = service.get("healthcheck") or (about[name].get("Config") or {}).get("Healthcheck") or {}
            test = check.get("test") or check.get("Test") or []
            health[name] = bool(check) and not check.get("disable") and test[:1] != ["NONE"]
        silent = sorted(name for name, has in health.items() if not has and name not in self.plan.runs)
        allowed = self.plan.no_health
        if allowed is not None and not self.check and set(silent) - set(allowed):
            raise FleetError("STACK_HEALTH_UNKNOWN", ", ".join(sorted(set(silent) - set(allowed))))
        return health

    def _pins(self, config: Mapping[str, Any], tree: Path) -> dict[str, str]:
        found = composing.mounted_files(config, tree, self.plan.files)
        return {source: str(files.pinned(self.store, self.plan, tree, name)) for source, name in found.items()}

    def _write(self, scratch: Path, final: Mapping[str, Any]) -> dict[str, str]:
        """compose.yml as Compose itself writes it, and a .env, so that `docker compose` works in the folder."""
        folder = scratch / "release"
        folder.mkdir()
        profiles = ",".join(self.profiles)
        texts = {DOTENV: dotenv({"COMPOSE_PROJECT_NAME": self.store.name, "COMPOSE_PROFILES": profiles})}
        (folder / DOTENV).write_text(texts[DOTENV], encoding="utf-8")
        draft = scratch / "final.json"
        draft.write_text(json.dumps(final), encoding="utf-8")
        texts[COMPOSE] = self.project.pretty(draft)
        (folder / COMPOSE).write_text(texts[COMPOSE], encoding="utf-8")
        for name in texts:
            (folder / name).chmod(0o600)
        return texts

    def _diff(self, texts: Mapping[str, str], current: Release | None) -> list[dict[str, str]]:
        found = []
        for name, text in texts.items():
            old = ""
            if current:
                with contextlib.suppress(OSError):
                    old = (current.folder / name).read_text(encoding="utf-8")
            if old != text:
                header = str(self.store.link / name)
                found.append({"before_header": header, "after_header": header, "before": old, "after": text})
        return found

    def _foresee_data(self, made: Made) -> None:
        for path, users in made.writers.items():
            made.actions += _stack_data.prepare(Path(path), self.user, users, check=True)
        known = current.secrets if (current := self.store.current()) else {}
        names = sorted(set(known) | set(self.digests))
        made.actions += [f"secret {name}" for name in names if known.get(name) != self.digests.get(name)]

    # --- keeping -----------------------------------------------------------------------------------------

    def keep(self, made: Made) -> Release:
        """Everything of the release goes to its place, and is on disk when this returns."""
        store = self.store
        for source, place in made.pins.items():
            if place.startswith(str(store.mounts)):
                files.keep_mount(Path(place), Path(source))
        for path, users in made.writers.items():
            if not Path(path).exists():
                remember_stacks(self.user.home, store.root, Path(path))
            _stack_data.prepare(Path(path), self.user, users)
        release = replace(made.release, folder=store.releases / made.release.id)
        if self.plan.diff:
            write_atomic(made.release.folder / "source.diff", self.plan.diff.encode(), 0o600)
        record = (json.dumps(release.plain(), indent=1, sort_keys=True) + "\n").encode()
        write_atomic(made.release.folder / RECORD, record, 0o600)
        sync_tree(made.release.folder)
        make_folders(store.releases)
        made.release.folder.replace(release.folder)
        sync_folder(store.releases)
        return release


def _data_name(relative: str) -> str:
    """data/x of a stack's folder is x of its data folder."""
    return relative[len("data/") :] if relative.startswith("data/") else relative


def _only(services: Mapping[str, Any], runs: Mapping[str, str]) -> dict[str, Any]:
    return {name: service for name, service in services.items() if name not in runs}
