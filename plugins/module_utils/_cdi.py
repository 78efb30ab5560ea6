#!/usr/bin/python3
# Copyright: gpulab.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Describe the GPUs to every user's rootless engine, and start what had missed them.

This file is a module of the collection and, as /usr/local/lib/gpulab/cdi.py, a program on the host that
runs at boot and when driver, toolkit or MIG change. It uses the standard library only.

    cdi.py generate   one CDI spec a user, from nvidia-ctk; writes only what differs
    cdi.py revive     starts containers that the engine gave up on because a GPU could not be resolved

Why a spec is written the way it is (install_spec): an engine reads its folder of specs when inotify tells it
of a write, a removal or a rename *out of* a name, and does not look again. nvidia-ctk itself writes with mode
0600, renames, then opens the file up: the rootless engine reads in between, fails, and the devices stay
unresolvable. A rename from another folder is no event to it at all. So the text goes into a file beside the
spec, under a name that is no spec's, gets its final owner and mode, and is renamed within the folder.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import http.client
import json
import os
import pwd
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PROGRAM = "/usr/local/lib/gpulab/cdi.py"
SETTINGS = "/etc/gpulab/cdi.json"
SHARES = "/etc/gpulab/shares.json"  # where it exists, nodes are closed on purpose and opened by shares.py
SPECS = "/var/lib/gpulab/cdi"
SPEC_NAME = "nvidia.json"
STATE = "/run/gpulab"
KIND = "nvidia.com/gpu"
TOOL_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

REVIVE_SECONDS = 60  # for one engine; less than any engine's unit allows for its start

EXIT_DIFFERS = 1  # generate --check: something would be written
EXIT_FINDINGS = 3  # something is wrong with driver, toolkit or settings; it has been said

Gpus = str | list[str]  # "all", or UUIDs and indices
Spec = dict[str, Any]


@dataclass(frozen=True)
class Finding:
    """What is wrong: a code of the collection's catalogue, what was seen, values for the remedy's placeholders."""

    code: str
    evidence: str
    data: Mapping[str, str] = field(default_factory=dict)


class Trouble(Exception):
    """Carries a finding to where it can be reported."""

    def __init__(self, code: str, evidence: str, **data: str) -> None:
        super().__init__(f"{code}: {evidence}")
        self.finding = Finding(code, evidence, data)


@dataclass
class Report:
    """What generate did, or in check mode would do."""

    written: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)  # users whose spec could not be made anew
    specs: dict[str, dict[str, Any]] = field(default_factory=dict)  # user -> {path, devices}
    diffs: list[dict[str, str]] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)

    @property
    def changed(self) -> bool:
        return bool(self.written or self.removed)

    def add_changes(self, earlier: Report) -> None:
        """Take over what an earlier pass of the same run has done."""
        self.written = list(dict.fromkeys(earlier.written + self.written))
        self.removed = list(dict.fromkeys(earlier.removed + self.removed))
        self.diffs = earlier.diffs + self.diffs


# --- settings --------------------------------------------------------------------------------------


def parse_users(users: Any) -> dict[str, Gpus]:
    """The users that get a spec, checked and in one form: {name: "all" | [uuid or index, ...]}."""
    if not isinstance(users, dict):
        raise Trouble("CDI_SETTINGS_INVALID", f"users is not a mapping: {users!r}")
    parsed: dict[str, Gpus] = {}
    for name, gpus in sorted(users.items()):
        # The name becomes a folder's: it must not climb out of SPECS or hide in it.
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.@$-]*", str(name)):
            raise Trouble("CDI_SETTINGS_INVALID", f"{name!r} is not a user name")
        if gpus is None or gpus in ("none", []):
            continue
        if gpus == "all":
            parsed[name] = "all"
        elif isinstance(gpus, list) and all(isinstance(g, (str, int)) and not isinstance(g, bool) for g in gpus):
            parsed[name] = [str(g) for g in gpus]
        else:
            raise Trouble("CDI_SETTINGS_INVALID", f"gpus of {name} must be all, none or a list, not {gpus!r}")
    return parsed


def load_settings(root: Path) -> dict[str, Gpus]:
    path = root / SETTINGS.lstrip("/")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise Trouble("CDI_SETTINGS_INVALID", f"{SETTINGS} does not exist") from None
    except (OSError, ValueError) as error:
        raise Trouble("CDI_SETTINGS_INVALID", f"{SETTINGS}: {error}") from None
    return parse_users(content.get("users") if isinstance(content, dict) else None)


# --- driver ----------------------------------------------------------------------------------------


def driver_loaded(root: Path) -> bool:
    return (root / "proc/driver/nvidia/version").exists() or (root / "dev/nvidiactl").exists()


def driver_expected(root: Path) -> bool:
    """Whether this kernel has an NVIDIA module at all: without one, waiting for it is of no use."""
    modules = root / "lib/modules" / os.uname().release / "modules.dep"
    try:
        return re.search(r"/nvidia(-current)?\.ko", modules.read_text(encoding="utf-8", errors="replace")) is not None
    except OSError:
        return False


def is_jetson(root: Path) -> bool:
    """A board whose GPU is part of its processor: its driver comes with its system, and lists what it needs in files."""
    return any((root / mark).exists() for mark in ("etc/nv_tegra_release", "sys/module/tegra_fuse"))


def wait_for_driver(root: Path, seconds: float) -> None:
    """At boot: give the driver time to come up, but never hold the users' logins for long."""
    deadline = time.monotonic() + seconds
    while not driver_loaded(root) and driver_expected(root) and time.monotonic() < deadline:
        time.sleep(0.25)


def ensure_uvm(root: Path, tools: Tools) -> None:
    """Have /dev/nvidia-uvm before the GPUs are described: nvidia-ctk leaves it out silently when it is missing."""
    node = root / "dev/nvidia-uvm"
    if is_jetson(root):
        return  # which has no such node
    attempts = (
        ["nvidia-modprobe", "-c0", "-u"],
        ["modprobe", "nvidia-uvm"],
        ["nvidia-ctk", "system", "create-device-nodes", "--control-devices"],
    )
    for argv in attempts:
        if node.exists():
            return
        if tools.has(argv[0]):
            tools.run(argv)


# --- the toolkit -----------------------------------------------------------------------------------


class Tools:
    """Runs the vendor's programs with an environment of our own, so that nobody's settings change the outcome."""

    def __init__(self, path: str = TOOL_PATH, timeout: float = 60) -> None:
        self.path = path
        self.timeout = timeout

    def has(self, name: str) -> bool:
        return shutil.which(name, path=self.path) is not None

    def run(self, argv: Sequence[str]) -> subprocess.CompletedProcess[str]:
        program = shutil.which(argv[0], path=self.path)
        if program is None:
            raise Trouble("TOOLKIT_MISSING", f"{argv[0]} is not on {self.path}")
        try:
            return subprocess.run(
                [program, *argv[1:]],
                env={"PATH": self.path, "LC_ALL": "C.UTF-8", "HOME": "/root"},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=self.timeout,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return subprocess.CompletedProcess(argv, 124, "", f"no answer within {self.timeout:.0f} s")


# What nvidia-ctk says when it fails, and what that means. The first match counts.
FAILURES = (
    (r"version mismatch", "NVML_LIBRARY_MISMATCH"),
    (r"ERROR_LIBRARY_NOT_FOUND|libnvidia-ml\.so.*(not found|cannot open)", "NVML_LIBRARY_NOT_FOUND"),
    (r"Driver Not Loaded|ERROR_DRIVER_NOT_LOADED", "DRIVER_NOT_LOADED"),
    (r"empty device edits|invalid spec, no devices|no NVIDIA device nodes found", "GPU_NODES_MISSING"),
)


def describe(tools: Tools, gpus: Sequence[str] = (), jetson: bool = False) -> Spec:
    """The CDI spec that nvidia-ctk makes, of all GPUs or of these, as data."""
    argv = ["nvidia-ctk", "--quiet", "cdi", "generate", "--format", "json"]
    if jetson:
        argv += ["--mode", "csv"]  # knows one GPU, and takes no names of it
    for gpu in () if jetson else gpus:
        argv += ["--device-id", gpu]
    done = tools.run(argv)
    if done.returncode != 0:
        message = last_error(done.stderr) or last_error(done.stdout) or f"exit code {done.returncode}"
        code = next((c for pattern, c in FAILURES if re.search(pattern, message)), "CDI_GENERATION_FAILED")
        raise Trouble(code, f"nvidia-ctk cdi generate: {message}")
    try:
        spec = json.loads(done.stdout)
    except ValueError as error:
        raise Trouble("CDI_GENERATION_FAILED", f"nvidia-ctk cdi generate wrote no JSON: {error}") from None
    if not isinstance(spec, dict) or spec.get("kind") != KIND:
        raise Trouble("CDI_GENERATION_FAILED", f"nvidia-ctk cdi generate wrote no spec of {KIND}")
    return spec


def last_error(text: str) -> str:
    """The message of the last line, without the frame that the toolkit's logger puts around it."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        return ""
    framed = re.search(r'msg="((?:[^"\\]|\\.)*)"', lines[-1])
    return framed.group(1).replace('\\"', '"') if framed else lines[-1]


# --- specs -----------------------------------------------------------------------------------------


def device_names(spec: Spec) -> list[str]:
    return [device["name"] for device in spec.get("devices") or []]


def known_gpus(spec: Spec) -> dict[str, str]:
    """Every name of a GPU or MIG instance -> its UUID: {"0": "GPU-…", "GPU-…": "GPU-…", "1:0": "MIG-…"}."""
    uuids = [name for name in device_names(spec) if name.startswith(("GPU-", "MIG-"))]
    edits = {device["name"]: device.get("containerEdits") for device in spec.get("devices") or []}
    known = {uuid: uuid for uuid in uuids}
    for name in edits:
        if name != "all" and name not in known:
            # An index is another name of the device with the same edits.
            known[name] = next((uuid for uuid in uuids if edits[uuid] == edits[name]), name)
    return known


def resolve(user: str, gpus: Gpus, known: Mapping[str, str]) -> tuple[list[str], list[Finding]]:
    """A user's list as UUIDs in the host's order, and a finding for each that is not there."""
    if gpus == "all":
        return [], []
    wanted = {known[gpu] for gpu in gpus if gpu in known}
    there = ", ".join(sorted(known)) or "no GPU"
    missing = [
        Finding("GPU_UNKNOWN", f"{user}: {gpu}; this host has {there}", {"user": user, "known": there})
        for gpu in gpus
        if gpu not in known
    ]
    return [uuid for uuid in dict.fromkeys(known.values()) if uuid in wanted], missing


def all_edits(spec: Spec) -> Iterator[dict[str, Any]]:
    """The common edits and those of each device."""
    yield spec.get("containerEdits") or {}
    for device in spec.get("devices") or []:
        yield device.get("containerEdits") or {}


def without_service_sockets(spec: Spec) -> Spec:
    """Leave out the sockets of the driver's own services (nvidia-persistenced, nvidia-fabricmanager).

    They are bind mounts of something that a stopped or restarted service takes away: the container then no
    longer starts. No CUDA program needs them; only whoever switches persistence mode or fabric partitions does.
    """
    for edits in all_edits(spec):
        if "mounts" in edits:
            edits["mounts"] = [
                mount for mount in edits["mounts"] if not re.fullmatch(r"(/var)?/run/.+/socket", mount["hostPath"])
            ]
    return spec


def without_modes(spec: Spec) -> Spec:
    """Leave out the nodes' modes, which no rootless engine uses: a spec is not to change when a node is closed."""
    for edits in all_edits(spec):
        for node in edits.get("deviceNodes") or []:
            node.pop("fileMode", None)
    return spec


def check_spec(spec: Spec, root: Path) -> list[Finding]:
    """Holes that nvidia-ctk passes over with exit code 0, and nodes that a rootless container cannot open."""
    nodes: set[str] = set()
    files: set[str] = set()
    for edits in all_edits(spec):
        nodes |= {node.get("hostPath") or node["path"] for node in edits.get("deviceNodes") or []}
        files |= {mount["hostPath"] for mount in edits.get("mounts") or []}
        files |= {hook["path"] for hook in edits.get("hooks") or []}

    def missing(paths: set[str]) -> list[str]:
        return sorted(path for path in paths if not (root / path.lstrip("/")).exists())

    findings: list[Finding] = []
    if not device_names(spec):
        findings.append(Finding("GPU_NODES_MISSING", "the spec lists no device"))
    if "/dev/nvidia-uvm" not in nodes and not is_jetson(root):
        findings.append(Finding("UVM_MISSING", "/dev/nvidia-uvm is not in the spec"))
    if not any(Path(path).name.startswith("libcuda.so.") for path in files):
        findings.append(Finding("CDI_SPEC_INCOMPLETE", "libcuda.so is not among the spec's mounts"))
    absent = missing(nodes | files)
    if absent:
        findings.append(Finding("CDI_SPEC_INCOMPLETE", f"named, but not on this host: {', '.join(absent)}"))
    closed = sorted(path for path in nodes if path not in absent and not open_to_all(root / path.lstrip("/")))
    if closed and not (root / SHARES.lstrip("/")).exists():
        findings.append(Finding("GPU_NODES_RESTRICTED", ", ".join(closed)))
    return findings


def open_to_all(node: Path) -> bool:
    """Read and write for others; an access list counts as the administrator's own arrangement."""
    if node.stat().st_mode & 0o006 == 0o006:
        return True
    try:
        return "system.posix_acl_access" in os.listxattr(node)
    except OSError:
        return False


def conflicts(root: Path, user: str) -> list[Finding]:
    """Other specs of the same devices in the user's folder, which is for ours alone."""
    own = root / SPECS.lstrip("/") / user
    return [
        Finding("CDI_SPEC_CONFLICT", f"{user}: {other}", {"path": str(other)})
        for other in sorted(own.glob("*.json")) + sorted(own.glob("*.yaml"))
        if other.name != SPEC_NAME and names_gpus(other)
    ]


def names_gpus(spec_file: Path) -> bool:
    text = read_or_empty(spec_file)
    return re.search(rf'kind["\']?\s*:\s*["\']?{re.escape(KIND)}(?![\w./-])', text) is not None


def spec_text(spec: Spec) -> str:
    return json.dumps(spec, indent=2, ensure_ascii=False) + "\n"


def spec_folders(path: Path) -> list[Path]:
    """The folders of ours that a user's engine goes through to its spec, innermost first."""
    return list(path.parents)[:3]


def install_spec(path: Path, text: str) -> None:
    """Put the spec where the engine sees it all at once (the module's docstring says why like this)."""
    for folder in reversed(spec_folders(path)):
        folder.mkdir(mode=0o755, parents=True, exist_ok=True)
        folder.chmod(0o755)  # mkdir's mode is cut by the umask
    unseen = path.with_name(f".{path.name}.tmp")
    unseen.unlink(missing_ok=True)
    with unseen.open("x", encoding="utf-8") as file:
        file.write(text)
        os.fchmod(file.fileno(), 0o644)
        file.flush()
        os.fsync(file.fileno())
    unseen.rename(path)
    folder_fd = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder_fd)
    finally:
        os.close(folder_fd)


def is_installed(path: Path, text: str) -> bool:
    try:
        status = path.lstat()
        mine = stat.S_ISREG(status.st_mode) and stat.S_IMODE(status.st_mode) == 0o644
        # An engine that runs has read its spec; behind a closed folder it would find none at its next start.
        mine = mine and all(folder.stat().st_mode & 0o055 == 0o055 for folder in spec_folders(path))
        return mine and status.st_uid == os.geteuid() and path.read_text(encoding="utf-8") == text
    except (OSError, UnicodeDecodeError):
        return False


# --- generate --------------------------------------------------------------------------------------


class Generator:
    """Makes and installs the specs of all users; nvidia-ctk runs once for each distinct set of GPUs."""

    def __init__(
        self, root: Path = Path("/"), tools: Tools | None = None, check: bool = False, closed: bool | None = None
    ) -> None:
        self.root = root
        self.tools = tools or Tools()
        self.check = check
        self.closed = (root / SHARES.lstrip("/")).exists() if closed is None else closed
        self.seen = signature(root)
        self.made: dict[tuple[str, ...], Spec] = {}

    def spec_path(self, user: str) -> Path:
        return self.root / SPECS.lstrip("/") / user / SPEC_NAME

    def spec(self, gpus: Sequence[str] = ()) -> Spec:
        key = tuple(gpus)
        if key not in self.made:
            made = without_service_sockets(describe(self.tools, key, is_jetson(self.root)))
            if self.closed:
                made = without_modes(made)
            lacking = set(key) - set(device_names(made))
            if lacking:
                raise Trouble("CDI_GENERATION_FAILED", f"nvidia-ctk left out {', '.join(sorted(lacking))}")
            self.made[key] = made
        return self.made[key]

    def prepare(self, wait: float = 0) -> None:
        """Bring the driver to where its GPUs can be described."""
        wait_for_driver(self.root, wait)
        if not self.check:
            ensure_uvm(self.root, self.tools)

    def generate(self, users: Mapping[str, Gpus]) -> Report:
        report = Report()
        for user in sorted(users):
            report.findings += conflicts(self.root, user)
        self.remove_others(users, report)
        if not users:
            return report
        try:
            known = known_gpus(self.spec())
        except Trouble as trouble:
            report.findings.append(trouble.finding)
            self.list_kept(users, report)
            return report
        for user, gpus in sorted(users.items()):
            self.one_user(user, gpus, known, report)
        report.findings = unique(report.findings)
        return report

    def one_user(self, user: str, gpus: Gpus, known: Mapping[str, str], report: Report) -> None:
        uuids, missing = resolve(user, gpus, known)
        report.findings += missing
        if gpus != "all" and not uuids:
            self.list_kept([user], report)
            return
        try:
            spec = self.spec(uuids)
        except Trouble as trouble:
            report.findings.append(trouble.finding)
            self.list_kept([user], report)
            return
        holes = check_spec(spec, self.root)
        report.findings += holes
        if any(hole.code != "GPU_NODES_RESTRICTED" for hole in holes):
            self.list_kept([user], report)
            return
        path, text = self.spec_path(user), spec_text(spec)
        if not is_installed(path, text):
            report.written.append(str(path))
            report.diffs.append({"path": str(path), "before": read_or_empty(path), "after": text})
            if not self.check:
                install_spec(path, text)
        report.specs[user] = {"path": str(path), "devices": device_names(spec)}

    def list_kept(self, users: Sequence[str] | Mapping[str, Gpus], report: Report) -> None:
        """A spec that could not be made anew stays as it was."""
        for user in users:
            installed = installed_devices(self.root, user)
            if installed:
                report.kept.append(user)
                report.specs[user] = {"path": str(self.spec_path(user)), "devices": installed}

    def remove_others(self, users: Mapping[str, Gpus], report: Report) -> None:
        """Specs of users who are no longer named, with what an interrupted run left behind."""
        for folder in sorted((self.root / SPECS.lstrip("/")).glob("*")):
            if folder.is_dir() and folder.name not in users:
                report.removed.append(str(folder))
                spec = folder / SPEC_NAME
                if spec.exists():
                    report.diffs.append({"path": str(spec), "before": read_or_empty(spec), "after": ""})
                if not self.check:
                    shutil.rmtree(folder)


def unique(findings: Sequence[Finding]) -> list[Finding]:
    """Without repeats: a hole in the driver shows in every user's spec."""
    kept: list[Finding] = []
    for found in findings:
        if found not in kept:
            kept.append(found)
    return kept


def installed_devices(root: Path, user: str) -> list[str]:
    try:
        path = root / SPECS.lstrip("/") / user / SPEC_NAME
        return device_names(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return []


def read_or_empty(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


# --- has anything changed? -------------------------------------------------------------------------


def signature(root: Path) -> str:
    """Changes whenever the specs might have to: settings, toolkit, driver, nodes, MIG.

    MIG instances and a driver that is loaded late show in /proc only, where nothing can be watched: a timer
    compares this instead of starting nvidia-ctk, which would wake the GPUs.
    """
    seen = hashlib.sha256()
    for name in (SETTINGS, "/usr/bin/nvidia-ctk", f"/lib/modules/{os.uname().release}/modules.dep", "/etc/ld.so.cache"):
        with contextlib.suppress(OSError):
            status = (root / name.lstrip("/")).stat()
            seen.update(f"{name} {status.st_ino} {status.st_size} {status.st_mtime_ns}\n".encode())
    seen.update(read_or_empty(root / "proc/driver/nvidia/version").encode())
    for node in sorted([*(root / "dev").glob("nvidia*"), *(root / "dev").glob("nvidia-caps/*")]):
        with contextlib.suppress(OSError):
            status = node.stat()
            seen.update(f"{node} {status.st_rdev} {status.st_mode}\n".encode())
    for top, folders, files in os.walk(root / "proc/driver/nvidia/capabilities"):
        folders.sort()
        for name in sorted(files):
            seen.update(f"{top}/{name} {read_or_empty(Path(top, name))}\n".encode())
    return seen.hexdigest()


def last_signature(root: Path) -> str:
    return read_or_empty(root / STATE.lstrip("/") / "cdi.signature").strip()


def keep_signature(root: Path, value: str) -> None:
    path = root / STATE.lstrip("/") / "cdi.signature"
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    path.write_text(f"{value}\n", encoding="utf-8")


@contextlib.contextmanager
def only_one(root: Path, seconds: float = 120) -> Iterator[None]:
    """One generation at a time: boot, path unit, timer and a play may come together."""
    path = root / STATE.lstrip("/") / "cdi.lock"
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    deadline = time.monotonic() + seconds
    with path.open("w", encoding="utf-8") as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise Trouble("CDI_GENERATION_FAILED", f"another run has held {path} for {seconds:.0f} s") from None
                time.sleep(0.1)
        yield


def refresh(first: Generator, users: Mapping[str, Gpus], wait: float = 0) -> Report:
    """Generate until nothing moves underneath: a package manager replaces files while this runs."""
    generator, earlier = first, Report()
    for _attempt in range(3):
        generator.prepare(wait)
        report = generator.generate(users)
        report.add_changes(earlier)
        if signature(first.root) == generator.seen:
            break
        generator, earlier = Generator(first.root, first.tools), report
    keep_signature(first.root, signature(first.root))
    return report


# --- revive ----------------------------------------------------------------------------------------

# An engine that could not give a container its GPU does not try again, whatever the restart policy says:
# - the spec was missing or stale, or a node was, when the engine or the container started
# - engines before 28.2 set up CDI only after they have restarted the containers (moby#49989), on every start
GAVE_UP = re.compile(
    r"CDI device injection failed"
    r"|failed to inject CDI devices"  # NVIDIA's runtime
    r'|could not select device driver "cdi"'
    r"|error (mounting|creating device nodes).*(/dev/nvidia|libcuda|libnvidia).*no such file or directory",
    re.DOTALL,
)


class Engine:
    """The few calls of the Docker API that this needs, over the user's socket."""

    def __init__(self, path: str, timeout: float = 30) -> None:
        self.path = path
        self.timeout = timeout

    def call(self, method: str, resource: str) -> Any:
        connection = UnixConnection(self.path, self.timeout)
        try:
            connection.request(method, resource, headers={"Content-Length": "0"} if method == "POST" else {})
            answer = connection.getresponse()
            body = answer.read()
        finally:
            connection.close()
        if answer.status >= 400:
            raise EngineError(answer.status, body)
        return json.loads(body) if body else None

    def given_up(self) -> list[dict[str, Any]]:
        """Containers that are to run by their policy and do not, for want of a GPU."""
        query = urllib.parse.urlencode({"all": "1", "filters": json.dumps({"status": ["exited", "created"]})})
        listed = self.call("GET", f"/containers/json?{query}")
        details = (self.call("GET", f"/containers/{each['Id']}/json") for each in listed)
        return [detail for detail in details if has_given_up(detail)]

    def start(self, container: str) -> None:
        self.call("POST", f"/containers/{container}/start")


class EngineError(Exception):
    def __init__(self, status: int, body: bytes) -> None:
        try:
            message = json.loads(body)["message"]
        except (ValueError, KeyError, TypeError):
            message = body.decode(errors="replace")
        super().__init__(f"{status}: {message}")


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self.socket_path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.socket_path)


def has_given_up(container: Mapping[str, Any]) -> bool:
    """Only by the engine's own word: a container stopped on purpose, or failed otherwise, has no such error."""
    state = container["State"]
    policy = (container["HostConfig"].get("RestartPolicy") or {}).get("Name")
    wants_gpu = bool(container["HostConfig"].get("DeviceRequests")) or by_runtime(container)
    return (
        wants_gpu
        and policy in ("always", "unless-stopped")
        and not state.get("Running")
        and state.get("Status") in ("exited", "created")
        and GAVE_UP.search(state.get("Error") or "") is not None
    )


def by_runtime(container: Mapping[str, Any]) -> bool:
    """Whether NVIDIA's runtime gives it its GPUs, by NVIDIA_VISIBLE_DEVICES."""
    return bool(container["HostConfig"].get("Runtime") == "nvidia")


def unresolved(container: Mapping[str, Any], devices: Sequence[str]) -> list[str]:
    """GPUs that the container asks for by CDI name and the user's spec does not have."""
    requests = container["HostConfig"].get("DeviceRequests") or []
    wanted = [name for request in requests for name in request.get("DeviceIDs") or []]
    if by_runtime(container) and not requests:
        environment = dict(entry.partition("=")[::2] for entry in container["Config"].get("Env") or [])
        visible = [name for name in environment.get("NVIDIA_VISIBLE_DEVICES", "").split(",") if name]
        wanted += [name if "=" in name else f"{KIND}={name}" for name in visible]
    return [n for n in wanted if n.startswith(f"{KIND}=") and n.split("=", 1)[1] not in devices]


def revive(engine: Engine, devices: Sequence[str], deadline: float) -> list[str]:
    """Start what had given up; says what was done, one line a container."""
    said = []
    for container in engine.given_up():
        name = str(container["Name"]).lstrip("/")
        absent = unresolved(container, devices)
        if time.monotonic() > deadline:
            said.append(f"{name}: no time left to start it; 'docker start {name}' does")
        elif absent:
            said.append(f"{name}: stays down, the spec has no {', '.join(absent)}")
        else:
            said.append(f"{name}: {start_again(engine, container['Id'], deadline)}")
    return said


def start_again(engine: Engine, container: str, deadline: float) -> str:
    """The engine takes a moment to read a spec that has just been renamed into place."""
    while True:
        try:
            engine.start(container)
            return "started again, its GPU can be resolved now"
        except EngineError as error:
            if "unresolvable" not in str(error) or time.monotonic() + 1 > deadline:
                return f"could not be started: {error}"
        except (OSError, http.client.HTTPException) as error:
            return f"could not be started: the engine does not answer: {error}"
        time.sleep(0.5)


def revive_own(user: str, uid: int, seconds: float) -> list[str]:
    """The engine of the user who runs this."""
    path = f"/run/user/{uid}/docker.sock"
    devices = installed_devices(Path("/"), user)
    if not devices or not Path(path).exists():
        return []
    try:
        return revive(Engine(path), devices, time.monotonic() + seconds)
    except (OSError, http.client.HTTPException, EngineError, ValueError, KeyError, TypeError) as error:
        return [f"the engine of {user} at {path} does not answer as it should: {error}"]


def revive_all(users: Sequence[str], seconds: float) -> list[str]:
    """Every user's engine that is up, each as that user: root does not talk to sockets that users own."""
    said = []
    for user in users:
        try:
            account = pwd.getpwnam(user)
        except KeyError:
            continue
        if not Path(f"/run/user/{account.pw_uid}/docker.sock").exists():
            continue
        try:
            done = subprocess.run(
                ["/usr/bin/python3", PROGRAM, "revive", "--timeout", str(seconds)],
                user=account.pw_uid,
                group=account.pw_gid,
                extra_groups=[],
                cwd="/",
                env={"PATH": TOOL_PATH, "LC_ALL": "C.UTF-8", "HOME": account.pw_dir},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=seconds + 30,
                check=False,
            )
            said += [f"{user}: {line}" for line in (done.stdout + done.stderr).splitlines()]
        except subprocess.TimeoutExpired:
            said.append(f"{user}: the engine did not answer in time")
    return said


# --- the program -----------------------------------------------------------------------------------


def say(text: str, level: int = 6) -> None:
    """One line; in the journal with its syslog level (3 error, 4 warning, 5 notice, 6 information)."""
    prefix = f"<{level}>" if "JOURNAL_STREAM" in os.environ else ""
    print(f"{prefix}{text}", flush=True)


def command_generate(arguments: argparse.Namespace) -> int:
    root = Path("/")
    try:
        users = load_settings(root)
        if arguments.check:
            report = Generator(root, check=True).generate(users)
        else:
            with only_one(root):
                if arguments.if_changed and signature(root) == last_signature(root):
                    return 0
                report = refresh(Generator(root), users, arguments.wait)
    except Trouble as trouble:
        say(str(trouble), 3)
        return EXIT_FINDINGS
    would = "would be " if arguments.check else ""
    for path in report.written:
        say(f"{path}: {would}written", 5)
    for path in report.removed:
        say(f"{path}: {would}removed", 5)
    for user, spec in sorted(report.specs.items()):
        kept = " (the spec from before)" if user in report.kept else ""
        say(f"{user}: {', '.join(spec['devices'])}{kept}")
    for found in report.findings:
        say(f"{found.code}: {found.evidence}", 3)
    if arguments.revive and not arguments.check:
        for line in revive_all(sorted(users), REVIVE_SECONDS):
            say(line, 5)
    if report.findings:
        return EXIT_FINDINGS
    return EXIT_DIFFERS if arguments.check and report.changed else 0


def command_revive(arguments: argparse.Namespace) -> int:
    if os.geteuid() == 0:
        try:
            lines = revive_all(sorted(load_settings(Path("/"))), arguments.timeout)
        except Trouble as trouble:
            say(str(trouble), 3)
            return EXIT_FINDINGS
    else:
        # This runs while the user's unit starts: an engine that hangs must not make that start fail.
        signal.alarm(int(arguments.timeout) + 20)
        account = pwd.getpwuid(os.geteuid())
        lines = revive_own(account.pw_name, account.pw_uid, arguments.timeout)
    for line in lines:
        say(line, 5)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="cdi.py", description="CDI specs for the rootless engines of this host")
    commands = parser.add_subparsers(dest="command", required=True)
    generate = commands.add_parser("generate", help=f"write the specs of the users in {SETTINGS}, where they differ")
    generate.add_argument("--check", action="store_true", help="write nothing; exit code 1 says that something differs")
    generate.add_argument("--wait", type=float, default=0, metavar="SECONDS", help="how long to wait for the driver")
    generate.add_argument("--if-changed", action="store_true", help="do nothing while all is as it was last time")
    generate.add_argument("--revive", action="store_true", help="afterwards start containers that had missed their GPU")
    generate.set_defaults(run=command_generate)
    again = commands.add_parser("revive", help="start containers that had missed their GPU (as root: of all users)")
    again.add_argument("--timeout", type=float, default=REVIVE_SECONDS, metavar="SECONDS", help="for one engine")
    again.set_defaults(run=command_revive)
    arguments = parser.parse_args(argv)
    return int(arguments.run(arguments))


if __name__ == "__main__":
    sys.exit(main())
