# Copyright: gpulab.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The proof itself: containers with one GPU each, with none and with all, and the host to compare with."""

from __future__ import annotations

import inspect
import json
import os
import pwd
import queue
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from ansible_collections.gpulab.fleet.plugins.module_utils import _cdi_spec, _cuda, _probe_image, _proof
from ansible_collections.gpulab.fleet.plugins.module_utils._docker import (
    Engine,
    Ran,
    classify,
    image_is_broken,
    load_sdk,
    socket_of,
)
from ansible_collections.gpulab.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.gpulab.fleet.plugins.module_utils._findings import from_error

# Two containers at a time for each core: starting one is as much waiting as work.
WORKERS_PER_CORE = 2
# Seconds of rest before each second look at a low bandwidth: other work comes in bursts.
SECOND_LOOKS = (0.0, 0.5, 1.0, 2.0, 3.0)


def probe_source() -> str:
    """The probe's own text, also when this runs out of Ansible's zip."""
    return inspect.getsource(_cuda)


def node_number(path: str) -> dict[str, Any] | None:
    """A device node as the probe wants it."""
    try:
        number = Path(path).stat().st_rdev
    except OSError:
        return None
    return {"path": path, "major": os.major(number), "minor": os.minor(number)}


def host_gpu_nodes() -> list[str]:
    return [path for path in _cuda.device_files() if _cuda.is_gpu(path)]


def nodes_by_uuid(root: Path = Path("/")) -> dict[str, str]:
    """Each GPU's device node, as the kernel module tells it."""
    found = {}
    for path in sorted(root.glob("proc/driver/nvidia/gpus/*/information")):
        try:
            text = path.read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
        told = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
        uuid, minor = told.get("GPU UUID", "").strip(), told.get("Device Minor", "").strip()
        if uuid and minor.isdigit():
            found[uuid] = f"/dev/nvidia{minor}"
    return found


def at_once(jobs: Mapping[Any, Callable[[], Any]], workers: int, deadline: float) -> dict[Any, Any]:
    """Runs the jobs side by side; those that are not done by the deadline are missing from the answer.

    The threads do not keep the process alive: one that hangs in a dead engine is left behind.
    """
    todo: queue.SimpleQueue[tuple[Any, Callable[[], Any]]] = queue.SimpleQueue()
    done: queue.SimpleQueue[tuple[Any, Any]] = queue.SimpleQueue()
    for item in jobs.items():
        todo.put(item)

    def work() -> None:
        while True:
            try:
                name, job = todo.get_nowait()
            except queue.Empty:
                return
            try:
                done.put((name, job()))
            except Exception as error:
                done.put((name, error))

    for _number in range(min(workers, len(jobs))):
        threading.Thread(target=work, daemon=True).start()
    results: dict[Any, Any] = {}
    while len(results) < len(jobs):
        try:
            name, result = done.get(timeout=max(0.01, deadline - time.monotonic()))
        except queue.Empty:
            break
        if isinstance(result, Exception):
            raise result
        results[name] = result
    return results


def image_is_suspect(ran: Ran) -> bool:
    """Whether the image may be what is broken: its program did not start, or ended without an answer."""
    if ran.refused:
        return image_is_broken(ran.refused)
    return not ran.timed_out and _proof.parse_answer(ran.output) is None


@dataclass
class Settings:
    """What is to be proven."""

    user: str
    gpus: list[str]
    python_path: str
    bandwidth_ratio_min: float
    timeout: float


@dataclass
class Answer:
    """What became known; the module returns it."""

    judged: _proof.Judged = field(default_factory=_proof.Judged)
    bandwidth: dict[str, Any] = field(default_factory=dict)
    image: dict[str, Any] = field(default_factory=dict)
    engine: dict[str, Any] = field(default_factory=dict)
    spec: dict[str, Any] = field(default_factory=dict)


class Passthrough:
    """One user's proof."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.started = time.monotonic()
        self.deadline = self.started + settings.timeout
        self.answer = Answer()
        self.engine: Engine | None = None
        self.devices: _cdi_spec.Devices = {}
        self.nodes = nodes_by_uuid()

    # --- in order ------------------------------------------------------------------------------------

    def run(self) -> Answer:
        """Every step that can be taken; what stops the proof is a finding, the rest stays unknown."""
        judged = self.answer.judged
        try:
            self.reach_engine()
            self.read_spec()
            self.provide_image()
            assert self.engine
            with self.engine.guarded():
                self.look_inside()
        except FleetError as error:
            judged.findings.append(from_error(error, **self.placeholders()))
            self.leave_unknown(error)
        return self.answer

    def reach_engine(self) -> None:
        started = time.monotonic()
        self.account, self.socket = socket_of(self.settings.user)
        sdk = load_sdk(self.settings.python_path)
        self.engine = Engine(sdk, self.socket, self.deadline)
        swept = self.engine.sweep()
        info = self.engine.info
        self.answer.engine = {
            "version": info["ServerVersion"],
            "socket": self.socket,
            "storage_driver": info["Driver"],
            "rootless": any("rootless" in option for option in info.get("SecurityOptions") or []),
        }
        detail = f"Docker {info['ServerVersion']} at {self.socket}"
        detail += f"; {swept} left by a killed run removed" if swept else ""
        self.step("engine", "pass", detail, started)

    def read_spec(self) -> None:
        assert self.engine
        started = time.monotonic()
        folders = self.engine.info.get("CDISpecDirs") or []
        if not folders and self.settings.gpus:
            raise FleetError("PROOF_CDI_OFF", f"Docker {self.engine.info['ServerVersion']} reads no CDI folders")
        files, self.devices = _cdi_spec.read(folders)
        self.answer.spec = {"folders": folders, "files": files, "devices": sorted(self.devices)}
        if not self.settings.gpus:
            return
        if not files:
            raise FleetError("PROOF_SPEC_MISSING", f"no spec of {_cdi_spec.KIND} in {', '.join(folders)}")
        unknown = [gpu for gpu in self.settings.gpus if gpu not in self.devices]
        if unknown:
            raise FleetError("GPU_UNKNOWN", f"{', '.join(unknown)} not in {', '.join(files)}")
        self.step("spec", "pass", f"{', '.join(files)} has every assigned GPU", started)

    def provide_image(self, again: bool = False) -> None:
        """The probe image, as it is or made anew."""
        assert self.engine
        started = time.monotonic()
        source = probe_source()
        made_from = _probe_image.made_from(source)
        image = self.engine.find_image(made_from)
        if image and again:
            self.engine.remove_image(image)
            image = None
        built = image is None
        if image is None:
            image = self.engine.import_image(_probe_image.build(source), made_from)
        self.answer.image = {
            "id": image["Id"],
            "tag": image["RepoTags"][0],
            "bytes": image["Size"],
            "built": built or self.answer.image.get("built", False),
        }
        verb = "made from this host's Python" if built else "there already"
        self.step("image", "pass", f"{image['RepoTags'][0]}, {image['Size'] / 1e6:.1f} MB, {verb}", started)

    def look_inside(self) -> None:
        """All containers, and the host runs, side by side; then what needs a second look."""
        results = self.run_probes()
        if any(ran and image_is_suspect(ran) for ran, _host in results.values()):
            self.provide_image(again=True)
            results = self.run_probes()
        for gpu in self.settings.gpus:
            self.judge(gpu, *results.get(gpu, (None, None)))
        self.judge_special(None, results.get(None, (None, None))[0])
        if self.settings.gpus:
            self.judge_special("all", results.get("all", (None, None))[0])

    def run_probes(self) -> dict[Any, tuple[Ran | None, dict[str, Any] | None]]:
        """By GPU, "all" and None: the container's run and the host's answer."""
        jobs: dict[Any, Callable[[], Any]] = {gpu: partial(self.container_then_host, gpu) for gpu in self.settings.gpus}
        jobs[None] = lambda: (self.in_container(None), None)
        if self.settings.gpus:
            jobs["all"] = lambda: (self.in_container("all"), None)
        workers = WORKERS_PER_CORE * len(os.sched_getaffinity(0))
        return at_once(jobs, workers, self.deadline + 5)

    def container_then_host(self, gpu: str) -> tuple[Ran, dict[str, Any] | None]:
        """One after the other: two at a time on one GPU would slow each other down."""
        return self.in_container(gpu), self.on_host(gpu)

    # --- running the probe ---------------------------------------------------------------------------

    def own_nodes(self, name: str | None) -> list[str]:
        """The GPU nodes that a container with this device may have.

        The driver's word counts and not the spec's, which is what is being tried. It does not speak of MIG instances.
        """
        if name == "all":
            return [node for gpu in self.settings.gpus for node in self.own_nodes(gpu)]
        if name in self.nodes:
            return [self.nodes[name]]
        return self.devices.get(name, []) if name else []

    def forbidden(self, name: str | None) -> list[dict[str, Any]]:
        """The host's GPU nodes that a container with this device must not reach."""
        given = self.own_nodes(name)
        numbers = [node_number(path) for path in host_gpu_nodes() if path not in given]
        return [number for number in numbers if number]

    def request(self, name: str | None, look: bool) -> dict[str, Any]:
        left = max(1.0, self.deadline - time.monotonic())
        asked: dict[str, Any] = {"look": look, "timeout": round(min(left, self.settings.timeout) * 0.8, 1)}
        if name not in (None, "all"):
            asked["gpu"] = name
        if look:
            asked["forbidden"] = self.forbidden(name)
        return asked

    def in_container(self, name: str | None) -> Ran:
        assert self.engine
        command = _probe_image.command(_probe_image.interpreter())
        devices = [f"{_cdi_spec.KIND}={name}"] if name else []
        request = json.dumps(self.request(name, look=True))
        # The control gets the driver's library by hand: it must find no GPU although it could use one.
        library = None if name else _probe_image.driver_library()
        return self.engine.run(
            self.answer.image["tag"], [*command, request], devices, dict([library] if library else [])
        )

    def on_host(self, gpu: str) -> dict[str, Any] | None:
        """The same probe as the same user, outside a container; it is shown the one GPU only."""
        command = [_probe_image.PYTHON, *_probe_image.PYTHON_OPTIONS, "-c", probe_source()]
        environment = {"PATH": "/usr/bin:/bin", "HOME": self.account.pw_dir, "CUDA_VISIBLE_DEVICES": gpu}
        request = json.dumps(self.request(gpu, look=False))
        try:
            done = subprocess.run(
                [*command, request],
                capture_output=True,
                text=True,
                check=False,
                env=environment,
                cwd="/",
                stdin=subprocess.DEVNULL,
                timeout=max(1.0, self.deadline - time.monotonic()),
                **as_user(self.account),
            )
        except (OSError, subprocess.SubprocessError):
            return None
        return _proof.parse_answer(done.stdout)

    # --- judging ---------------------------------------------------------------------------------------

    def judge(self, gpu: str, ran: Ran | None, host: dict[str, Any] | None) -> None:
        judged, settings = self.answer.judged, self.settings
        answer = self.parsed("visible", gpu, ran)
        if answer is None or ran is None:
            for name in ("isolated", "compute", "bandwidth"):
                judged.add(name, "unknown", _proof.NOT_REACHED, gpu=gpu)
            return
        others = len(self.forbidden(gpu)) if self.own_nodes(gpu) else len(host_gpu_nodes()) - 1
        start = ran.seconds - sum(step["seconds"] for step in answer["steps"])
        judged.extend(_proof.judge_gpu(answer, gpu, others, start, settings.user))
        ratio = _proof.bandwidth_ratio(answer, host or {})
        for rest in SECOND_LOOKS:
            if ratio is None or ratio >= settings.bandwidth_ratio_min:
                break
            time.sleep(rest)
            # Measured beside other containers, on a machine with other work: only what stays low is low.
            answer, host = self.measured_alone(gpu, answer, host)
            ratio = _proof.bandwidth_ratio(answer, host or {})
        judged.extend(_proof.judge_bandwidth(answer, host, gpu, settings.bandwidth_ratio_min, settings.user))
        self.answer.bandwidth[gpu] = {
            "container": answer.get("bandwidth"),
            "host": (host or {}).get("bandwidth"),
            "ratio": None if ratio is None else round(ratio, 3),
        }

    def measured_alone(
        self, gpu: str, answer: dict[str, Any], host: dict[str, Any] | None
    ) -> tuple[dict[str, Any], dict[str, Any] | None]:
        second = _proof.parse_answer(self.in_container(gpu).output)
        again = self.on_host(gpu)
        if second and second.get("bandwidth") and again and again.get("bandwidth"):
            return second, again
        return answer, host

    def judge_special(self, name: str | None, ran: Ran | None) -> None:
        """The containers with no GPU and with all of the user's."""
        step, user = name or "none", self.settings.user
        answer = self.parsed(step, None, ran)
        if answer is None or ran is None:
            return
        if name is None:
            self.answer.judged.extend(_proof.judge_none(answer, len(host_gpu_nodes()), ran.seconds, user))
        else:
            others = len(self.forbidden("all"))
            self.answer.judged.extend(_proof.judge_all(answer, self.settings.gpus, others, ran.seconds, user))

    def parsed(self, step: str, gpu: str | None, ran: Ran | None) -> dict[str, Any] | None:
        """The probe's answer, or the finding that explains why there is none."""
        judged = self.answer.judged
        if ran is None:
            judged.add(step, "unknown", "not done in time", gpu=gpu)
            judged.find("PROOF_TIMEOUT", f"{gpu or step}: not done within {self.settings.timeout:g} s")
            return None
        answer = _proof.parse_answer(ran.output)
        if answer is not None:
            return answer
        if ran.timed_out:
            judged.add(step, "fail", "killed at the deadline", ran.seconds, gpu)
            judged.find("PROOF_TIMEOUT", f"{gpu or step}: no end within {self.settings.timeout:g} s")
            return None
        judged.add(step, "fail", ran.explanation, ran.seconds, gpu)
        code = classify(ran.explanation)
        judged.find(code, f"{gpu or step}: {ran.explanation}", **self.placeholders())
        return None

    # --- small -----------------------------------------------------------------------------------------

    def step(self, name: str, verdict: str, detail: str, started: float) -> None:
        self.answer.judged.add(name, verdict, detail, time.monotonic() - started)

    def placeholders(self) -> dict[str, Any]:
        there = ", ".join(_cdi_spec.gpu_uuids(self.devices)) or "none"
        return {
            "user": self.settings.user,
            "socket": getattr(self, "socket", "its socket"),
            "path": self.settings.python_path,
            "there": there,
            "known": there,
        }

    def leave_unknown(self, error: FleetError) -> None:
        """The step that stopped the proof has failed; what comes after it was not looked at."""
        judged = self.answer.judged
        order = ["engine", "spec", "image"]
        taken = {step["name"] for step in judged.steps}
        stopped = next((name for name in order if name not in taken), None)
        if stopped:
            missing = error.code == "PYTHON_PARTS_MISSING"
            judged.add(stopped, "unknown" if missing else "fail", str(error))
        for gpu in self.settings.gpus:
            for name in ("visible", "isolated", "compute", "bandwidth"):
                judged.add(name, "unknown", _proof.NOT_REACHED, gpu=gpu)
        judged.add("none", "unknown", _proof.NOT_REACHED)


def as_user(account: pwd.struct_passwd) -> dict[str, Any]:
    """How to start a process as that user; nothing when this one already is."""
    if os.geteuid() == account.pw_uid:
        return {}
    groups = os.getgrouplist(account.pw_name, account.pw_gid)
    return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": groups}
