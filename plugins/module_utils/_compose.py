# Copyright: gpulab.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""One Compose project of one user's engine: what it should be, what runs, and waiting for it to be well."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ansible_collections.gpulab.fleet.plugins.module_utils import _docker_api, _stack_lock
from ansible_collections.gpulab.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.gpulab.fleet.plugins.module_utils._userenv import SYSTEM_PATH, Account

PROJECT = "com.docker.compose.project"
SERVICE = "com.docker.compose.service"
HASH = "com.docker.compose.config-hash"
ONE_OFF = "com.docker.compose.oneoff"
RESTARTS = 3  # a container that came up and fell this often will not stay up
STEADY = 3.0  # seconds that one without a health check must stay up to count as well
STEADY_AGAIN = 10.0  # the same for one that has fallen before
POLL = 0.1
END = 20.0  # seconds that a program may take to end when it is told to

# Where Docker's client looks for Compose, in its order, after the user's own folder.
PLUGINS = ("usr/local/lib", "usr/local/libexec", "usr/lib", "usr/libexec")

# What Compose or the engine says when it cannot start something, and which finding that is; the first match counts.
SAYS = [
    (re.compile(pattern), code)
    for pattern, code in (
        (r"Cannot connect to the Docker daemon|error during connect", "STACK_ENGINE_DOWN"),
        (r"unresolvable CDI devices|could not select device driver", "STACK_GPU_UNRESOLVED"),
        (r"address already in use|port is already allocated", "STACK_PORT_TAKEN"),
        (r"cannot expose privileged port", "STACK_PORT_PRIVILEGED"),
        (r"[Nn]o space left on device", "STACK_DISK_FULL"),
        (
            r"pull access denied|no such host|manifest unknown|failed to resolve|No such image|Error response from "
            r"daemon: Get \"https?://|dial tcp",
            "STACK_IMAGE_MISSING",
        ),
    )
]


def classify(text: str, otherwise: str) -> str:
    return next((code for pattern, code in SAYS if pattern.search(text)), otherwise)


def tail(text: str, lines: int = 20) -> str:
    """The last lines of an output, as they are shown in an error."""
    return "\n".join(f"    {line}" for line in text.strip().splitlines()[-lines:])


@dataclass(frozen=True)
class Container:
    """What the engine says of one container."""

    id: str
    name: str
    service: str
    config_hash: str
    image: str
    image_id: str
    status: str
    health: str | None
    exit_code: int
    restarts: int
    policy: str
    started: str
    said: str
    published: tuple[tuple[str, int, int], ...]

    @classmethod
    def read(cls, data: Mapping[str, Any]) -> Container:
        state, labels = data["State"], data["Config"]["Labels"]
        health = state.get("Health") or {}
        log = health.get("Log") or []
        published = {
            (entry["HostIp"], int(entry["HostPort"]), int(inside.partition("/")[0]))
            for inside, entries in (data["NetworkSettings"].get("Ports") or {}).items()
            for entry in entries or []
        }
        return cls(
            id=data["Id"],
            name=data["Name"].lstrip("/"),
            service=labels.get(SERVICE, ""),
            config_hash=labels.get(HASH, ""),
            image=data["Config"]["Image"],
            image_id=data["Image"],
            status=state["Status"],
            health=health.get("Status"),
            exit_code=state.get("ExitCode", 0),
            restarts=data.get("RestartCount", 0),
            policy=data["HostConfig"]["RestartPolicy"]["Name"] or "no",
            started=state.get("StartedAt", ""),
            said=(log[-1].get("Output", "").strip() if log else "") or state.get("Error", ""),
            published=tuple(sorted(published)),
        )

    @property
    def done(self) -> bool:
        """A job that ended well and is not meant to start again."""
        return self.status == "exited" and self.exit_code == 0 and self.policy in ("no", "on-failure")

    @property
    def well(self) -> bool:
        if self.done:
            return True
        if self.status != "running":
            return False
        return self.health == "healthy" if self.health else self.seconds_up() > self._steady

    @property
    def hopeless(self) -> bool:
        """Waiting longer would not help."""
        ended = self.status == "exited" and self.policy in ("no", "on-failure") and self.exit_code != 0
        looping = self.restarts >= RESTARTS and (self.status == "restarting" or self.seconds_up() < self._steady)
        return ended or looping or self.status == "dead" or self.health == "unhealthy"

    @property
    def put_down(self) -> bool:
        """It was made or stopped on purpose, and the engine will not start it of its own accord."""
        return self.status == "created" or (self.status == "exited" and self.policy not in ("no", "on-failure"))

    @property
    def _steady(self) -> float:
        return STEADY_AGAIN if self.restarts else STEADY

    def seconds_up(self) -> float:
        try:
            began = datetime.fromisoformat(self.started[:19]).replace(tzinfo=timezone.utc)
        except ValueError:
            return 0.0
        return time.time() - began.timestamp()

    def describe(self) -> str:
        text = self.status
        if self.status in ("exited", "restarting"):
            text += f" with code {self.exit_code}"
        if self.health:
            text += f", {self.health}"
        if self.restarts:
            text += f", restarted {self.restarts} times"
        return text

    def plain(self) -> dict[str, Any]:
        """For the task's result."""
        return {
            "name": self.name,
            "service": self.service,
            "image": self.image,
            "status": self.status,
            "health": self.health,
            "addresses": [{"address": f"{ip}:{port}", "container_port": inside} for ip, port, inside in self.published],
        }


def compose_program(home: Path, root: Path = Path("/")) -> list[str]:
    """Compose itself: `docker compose` asks every plugin what it is before it starts this one, each time."""
    folders = [home / ".docker", *(root / folder / "docker" for folder in PLUGINS)]
    for program in (folder / "cli-plugins" / "docker-compose" for folder in folders):
        if os.access(program, os.X_OK) and program.is_file():
            return [str(program)]
    return ["docker", "compose"]


class Project:
    """A folder with a compose.yml, as one user's engine runs it."""

    def __init__(self, user: Account, name: str, folder: Path) -> None:
        self.user, self.name, self.folder = user, name, folder
        self.env = {**user.environment(), "DOCKER_HOST": f"unix://{user.socket}"}

    # --- asking ----------------------------------------------------------------------------------------

    def api(self, question: str) -> Any:
        try:
            return _docker_api.get(str(self.user.socket), question)
        except OSError as error:
            raise FleetError("STACK_ENGINE_DOWN", f"{self.user.socket}: {error}") from error

    def engine(self) -> dict[str, Any]:
        """The engine's version; an error when nobody answers or there is no client to talk to it."""
        if shutil.which("docker", path=SYSTEM_PATH) is None:
            raise FleetError("STACK_ENGINE_DOWN", "there is no docker command on this host")
        version: dict[str, Any] = self.api("/version")
        return version

    def containers(self) -> list[Container]:
        """The project's containers, of whatever state; not those of `docker compose run`."""
        filters = quote(json.dumps({"label": [f"{PROJECT}={self.name}"]}))
        rows = self.api(f"/containers/json?all=1&filters={filters}")
        found = []
        for row in rows:
            if row["Labels"].get(ONE_OFF) == "True":
                continue
            try:
                found.append(Container.read(self.api(f"/containers/{row['Id']}/json")))
            except FleetError:
                if row["Id"] in {each["Id"] for each in self.api(f"/containers/json?all=1&filters={filters}")}:
                    raise
        return sorted(found, key=lambda container: container.name)

    def one_off_runs(self) -> list[str]:
        """Names of the `docker compose run` of this project that go on."""
        rows = self.api(f"/containers/json?filters={quote(json.dumps({'label': [f'{PROJECT}={self.name}']}))}")
        return sorted(row["Names"][0].lstrip("/") for row in rows if row["Labels"].get(ONE_OFF) == "True")

    def others_ports(self) -> dict[int, str]:
        """Ports that containers of this engine's other projects have, and whose they are."""
        return {
            port["PublicPort"]: f"the stack {row['Labels'][PROJECT]} of the same user has it"
            for row in self.api("/containers/json")
            for port in row.get("Ports") or []
            if port.get("PublicPort") and (row["Labels"] or {}).get(PROJECT, self.name) != self.name
        }

    def names(self) -> dict[str, str]:
        """Every container of the engine, with the project that it belongs to."""
        rows = self.api("/containers/json?all=1")
        return {name.lstrip("/"): (row["Labels"] or {}).get(PROJECT, "") for row in rows for name in row["Names"] or []}

    def images(self) -> dict[str, str]:
        """Every name of the engine's images, by tag and by digest, with the image it stands for."""
        return {
            name: image["Id"]
            for image in self.api("/images/json")
            for name in [*(image.get("RepoTags") or []), *(image.get("RepoDigests") or [])]
        }

    # --- commands --------------------------------------------------------------------------------------

    def tag(self, image: str, name: str) -> None:
        """Gives an image one more name, or takes it from another; OSError when the engine refuses."""
        repository, colon, tag = name.rpartition(":")
        if not colon or "/" in tag:
            repository, tag = name, "latest"
        _docker_api.post(str(self.user.socket), f"/images/{quote(image)}/tag?repo={quote(repository)}&tag={quote(tag)}")

    def docker(self, *arguments: str, stdin: int | None = None) -> subprocess.CompletedProcess[str]:
        return self._run(["docker", *arguments], stdin=stdin)

    def compose(self, *arguments: str, timeout: float | None = None) -> subprocess.CompletedProcess[str]:
        return self._run(["docker", "compose", *arguments], timeout=timeout)

    def _run(
        self,
        argv: Sequence[str],
        timeout: float | None = None,
        stdin: int | None = None,
        extra: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        program = compose_program(self.user.home) if argv[:2] == ["docker", "compose"] else argv[:2]
        with subprocess.Popen(
            [*program, *argv[2:]],
            stdin=subprocess.DEVNULL if stdin is None else stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=self.folder if self.folder.is_dir() else Path("/"),
            env={**self.env, **(extra or {})},
            pass_fds=_stack_lock.inherited(),  # it may outlive this process, and nobody may begin before it has ended
        ) as process:
            try:
                said, complained = process.communicate(timeout=timeout)
            except BaseException:
                _end(process)
                raise
        return subprocess.CompletedProcess(argv, process.returncode, said, complained)

    def resolve(self, compose_files: Sequence[Path], env: Path, tree: Path) -> dict[str, Any]:
        """The services of all profiles with every variable filled in; an error when Compose cannot read the file.

        People start Compose from the top of their tree: $PWD in a file means that.
        """
        where = ["--project-name", self.name, "--env-file", str(env), "--profile", "*"]
        named = [text for each in compose_files for text in ("-f", str(each))]
        done = self._run(["docker", "compose", *named, *where, "config", "--format", "json"], extra={"PWD": str(tree)})
        config: dict[str, Any] = json.loads(self._valid(done, compose_files[0].parent))
        return config

    def pretty(self, compose_file: Path) -> str:
        """A resolved configuration as Compose itself writes it, and judged by it once more."""
        where = ["--project-name", self.name, "--env-file", "/dev/null", "--profile", "*"]
        return self._valid(self.compose("-f", str(compose_file), *where, "config"), compose_file.parent)

    def hashes(self, folder: Path) -> dict[str, str]:
        """The configuration's hash of each active service: what Compose itself compares with a container's label."""
        where = ["-f", str(folder / "compose.yml"), "--env-file", str(folder / ".env")]
        text = self._valid(self.compose(*where, "config", "--hash", "*"), folder)
        return dict(line.split() for line in text.splitlines() if line.strip())

    @staticmethod
    def _valid(done: subprocess.CompletedProcess[str], folder: Path) -> str:
        if done.returncode != 0:
            said = (done.stderr or done.stdout).strip().replace(f"{folder}/", "")
            raise FleetError("STACK_FILE_MISSING" if "env file" in said else "STACK_COMPOSE_INVALID", said)
        return done.stdout

    # --- waiting ---------------------------------------------------------------------------------------

    def settle(
        self, services: Sequence[str], deadline: float, again: Callable[[], None] | None = None
    ) -> list[Container]:
        """Waits until every service is well; the error says which is not, and what it said last.

        `again` is called when one is stopped or taken away meanwhile: an engine still does what a run that was
        killed had asked it for. Not left to `up --wait`: that gives up at once on a container that is between two
        restarts, and on one whose health is of before.
        """
        while True:
            containers = self.containers()
            missing = [service for service in services if service not in {each.service for each in containers}]
            waiting = [each for each in containers if each.service in services and not each.well]
            if not waiting and not missing:
                return containers
            hopeless = [each for each in waiting if each.hopeless]
            if hopeless or time.monotonic() > deadline:
                self.explain(hopeless or waiting, missing, timed_out=not hopeless)
            if again and (missing or any(each.put_down for each in waiting)):
                again()
            time.sleep(POLL)

    def explain(self, bad: Sequence[Container], missing: Sequence[str], timed_out: bool) -> None:
        text = "not healthy in time: " if timed_out else ""
        parts = [f"{service}: no container" for service in missing]
        for container in bad:
            part = f"{container.service}: {container.describe()}"
            if container.said:
                part += f"\n  its health check or start said:\n{tail(container.said, 5)}"
            logs = self.docker("logs", "--tail", "20", container.id)
            said = "".join(sorted_streams(logs))
            part += f"\n  its last log lines:\n{tail(said) or '    (none)'}"
            parts.append(part)
        raise FleetError("STACK_UNHEALTHY", text + "\n".join(parts))


def _end(process: subprocess.Popen[str]) -> None:
    """Ends a program and what it has started: `docker` starts another one, which is Compose.

    All of them are gone when nobody has their output open any more.
    """
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.communicate(timeout=END)
    process.kill()


def sorted_streams(done: subprocess.CompletedProcess[str]) -> list[str]:
    """Standard output, then standard error, each ended by a line break."""
    return [stream if stream.endswith("\n") else f"{stream}\n" for stream in (done.stdout, done.stderr) if stream]


def sync(folder: str) -> None:
    """Puts what was loaded or built on disk: a power cut could leave images whose layers end half-way."""
    subprocess.run(["sync", "-f", folder], check=False, timeout=600, env={"PATH": SYSTEM_PATH, **os.environ})
