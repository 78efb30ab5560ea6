"""An engine with Compose, in memory: what survives the death of whoever asks it, a restart, and a power cut.

It does what ROOTLESS engines were seen to do: a container that is made and never started stays so for good, one that was
stopped on purpose is not started at boot, a removal that is cut off leaves a dead container over which `up` stumbles, and
an image that was loaded and not synced is broken after a power cut, also when it is loaded again.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from ansible_collections.gpulab.fleet.plugins.module_utils._compose import HASH, ONE_OFF, PROJECT, SERVICE, Project
from ansible_collections.gpulab.fleet.plugins.module_utils._errors import FleetError

FULL = "write /var/lib/docker: no space left on device"
Done = subprocess.CompletedProcess[str]
Telling = Generator[str, None, str]  # a step each, then what is printed


@dataclass
class Box:
    """A container."""

    id: str
    name: str
    project: str
    service: str
    spec: dict[str, Any]
    hash: str
    image: str
    status: str = "created"
    health: str | None = None
    exit_code: int = 0
    restarts: int = 0
    removing: bool = False

    @property
    def mode(self) -> str:
        return str(self.spec.get("environment", {}).get("MODE", "serve"))

    def raw(self) -> dict[str, Any]:
        return {
            "Id": self.id,
            "Name": f"/{self.name}",
            "Config": {"Labels": self.labels(), "Image": self.spec["image"]},
            "State": {
                "Status": self.status,
                "ExitCode": self.exit_code,
                "StartedAt": "2026-01-01T00:00:00Z",
                **({"Health": {"Status": self.health, "Log": []}} if self.health else {}),
            },
            "Image": self.image,
            "RestartCount": self.restarts,
            "HostConfig": {"RestartPolicy": {"Name": "unless-stopped"}},
            "NetworkSettings": {"Ports": {}},
        }

    def labels(self) -> dict[str, str]:
        return {PROJECT: self.project, SERVICE: self.service, HASH: self.hash, ONE_OFF: "False"}


@dataclass
class FakeEngine:
    """What one user's engine has; `step` is called before each thing that it is asked or told."""

    step: Callable[[str], None] = lambda _what: None
    answers: bool = True
    full: bool = False
    boxes: list[Box] = field(default_factory=list)
    tags: dict[str, str] = field(default_factory=dict)
    loaded: set[str] = field(default_factory=set)  # images that came from an archive and were not synced since
    broken: set[str] = field(default_factory=set)
    written: dict[str, str] = field(default_factory=dict)  # by path, all that containers ever wrote there
    count: int = 0

    # --- what befalls it ---------------------------------------------------------------------------------

    def restart(self) -> None:
        self.answers = True
        for box in self.boxes:
            if box.removing:
                box.status = "dead"
            elif box.status in ("running", "restarting"):
                self._start(box)

    def finish(self) -> None:
        """A client that dies takes nothing back: the engine ends what it was asked for."""
        self.boxes = [box for box in self.boxes if not box.removing]

    def power_cut(self) -> None:
        self.broken |= self.loaded
        self.loaded.clear()
        self.restart()

    def sync(self, _folder: str) -> None:
        self.step("sync")
        self.loaded.clear()

    def intact(self, _project: Project, image: str) -> bool:
        self.step("save")
        return image not in self.broken

    # --- containers --------------------------------------------------------------------------------------

    def of(self, project: str) -> list[Box]:
        return [box for box in self.boxes if box.project == project]

    def _start(self, box: Box) -> None:
        absent = [each["source"] for each in box.spec.get("volumes", []) if not Path(each["source"]).exists()]
        absent += [path for path in box.spec.get("secret_files", []) if not Path(path).exists()]
        if absent or box.image in self.broken or box.mode == "exit":
            box.status, box.health, box.exit_code, box.restarts = "restarting", "starting", 1, 3
            return
        box.status, box.exit_code, box.restarts = "running", 0, 0
        box.health = {"sick": "unhealthy", "hang": "starting"}.get(box.mode, "healthy")
        for volume in box.spec.get("volumes", []):
            if volume["target"] == "/notes":
                self.count += 1
                path = Path(volume["source"], "starts")
                line = f"{self.count} {box.spec['environment']['WORD']}\n"
                with path.open("a", encoding="utf-8") as file:
                    file.write(line)
                self.written[str(path)] = self.written.get(str(path), "") + line

    def _remove(self, box: Box) -> Iterator[str]:
        if box.status == "running":
            yield "stop"
            box.status, box.health, box.exit_code = "exited", None, 143
        yield "remove"
        box.removing = True
        yield "removed"
        self.boxes.remove(box)

    def _up(self, project: str, config: Mapping[str, Any], profiles: Sequence[str]) -> Iterator[str]:
        """What Compose does, in its order; it can be left between any two steps."""
        active = {
            name: spec
            for name, spec in config["services"].items()
            if not spec.get("profiles") or set(spec["profiles"]) & set(profiles)
        }
        for box in self.of(project):
            if box.service not in active:
                yield from self._remove(box)
        for name, spec in active.items():
            if spec["image"] not in self.tags:
                raise FleetError("", f"No such image: {spec['image']}")
            mine = [box for box in self.of(project) if box.service == name]
            image, wanted = self.tags[spec["image"]], config_hash(spec)
            same = [box for box in mine if (box.hash, box.image) == (wanted, image)]
            for box in [box for box in mine if box not in same[:1]]:
                if box.status == "dead":
                    raise FleetError("", "container is marked for removal and cannot be started")
            if self.full and not same:
                raise FleetError("", FULL)
            if not same:
                yield "create"
                self.count += 1
                secrets = [config["secrets"][each["source"]]["file"] for each in spec.get("secrets", [])]
                whole = {**spec, "secret_files": secrets}
                number = sha256(f"{self.count}".encode()).hexdigest()
                box = Box(number, f"{number[:12]}_{project}-{name}-1", project, name, whole, wanted, image)
                self.boxes.append(box)
                same = [box]
            for old in [box for box in mine if box not in same[:1]]:
                yield from self._remove(old)
            box = same[0]
            yield "start"
            box.name = f"{project}-{name}-1"
            if box.status == "dead":
                raise FleetError("", "container is marked for removal and cannot be started")
            if box.status not in ("running", "restarting"):
                if self.full:
                    raise FleetError("", FULL)
                self._start(box)

    # --- questions ---------------------------------------------------------------------------------------

    def ask(self, question: str) -> Any:
        self.step("ask")
        if not self.answers:
            raise FleetError("STACK_ENGINE_DOWN", "connection refused")
        if question == "/version":
            return {"Version": "28.5.2"}
        if question == "/info":
            return {"DockerRootDir": "/", "MemoryLimit": True, "CpuCfsQuota": True, "PidsLimit": True}
        if question.startswith("/images/json"):
            ids = sorted(set(self.tags.values()))
            return [{"Id": each, "RepoTags": [t for t, i in self.tags.items() if i == each]} for each in ids]
        if question.startswith("/images/"):
            image = question.split("/")[2]
            names = [tag for tag, each in self.tags.items() if each == image]
            return {"Id": image, "Config": {}, "RepoTags": names, "RootFS": {"Layers": [f"layer of {image}"]}}
        if question.startswith("/containers/json"):
            return [{"Id": box.id, "Labels": box.labels(), "Names": [f"/{box.name}"]} for box in self.boxes]
        number = question.split("/")[2]
        found = [box for box in self.boxes if box.id == number]
        if not found:
            raise FleetError("STACK_ENGINE_DOWN", f"404 {number}")
        return found[0].raw()

    # --- commands ----------------------------------------------------------------------------------------

    def tell(self, project: Project, argv: Sequence[str]) -> Done:
        steps = self._compose(project, argv[2:]) if argv[1] == "compose" else self._docker(argv[1:])
        try:
            while True:
                self.step(next(steps))
                if not self.answers:
                    return answer(1, "Cannot connect to the Docker daemon")
        except StopIteration as end:
            return answer(0, end.value or "")
        except FleetError as error:
            return answer(1, error.detail)

    def _docker(self, argv: Sequence[str]) -> Telling:
        yield argv[0]
        if argv[0] == "tag":
            if self.full:
                raise FleetError("", FULL)
            self.tags[argv[2]] = self.tags.get(argv[1], argv[1])
        elif argv[0] == "rmi":
            for name in [each for each in argv[1:] if each != "--force"]:
                self.tags.pop(name, None)
                for tag in [tag for tag, image in self.tags.items() if image == name]:
                    del self.tags[tag]
            self.broken &= set(self.tags.values())
        elif argv[0] == "load":
            if self.full:
                raise FleetError("", FULL)
            image = image_id("archive")
            if image not in self.tags.values():
                self.loaded.add(image)
            self.tags["base:1"] = image
            return "Loaded image: base:1\n"
        elif argv[0] in ("stop", "rm"):
            for box in [box for box in self.boxes if box.id == argv[-1]]:
                if argv[0] == "rm":
                    yield from self._remove(box)
                elif box.status == "running":
                    box.status, box.health, box.exit_code = "exited", None, 143
        return ""

    def _compose(self, project: Project, argv: Sequence[str]) -> Telling:
        options, verb, rest = split(argv)
        if verb == "version":
            yield verb
            return "2.40.3"
        if verb == "down":
            yield verb
            for box in self.of(project.name):
                yield from self._remove(box)
            return ""
        file = Path(options.get("-f", [str(project.folder / "compose.yml")])[-1])
        values = dotenv(Path(options.get("--env-file", [str(file.parent / ".env")])[-1]))
        config = resolved(file, values)
        if verb == "config":
            yield verb
            if "--hash" in rest:
                return "".join(f"{name} {config_hash(spec)}\n" for name, spec in config["services"].items())
            return json.dumps(config, indent=1, sort_keys=True)
        if verb == "build":
            yield verb
            if self.full:
                raise FleetError("", FULL)
            for name in rest:
                context = Path(config["services"][name]["build"]["context"])
                self.tags[f"{project.name}-{name}:latest"] = image_id((context / "version").read_text("utf-8"))
            return ""
        if verb == "pull":
            yield verb
            raise FleetError("", "pull access denied")
        assert verb == "up", argv
        yield from self._up(project.name, config, values.get("COMPOSE_PROFILES", "").split(","))
        return ""


class FakeProject(Project):
    """A project of the fake engine: everything above the socket and the commands is the real one."""

    machine: FakeEngine

    def api(self, question: str) -> Any:
        return self.machine.ask(question)

    def engine(self) -> dict[str, Any]:
        version: dict[str, Any] = self.api("/version")
        return version

    def tag(self, image: str, name: str) -> None:
        self.docker("tag", image, name)

    def _run(
        self,
        argv: Sequence[str],
        timeout: float | None = None,
        stdin: int | None = None,
        extra: Mapping[str, str] | None = None,
    ) -> Done:
        return self.machine.tell(self, argv)


def answer(code: int, text: str) -> Done:
    return subprocess.CompletedProcess([], code, text if code == 0 else "", "" if code == 0 else text)


def image_id(content: str) -> str:
    return f"sha256:{sha256(content.encode()).hexdigest()}"


def config_hash(spec: Mapping[str, Any]) -> str:
    return sha256(json.dumps(spec, sort_keys=True).encode()).hexdigest()


def split(argv: Sequence[str]) -> tuple[dict[str, list[str]], str, list[str]]:
    """Compose's own options, the verb, and what follows."""
    options: dict[str, list[str]] = {}
    rest = list(argv)
    while rest[0].startswith("-"):
        options.setdefault(rest[0], []).append(rest[1])
        rest = rest[2:]
    return options, rest[0], rest[1:]


def dotenv(path: Path) -> dict[str, str]:
    if not path.is_file():
        return {}
    return dict(line.split("=", 1) for line in path.read_text(encoding="utf-8").splitlines())


def resolved(file: Path, values: Mapping[str, str]) -> dict[str, Any]:
    """The file, which is JSON, with variables filled in and paths made whole."""

    def fill(match: re.Match[str]) -> str:
        return values.get(match[1]) or match[2] or ""

    config: dict[str, Any] = json.loads(re.sub(r"\$\{(\w+)(?::-([^}]*))?\}", fill, file.read_text(encoding="utf-8")))
    for service in config["services"].values():
        for volume in service.get("volumes", []):
            volume["source"] = str(file.parent.joinpath(volume["source"]))
        if "build" in service:
            service["build"]["context"] = str(file.parent.joinpath(service["build"]["context"]))
    return config
