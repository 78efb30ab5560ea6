# Copyright: gpulab.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A user's rootless engine through the Docker SDK: probe images and containers that leave nothing behind."""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

from ansible_collections.gpulab.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.gpulab.fleet.plugins.module_utils._probe_image import LABEL, REPOSITORY, Built

OWNER = "gpulab.probe"

# What an engine says, and which finding that is; the first that matches counts. Seen on 26.1 and 28.5.
ENGINE_SAYS = [
    (re.compile(p), code)
    for p, code in (
        (r"unresolvable CDI devices", "PROOF_CDI_UNRESOLVED"),
        (r"could not select device driver", "PROOF_CDI_OFF"),
        (r"error mounting \"[^\"]*\" to rootfs.*no such file or directory", "PROOF_SPEC_STALE"),
        (r"(?:error creating device nodes:|failed to stat CDI host device).*/dev/nvidia-uvm\b", "UVM_MISSING"),
        (r"error creating device nodes:.*no such file or directory", "PROOF_NODE_MISSING"),
        (r"failed to stat CDI host device", "PROOF_NODE_MISSING"),
        (r"error running hook #\d+: (?:fork/exec|exec:?) .*no such file or directory", "PROOF_HOOK_MISSING"),
        (r"error running hook #\d+", "PROOF_HOOK_FAILED"),
        (r"unsupported shim version", "PROOF_ENGINE_STALE"),
        (r"no space left on device", "PROOF_DISK_FULL"),
        (r"Cannot connect to the Docker daemon|Connection refused|Connection aborted", "PROOF_ENGINE_DEAD"),
    )
]
# The image itself is broken (a power cut can truncate its layers): made anew, not reported.
BROKEN_IMAGE = re.compile(
    r"exec format error|integrity checksum failed|error while loading shared libraries|"
    r"python3[.\d]*\": stat|exec: .*python3[.\d]*.*no such file|[Nn]o such image"
)


def classify(text: str) -> str:
    """The finding's code for what an engine said."""
    return next((code for pattern, code in ENGINE_SAYS if pattern.search(text)), "PROOF_CONTAINER_FAILED")


def image_is_broken(text: str) -> bool:
    return bool(BROKEN_IMAGE.search(text)) and classify(text) == "PROOF_CONTAINER_FAILED"


def process_token(pid: int | None = None) -> str:
    """Names one process of one boot: its number and when it started."""
    pid = os.getpid() if pid is None else pid
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
    return f"{boot}:{pid}:{fields[19]}"


def is_alive(token: str) -> bool:
    """Whether the process that a token names still runs."""
    try:
        return process_token(int(token.split(":")[1])) == token
    except (OSError, ValueError, IndexError):
        return False


def socket_of(user: str) -> tuple[pwd.struct_passwd, str]:
    """The account and where its rootless engine listens."""
    try:
        account = pwd.getpwnam(user)
    except KeyError:
        raise FleetError("PROOF_USER_UNKNOWN", f"there is no account {user!r} on this host") from None
    return account, f"/run/user/{account.pw_uid}/docker.sock"


def load_sdk(python_path: str) -> Any:
    """The Docker SDK, from the folder that the controller filled or from the system."""
    if Path(python_path).is_dir() and python_path not in sys.path:
        sys.path.insert(0, python_path)
    try:
        return import_module("docker")
    except ImportError as error:
        raise FleetError("PYTHON_PARTS_MISSING", f"{python_path}: {error}") from error


@dataclass
class Ran:
    """How one container went."""

    output: str = ""
    errors: str = ""
    refused: str = ""
    timed_out: bool = False
    status: int | None = None
    seconds: float = 0.0

    @property
    def explanation(self) -> str:
        said = self.refused or self.errors.strip() or self.output.strip()
        return said or f"the probe ended without a word (exit code {self.status})"


class Engine:
    """One user's engine."""

    def __init__(self, sdk: Any, socket: str, deadline: float) -> None:
        self.sdk, self.socket, self.deadline = sdk, socket, deadline
        self.token = process_token()
        self.leaving: list[threading.Thread] = []
        self.connect()

    def connect(self) -> None:
        try:
            if not stat.S_ISSOCK(Path(self.socket).stat().st_mode):
                raise FleetError("PROOF_ENGINE_ABSENT", f"{self.socket} is not a socket")
        except OSError as error:
            raise FleetError("PROOF_ENGINE_ABSENT", f"{self.socket}: {error.strerror}") from error
        try:
            self.api = self.sdk.APIClient(base_url=f"unix://{self.socket}", version="auto", timeout=10)
            self.info: dict[str, Any] = self.api.info()
        except self.failures() as error:
            raise FleetError("PROOF_ENGINE_DEAD", f"{self.socket}: {short(error)}") from error
        # Everything after this may take as long as the whole proof may.
        self.api.timeout = max(1.0, self.deadline - time.monotonic())

    def failures(self) -> tuple[type[BaseException], ...]:
        """What the SDK raises: its own errors, and those of the HTTP library under it."""
        requests = import_module("requests")
        return (self.sdk.errors.DockerException, requests.exceptions.RequestException, OSError)

    # --- images ------------------------------------------------------------------------------------

    def find_image(self, made_from: str) -> dict[str, Any] | None:
        images = self.api.images(filters={"label": f"{LABEL}={made_from}"})
        return next((image for image in images if image.get("RepoTags")), None)

    def import_image(self, built: Built, made_from: str) -> dict[str, Any]:
        """Brings the image in, on disk before anything relies on it, and removes older ones."""
        try:
            self.api.import_image_from_data(
                built.tar, repository=REPOSITORY, tag=built.tag, changes=[f"LABEL {LABEL}={made_from}"]
            )
            # A power cut right after an import leaves truncated layers that a second import does not mend.
            subprocess.run(["sync", "-f", self.info["DockerRootDir"]], check=False, timeout=60)
            for image in self.api.images(filters={"label": LABEL}):
                if f"{REPOSITORY}:{built.tag}" not in (image.get("RepoTags") or []):
                    self.remove_image(image)
            image = self.find_image(made_from)
        except self.failures() as error:
            code = classify(short(error))
            code = "PROOF_IMAGE_FAILED" if code == "PROOF_CONTAINER_FAILED" else code
            raise FleetError(code, f"importing the probe image: {short(error)}") from error
        if image is None:
            raise FleetError("PROOF_IMAGE_FAILED", f"{REPOSITORY}:{built.tag} is not there after its import")
        return image

    def remove_image(self, image: dict[str, Any]) -> None:
        with contextlib.suppress(*self.failures()):
            self.api.remove_image(image["Id"], force=True)

    # --- containers --------------------------------------------------------------------------------

    def sweep(self) -> int:
        """Removes what an earlier run left that was killed; never what a living one uses."""
        removed = 0
        for container in self.api.containers(all=True, filters={"label": OWNER}):
            if not is_alive(container["Labels"].get(OWNER, "")):
                self.remove(container["Id"])
                removed += 1
        return removed

    def sweep_own(self) -> None:
        """At the end, and when interrupted: nothing of this run stays."""
        with contextlib.suppress(*self.failures()):
            for container in self.api.containers(all=True, filters={"label": f"{OWNER}={self.token}"}):
                self.remove(container["Id"])

    @contextlib.contextmanager
    def guarded(self) -> Iterator[None]:
        """Containers of this process are removed at the end, however it ends.

        A child waits for the end of a pipe that only this process holds open: SIGKILL closes it too.
        """
        reader, writer = os.pipe()
        guard = os.fork()
        if guard == 0:
            os.close(writer)
            self.stand_guard(reader)
        os.close(reader)
        try:
            yield
        finally:
            for gone in self.leaving:
                gone.join(max(0.1, self.deadline - time.monotonic()))
            self.sweep_own()
            os.write(writer, b"done")
            os.close(writer)
            os.waitpid(guard, 0)

    def stand_guard(self, reader: int) -> NoReturn:
        """The guard's whole life. It holds none of this process's files, or whoever waits for these would wait on."""
        try:
            os.setsid()
            for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.SIG_IGN)
            nothing = os.open(os.devnull, os.O_RDWR)
            for descriptor in (0, 1, 2):
                os.dup2(nothing, descriptor)
            if os.read(reader, 1) == b"":
                self.api = self.sdk.APIClient(base_url=f"unix://{self.socket}", version="auto", timeout=10)
                # The engine may still be busy with what it was asked last.
                for pause in (0, 0.5, 1.5):
                    time.sleep(pause)
                    self.sweep_own()
        finally:
            os._exit(0)

    def remove(self, container: str) -> None:
        with contextlib.suppress(*self.failures()):
            self.api.remove_container(container, force=True, v=True)

    def run(self, image: str, command: list[str], devices: list[str], files: Mapping[str, str] | None = None) -> Ran:
        """Runs a command in a container that can do nothing else, and waits until it has ended.

        files  of the host, by path, and where they are to be seen in the container
        """
        ran, started, container = Ran(), time.monotonic(), ""
        try:
            container = self.create(image, command, devices, files or {})
            gone = threading.Thread(target=self.wait_until_gone, args=(container, ran), daemon=True)
            gone.start()
            stream = self.api.attach(container, stdout=True, stderr=True, stream=True, demux=True)
            self.api.start(container)
            with self.killed_at_the_deadline(container, ran):
                for out, err in stream:
                    ran.output += (out or b"").decode(errors="replace")
                    ran.errors += (err or b"").decode(errors="replace")
            if ran.output:
                # Its removal need not be waited for here; it is at the end.
                self.leaving.append(gone)
            else:
                gone.join(max(0.1, self.deadline - time.monotonic()))
        except self.failures() as error:
            ran.refused = short(error)
        finally:
            if container and ran.refused:
                self.remove(container)
        ran.seconds = time.monotonic() - started
        return ran

    def create(self, image: str, command: list[str], devices: list[str], files: Mapping[str, str]) -> str:
        requests = [self.sdk.types.DeviceRequest(driver="cdi", device_ids=devices)] if devices else None
        settings = self.api.create_host_config(
            auto_remove=True,
            binds={source: {"bind": target, "mode": "ro"} for source, target in files.items()},
            cap_drop=["ALL"],
            device_requests=requests,
            network_mode="none",
            pids_limit=128,
            read_only=True,
            security_opt=["no-new-privileges"],
        )
        created = self.api.create_container(image, command, host_config=settings, labels={OWNER: self.token})
        return str(created["Id"])

    def wait_until_gone(self, container: str, ran: Ran) -> None:
        # The container can be gone before the question arrives, which is as good an answer.
        with contextlib.suppress(*self.failures()):
            ran.status = self.api.wait(container, condition="removed").get("StatusCode")

    @contextlib.contextmanager
    def killed_at_the_deadline(self, container: str, ran: Ran) -> Iterator[None]:
        """The probe ends by itself; this is for an engine or a driver that does not let it."""

        def kill() -> None:
            ran.timed_out = True
            self.remove(container)

        timer = threading.Timer(max(0.1, self.deadline - time.monotonic()), kill)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()


# What every failed start begins with, and where a container's files happened to lie.
BOILERPLATE = re.compile(r"^failed to create task for container: .*?error during container init: |:/\S+/merged/\S*")


def short(error: BaseException) -> str:
    """The engine's own message without the HTTP and the layers around it."""
    explanation = getattr(error, "explanation", None)
    if isinstance(explanation, bytes):
        explanation = explanation.decode(errors="replace")
    return BOILERPLATE.sub("", str(explanation or error).strip())
