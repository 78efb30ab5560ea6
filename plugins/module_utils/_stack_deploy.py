# Copyright: gpulab.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A stack on a host: reads what is there, compares, and does what differs; all of it as the stack's user."""

from __future__ import annotations

import contextlib
import fcntl
import hmac
import json
import os
import secrets
import shutil
import socket
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ansible_collections.gpulab.fleet.plugins.module_utils import _stack_files as layout
from ansible_collections.gpulab.fleet.plugins.module_utils import _stack_gpus, _stack_images
from ansible_collections.gpulab.fleet.plugins.module_utils._compose import (
    POLL,
    Container,
    Project,
    classify,
    sorted_streams,
    sync,
    tail,
)
from ansible_collections.gpulab.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.gpulab.fleet.plugins.module_utils._files import make_folders, write_atomic
from ansible_collections.gpulab.fleet.plugins.module_utils._home_record import remember_stacks
from ansible_collections.gpulab.fleet.plugins.module_utils._stack import refused_forms
from ansible_collections.gpulab.fleet.plugins.module_utils._userenv import Account

SCHEMA = 1
BUSY = 600  # seconds to wait for another run on the user's stacks, such as one whose controller was killed
GRACE = 30  # seconds that `up` may take beyond what the stack may take to be well


@dataclass
class Plan:
    """What the inventory and the stack's folder say, already checked on the controller."""

    name: str
    root: str
    settings: dict[str, str]
    data: dict[str, dict[str, Any]]
    gpus: dict[str, Any]
    secrets: dict[str, str]
    secret_modes: dict[str, str]
    files: dict[str, dict[str, Any]]
    forms: list[tuple[str, str]]
    archives: list[dict[str, Any]]
    wait_timeout: int


@dataclass
class Handed:
    """Open files that the controller sent along."""

    bundle: int | None = None
    archives: dict[str, int] = field(default_factory=dict)


class Stack:
    """One stack of one user."""

    def __init__(self, plan: Plan, user: Account, check: bool, handed: Handed) -> None:
        self.plan, self.user, self.check, self.handed = plan, user, check, handed
        root = Path(plan.root.replace("~", str(user.home), 1) if plan.root.startswith("~") else plan.root)
        self.stacks = root / "stacks"
        self.folder = self.stacks / plan.name
        self.project = Project(user, plan.name, self.folder)
        self.data = {
            name: self._home(plan.settings.get(name) or str(root / "data" / plan.name / entry["folder"]))
            for name, entry in plan.data.items()
        }
        self.state = self._read_state(self.folder / layout.STATE)
        self.salt = self.state.get("salt") or secrets.token_hex(16)
        self.actions: list[str] = []
        self.seconds: dict[str, float] = {}
        self.before: dict[str, str] = {}
        self.after: dict[str, str] = {}

    def _home(self, path: str) -> str:
        return str(self.user.home) + path[1:] if path == "~" or path.startswith("~/") else path

    @staticmethod
    def _read_state(path: Path) -> dict[str, Any]:
        try:
            state = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return state if isinstance(state, dict) and state.get("schema") == SCHEMA else {}

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Holds the lock of the user's stacks, and takes away what a killed run left beside its folder."""
        if self.check or (not self.stacks.is_dir() and not self.plan.files):
            yield
            return
        if self.plan.files:
            remember_stacks(self.user.home, self.stacks.parent)
        make_folders(self.stacks)
        lock = os.open(self.stacks, os.O_RDONLY)  # one lock for all: what other stacks hold decides who gets which GPU
        try:
            deadline = time.monotonic() + BUSY
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        raise FleetError("STACK_BUSY", f"{self.stacks} is locked for more than {BUSY} s") from None
                    time.sleep(POLL)
            self.state = self._read_state(self.folder / layout.STATE)
            self.salt = self.state.get("salt") or self.salt
            for left in self.stacks.glob(f".{self.plan.name}.*"):
                shutil.rmtree(left, ignore_errors=True)
            yield
        finally:
            os.close(lock)

    # --- present ---------------------------------------------------------------------------------------

    def deploy(self) -> dict[str, Any]:
        with self._alone():
            return self._deploy()

    def _deploy(self) -> dict[str, Any]:
        engine = self._engine()
        if engine is None:
            return self._result([], predicted="there is no engine to ask yet")
        images = self.project.images()
        missing = self._missing(images)
        if missing:
            return {"needs": missing}
        mine, host = self._proven()
        inputs = self._inputs(mine, host)
        same = self.state.get("inputs") == inputs and self._files_are_there(self.state.get("written", {}))
        if not same:
            self._render(engine, mine, host)
        images = self._bring_in(images)
        services: dict[str, Any] = self.state["services"]
        if not self.check or not self.actions:
            self._make_data_folders()
            containers = self._run(services, images)
        else:
            containers = self.project.containers()
        self._save(inputs)
        return self._result(containers)

    def _engine(self) -> dict[str, Any] | None:
        try:
            return self.project.engine()
        except FleetError:
            if self.check:
                return None
            raise

    def _missing(self, images: Mapping[str, str]) -> dict[str, Any]:
        """What the controller has to send before this can go on: only what is not here in the same form."""
        needs: dict[str, Any] = {}
        if self.handed.bundle is None and not self._files_are_there(self.plan.files):
            needs["bundle"] = True
        absent = [archive["name"] for archive in _stack_images.absent(images, self.plan.archives)]
        absent = [name for name in absent if name not in self.handed.archives]
        if absent and not self.check:
            needs["archives"] = absent
        return needs

    def _files_are_there(self, files: Mapping[str, Any]) -> bool:
        """Whether these files (name: checksum, or what has one) are in the stack's folder as they should be."""
        for name, entry in files.items():
            wanted = entry if isinstance(entry, str) else entry["sha256"]
            if layout.checksum(self.folder / name) != wanted:
                return False
        return bool(files)

    def _proven(self) -> tuple[list[str], list[str]]:
        """The user's proven GPUs, when any service may want one."""
        if not any(_stack_gpus.wanted(request) for request in self.plan.gpus.values()):
            return [], []
        try:
            return _stack_gpus.proven(self.user.name)
        except FleetError:
            # A profile that is off needs no GPU: _render looks again when it knows which services there are.
            return [], []

    def _secret_digests(self) -> dict[str, str]:
        key = self.salt.encode()
        return {name: hmac.new(key, text.encode(), "sha256").hexdigest() for name, text in self.plan.secrets.items()}

    def _inputs(self, mine: list[str], host: list[str]) -> str:
        """One checksum of everything that what is written and built is made of."""
        plan = self.plan
        archives = [archive["sha256"] for archive in plan.archives]
        return layout.digest(
            {
                "schema": SCHEMA,
                "files": plan.files,
                "settings": plan.settings,
                "data": self.data,
                "gpus": [plan.gpus, plan.forms, mine, host],
                "secrets": [self._secret_digests(), plan.secret_modes],
                "archives": archives,
            }
        )

    # --- files -----------------------------------------------------------------------------------------

    def _dotenv(self) -> str:
        values = {name: self._home(text) for name, text in self.plan.settings.items()}
        values.update(self.data)
        values.update({f"{name}_FILE": f"./{layout.SECRETS}/{name}" for name in self.plan.secrets})
        values["COMPOSE_FILE"] = f"{layout.COMPOSE}:{layout.OVERRIDE}"
        values["COMPOSE_PROJECT_NAME"] = self.plan.name
        return f"# Written by gpulab.fleet for the stack {self.plan.name}.\n" + layout.dotenv(values)

    def _render(self, engine: Mapping[str, Any], mine: list[str], host: list[str]) -> None:
        """Makes every file beside its place, lets Compose judge them there, then moves them to their place."""
        if not self.check:
            make_folders(self.stacks)
        with self._stage() as stage:
            unpacked = self.handed.bundle is not None
            if unpacked:
                self._unpack(stage)
            base = stage if unpacked else self.folder
            texts = {layout.DOTENV: self._dotenv()}
            dotenv, override = stage / layout.DOTENV, stage / layout.OVERRIDE
            dotenv.write_text(texts[layout.DOTENV], encoding="utf-8")
            config = self.project.resolve(base, dotenv)
            self._refuse_forms(engine, config)
            gpus = self._assign(config, mine, host)
            texts[layout.OVERRIDE] = layout.override(self.plan.name, config, gpus, self._secret_digests())
            override.write_text(texts[layout.OVERRIDE], encoding="utf-8")
            self.project.resolve(base, dotenv, override)
            self._compare(texts)
            services = {
                name: {"image": service.get("image") or f"{self.plan.name}-{name}", "build": "build" in service}
                for name, service in config["services"].items()
            }
            ports = [
                [port.get("host_ip") or layout.LOOPBACK, int(port["published"])]
                for service in config["services"].values()
                for port in service.get("ports") or []
                if str(port.get("published", "")).isdecimal() and port.get("protocol", "tcp") == "tcp"
            ]
            self.state = {**self.state, "services": services, "ports": ports, "gpus": gpus}
            if not self.check:
                self._install(stage if unpacked else None, texts)

    @contextlib.contextmanager
    def _stage(self) -> Iterator[Path]:
        parent = None if self.check else self.stacks
        stage = Path(tempfile.mkdtemp(prefix=f".{self.plan.name}.", dir=parent))
        try:
            yield stage
        finally:
            shutil.rmtree(stage, ignore_errors=True)

    def _unpack(self, stage: Path) -> None:
        assert self.handed.bundle is not None
        with os.fdopen(os.dup(self.handed.bundle), "rb") as file, tarfile.open(fileobj=file, mode="r:*") as tar:
            for name, entry in self.plan.files.items():
                source = tar.extractfile(name)
                if source is None:
                    raise FleetError("STACK_INVALID", f"{name} did not arrive")
                target = stage / name
                make_folders(target.parent)
                with source, target.open("wb") as copy:
                    shutil.copyfileobj(source, copy)
                target.chmod(entry["mode"])

    def _refuse_forms(self, engine: Mapping[str, Any], config: Mapping[str, Any]) -> None:
        forms = [(service, form) for service, form in self.plan.forms if service in config["services"]]
        if not forms:
            return
        version, compose = engine["Version"], self.project.compose_version()
        runtimes = list(self.project.api("/info").get("Runtimes") or {})
        refused = refused_forms(forms, version, compose, runtimes)
        if refused:
            text = ", ".join(f"{service} has {form}" for service, form in refused)
            raise FleetError("STACK_GPU_FORM_REFUSED", f"{text} (engine {version}, Compose {compose})")

    def _assign(self, config: Mapping[str, Any], mine: list[str], host: list[str]) -> dict[str, list[str]]:
        requests = {name: request for name, request in self.plan.gpus.items() if name in config["services"]}
        if not any(_stack_gpus.wanted(request) for request in requests.values()):
            return {}
        if not mine:
            mine, host = _stack_gpus.proven(self.user.name)
        others = [self._read_state(path) for path in self.stacks.glob(f"*/{layout.STATE}")]
        elsewhere = [
            uuid
            for other in others
            if other and other.get("name") != self.plan.name
            for uuids in other.get("gpus", {}).values()
            for uuid in uuids
        ]
        return _stack_gpus.assign(requests, mine, host, self.state.get("gpus", {}), elsewhere)

    def _compare(self, texts: Mapping[str, str]) -> None:
        """What differs in the stack's folder, for the result and for --diff."""
        for name, text in texts.items():
            try:
                old = (self.folder / name).read_text(encoding="utf-8")
            except OSError:
                old = ""
            if old != text:
                self.actions.append(f"write {name}")
                self.before[name], self.after[name] = old, text
        written = self.state.get("written", {})
        changed = [
            name for name, entry in self.plan.files.items() if layout.checksum(self.folder / name) != entry["sha256"]
        ]
        gone = sorted(set(written) - set(self.plan.files) - set(texts))
        if changed or gone:
            self.actions += [f"write {name}" for name in changed] + [f"remove {name}" for name in gone]
            self.before["files"] = "".join(f"{written[name]}  {name}\n" for name in changed + gone if name in written)
            self.after["files"] = "".join(f"{self.plan.files[name]['sha256']}  {name}\n" for name in changed)
        digests = self._secret_digests()
        for name in sorted(set(digests) | set(self.state.get("secrets", {}))):
            if digests.get(name) != self.state.get("secrets", {}).get(name):
                self.actions.append(f"secret {name}")

    @staticmethod
    def _secret_path(name: str) -> str:
        return f"{layout.SECRETS}/{name}"

    def _install(self, stage: Path | None, texts: Mapping[str, str]) -> None:
        plan = self.plan
        make_folders(self.folder)
        written = {name: entry["sha256"] for name, entry in plan.files.items()}
        # From here on a file that is no longer wanted is known as ours, also when this run is killed.
        self.state["written"] = {**written, **self.state.get("written", {})}
        self._save("")
        if stage is not None:
            for name in plan.files:
                make_folders((self.folder / name).parent)
                (stage / name).replace(self.folder / name)
        for name, text in texts.items():
            write_atomic(self.folder / name, text.encode(), 0o600)
            written[name] = layout.checksum(self.folder / name) or ""
        self._install_secrets()
        for name in set(self.state["written"]) - set(written):
            with contextlib.suppress(OSError):
                (self.folder / name).unlink()
                (self.folder / name).parent.rmdir()
        self.state["written"] = written

    def _install_secrets(self) -> None:
        folder = self.folder / layout.SECRETS
        if self.plan.secrets:
            folder.mkdir(mode=0o700, exist_ok=True)
            folder.chmod(0o700)
        for name, text in self.plan.secrets.items():
            mode = int(self.plan.secret_modes.get(name, "0600"), 8)
            write_atomic(folder / name, text.encode(), mode)
        if folder.is_dir():
            for path in folder.iterdir():
                if path.name in self.state.get("secrets", {}) and path.name not in self.plan.secrets:
                    path.unlink()
        self.state["secrets"] = self._secret_digests()

    def _make_data_folders(self) -> None:
        for name, path in self.data.items():
            if self.check:
                if not Path(path).is_dir():
                    self.actions.append(f"make {path}")
                continue
            try:
                if not Path(path).is_dir():
                    remember_stacks(self.user.home, self.stacks.parent, Path(path))
                    make_folders(Path(path))
                    self.actions.append(f"make {path}")
            except OSError as error:
                raise FleetError("STACK_DATA_UNUSABLE", f"{name}={path}: {error.strerror}") from error
            if not os.access(path, os.W_OK | os.X_OK):
                raise FleetError("STACK_DATA_UNUSABLE", f"{name}={path}: {self.user.name} cannot write there")

    def _save(self, inputs: str) -> None:
        """inputs is empty while a deploy is unfinished: the next one does not take anything for granted."""
        if self.check:
            return
        self.state.update(schema=SCHEMA, name=self.plan.name, inputs=inputs, salt=self.salt)
        data = (json.dumps(self.state, indent=1, sort_keys=True) + "\n").encode()
        path = self.folder / layout.STATE
        if not path.exists() or path.read_bytes() != data:
            write_atomic(path, data, 0o600)

    # --- images ----------------------------------------------------------------------------------------

    def _bring_in(self, images: dict[str, str]) -> dict[str, str]:
        absent = _stack_images.absent(images, self.plan.archives)
        misnamed = _stack_images.misnamed(images, self.plan.archives)
        for archive in absent:
            self.actions.append(f"import image {archive['name']}")
            if not self.check:
                began = time.monotonic()
                _stack_images.bring_in(self.project, archive, self.handed.archives[archive["name"]])
                self.seconds["import"] = self.seconds.get("import", 0) + time.monotonic() - began
        for archive in misnamed:
            self.actions.append(f"tag image {archive['name']}")
            if not self.check:
                _stack_images.name_it(self.project, _stack_images.guard(archive["sha256"]), archive["name"])
        if self.check or not (absent or misnamed):
            return images
        self._sync()
        return self.project.images()

    def _sync(self) -> None:
        sync(self.project.api("/info")["DockerRootDir"])

    def _built_from(self, images: Mapping[str, str]) -> str:
        """What the stack's own images are made of; they are built again when this changes."""
        bases = [images.get(_stack_images.reference(archive["name"])) for archive in self.plan.archives]
        return layout.digest([self.plan.files, self._dotenv(), bases])

    def _build(self, services: Mapping[str, Any], images: dict[str, str]) -> dict[str, str]:
        built = {name: service["image"] for name, service in services.items() if service["build"]}
        source = self._built_from(images)
        here = all(_stack_images.reference(image) in images for image in built.values())
        if not built or (here and self.state.get("built_from") == source):
            return images
        if self.check:
            self.actions += [f"build {name}" for name in built]
            return images
        began = time.monotonic()
        done = self.project.compose("--progress", "plain", "build", *built)
        self.seconds["build"] = time.monotonic() - began
        if done.returncode != 0:
            said = "".join(sorted_streams(done))
            raise FleetError(classify(said, "STACK_BUILD_FAILED"), f"docker compose build:\n{tail(said, 30)}")
        self._sync()
        after = self.project.images()
        for name, image in built.items():
            tag = _stack_images.reference(image)
            if after.get(tag) != images.get(tag):
                self.actions.append(f"build {name}")
        self.state["built_from"] = source
        self._save("")
        return after

    def _pull(self, services: Mapping[str, Any], images: dict[str, str]) -> dict[str, str]:
        """Fetches what is not built here, before anything is stopped and without a limit on how long it takes."""
        missing = [
            name
            for name, service in services.items()
            if not service["build"] and not _stack_images.is_here(images, service["image"])
        ]
        if not missing:
            return images
        self.actions += [f"pull {services[name]['image']}" for name in missing]
        if self.check:
            return images
        done = self.project.compose("--progress", "plain", "pull", *missing)
        if done.returncode != 0:
            said = "".join(sorted_streams(done))
            raise FleetError(classify(said, "STACK_IMAGE_MISSING"), f"docker compose pull:\n{tail(said, 10)}")
        self._sync()
        return self.project.images()

    # --- containers ------------------------------------------------------------------------------------

    def _run(self, services: Mapping[str, Any], images: dict[str, str]) -> list[Container]:
        images = self._pull(services, self._build(services, images))
        containers = self.project.containers()
        hashes = self.project.hashes() if not self.check or self.folder.is_dir() else {}
        if all(self._as_wanted(each, services, hashes, images) for each in containers) and not (
            set(services) - {each.service for each in containers}
        ):
            if any(
                not each.well for each in containers
            ):  # still starting: nothing to change, but not to be called well
                containers = self._settle(services)
            return containers
        if self.check:
            self.actions.append("docker compose up")
            return containers
        self._save("")
        self._clear(containers, services)
        self._refuse_taken_ports(containers)
        began = time.monotonic()
        self._up()
        after = self._settle(services)
        self.seconds["up"] = time.monotonic() - began
        known = {each.id: each.started for each in containers}
        for each in after:
            if each.id not in known:
                self.actions.append(f"create {each.name}")
            elif known[each.id] != each.started:
                self.actions.append(f"start {each.name}")
        return after

    @staticmethod
    def _as_wanted(
        container: Container, services: Mapping[str, Any], hashes: Mapping[str, str], images: Mapping[str, str]
    ) -> bool:
        if container.service not in services or container.config_hash != hashes.get(container.service):
            return False
        image = images.get(_stack_images.reference(services[container.service]["image"]))
        if image is not None and image != container.image_id:
            return False
        return container.done or (container.status == "running" and not container.hopeless)

    def _clear(self, containers: list[Container], services: Mapping[str, Any]) -> None:
        """Takes away what `up` would stumble over or leave: dead containers, unhealthy ones, those of no service."""
        for each in containers:
            stuck = each.status in ("dead", "restarting") or (each.status == "running" and each.hopeless)
            if stuck or each.service not in services:
                if each.status == "running":
                    self.project.docker("stop", each.id)
                self.project.docker("rm", "--force", each.id)
                self.actions.append(f"remove {each.name} ({each.describe()})")

    def _refuse_taken_ports(self, containers: list[Container]) -> None:
        """Says it before anything is stopped, when another program has a port that this stack needs."""
        own = {port for each in containers for _ip, port, _inside in each.published}
        for address, port in self.state.get("ports", []):
            if port in own:
                continue
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            with socket.socket(family, socket.SOCK_STREAM) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind((address, port))
                except PermissionError:
                    raise FleetError("STACK_PORT_PRIVILEGED", f"{address}:{port}") from None
                except OSError as error:
                    raise FleetError("STACK_PORT_TAKEN", f"{address}:{port}: {error.strerror}") from None

    def _up(self) -> None:
        limit = self.plan.wait_timeout + GRACE
        try:
            done = self.project.compose(
                "--progress", "plain", "up", "--detach", "--no-build", "--remove-orphans", timeout=limit
            )
        except subprocess.TimeoutExpired:
            bad = [each for each in self.project.containers() if not each.well]
            self.project.explain(bad, [], timed_out=True)
            return
        if done.returncode != 0:
            said = "".join(sorted_streams(done))
            code = classify(said, "STACK_UNHEALTHY")
            bad = [each for each in self.project.containers() if each.hopeless]
            if code == "STACK_UNHEALTHY" and bad:
                self.project.explain(bad, [], timed_out=False)
            raise FleetError(code, f"docker compose up:\n{tail(said, 10)}")

    def _settle(self, services: Mapping[str, Any]) -> list[Container]:
        return self.project.settle(list(services), time.monotonic() + self.plan.wait_timeout)

    # --- absent ----------------------------------------------------------------------------------------

    def remove(self, without_engine: bool = False) -> dict[str, Any]:
        """Stops the stack and takes its folder away; data folders and images stay."""
        with self._alone():
            return self._remove(without_engine)

    def _remove(self, without_engine: bool) -> dict[str, Any]:
        try:
            self.project.engine()
            containers = self.project.containers()
        except FleetError:
            if self.folder.exists() and not self.check and not without_engine:
                raise
            containers = []
        if containers:
            self.actions += [f"remove {each.name}" for each in containers]
        written = [name for name in self.state.get("written", {}) if (self.folder / name).exists()]
        leftover = bool(self.state) or bool(written)
        if leftover:
            self.actions.append(f"remove {self.folder}")
        if self.check or not self.actions:
            return self._result([])
        if containers:
            inside = (self.folder / layout.COMPOSE).exists() and (self.folder / layout.DOTENV).exists()
            where = [] if inside else ["--project-name", self.plan.name]
            done = self.project.compose("--progress", "plain", *where, "down", "--remove-orphans")
            if done.returncode != 0:
                said = "".join(sorted_streams(done))
                raise FleetError("STACK_DOWN_FAILED", f"docker compose down:\n{tail(said, 10)}")
            # A service of a profile that is off is not taken down with the rest.
            for each in self.project.containers():
                self.project.docker("rm", "--force", each.id)
        self._remove_files(written)
        return self._result([])

    def _remove_files(self, written: list[str]) -> None:
        secrets_here = [self._secret_path(name) for name in self.state.get("secrets", {})]
        for name in [*written, *secrets_here, layout.STATE]:
            (self.folder / name).unlink(missing_ok=True)
        folders = {parent for name in [*written, *secrets_here] for parent in (self.folder / name).parents}
        for folder in sorted(folders, key=lambda path: -len(path.parts)):
            if folder == self.folder or self.folder in folder.parents:
                with contextlib.suppress(OSError):  # what a person put there stays
                    folder.rmdir()

    # --- result ----------------------------------------------------------------------------------------

    def _result(self, containers: list[Container], predicted: str = "") -> dict[str, Any]:
        if predicted:
            self.actions.append(f"deploy ({predicted})")
        return {
            "changed": bool(self.actions),
            "actions": self.actions,
            "folder": str(self.folder),
            "data": self.data,
            "gpus": self.state.get("gpus", {}),
            "services": [container.plain() for container in containers],
            "seconds": {name: round(seconds, 2) for name, seconds in self.seconds.items()},
            "diff": [
                {
                    "before_header": f"{self.folder / name}",
                    "after_header": f"{self.folder / name}",
                    "before": self.before[name],
                    "after": self.after[name],
                }
                for name in self.before
            ],
        }
