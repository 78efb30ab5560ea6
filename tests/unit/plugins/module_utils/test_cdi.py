"""Specs that are made, checked, installed, kept and removed; containers that are started again, and not."""

from __future__ import annotations

import json
import os
import re
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.gpulab.fleet.plugins.module_utils import _cdi
from ansible_collections.gpulab.fleet.plugins.module_utils._catalogue import catalogue

from .fake_toolkit import LIBCUDA, SOCKET, UUIDS, Host, device, mount, node, two_gpus


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path / "root")


def generate(host: Host, users: dict[str, Any], check: bool = False) -> _cdi.Report:
    generator = _cdi.Generator(host.root, host.tools, check)
    generator.prepare()
    return generator.generate(_cdi.parse_users(users))


def codes(report: _cdi.Report) -> list[str]:
    return [found.code for found in report.findings]


# --- settings --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("users", "parsed"),
    [
        ({}, {}),
        ({"mara": "all", "bo": "none", "li": [], "jo": None}, {"mara": "all"}),
        ({"mara": [0, UUIDS[1]]}, {"mara": ["0", UUIDS[1]]}),
    ],
)
def test_parse_users(users: dict[str, Any], parsed: dict[str, Any]) -> None:
    assert _cdi.parse_users(users) == parsed


@pytest.mark.parametrize(
    "users",
    ["mara", {"mara": "both"}, {"mara": 1}, {"mara": [True]}, {"../etc": "all"}, {".hidden": "all"}, {"a/b": "all"}],
)
def test_settings_that_are_refused(users: Any) -> None:
    with pytest.raises(_cdi.Trouble) as raised:
        _cdi.parse_users(users)
    assert raised.value.finding.code == "CDI_SETTINGS_INVALID"


@pytest.mark.parametrize("text", [None, "{", "[]", '{"users": []}'])
def test_settings_file(host: Host, text: str | None) -> None:
    if text is not None:
        host.file("/etc/gpulab/cdi.json", text)
    with pytest.raises(_cdi.Trouble):
        _cdi.load_settings(host.root)


# --- generate --------------------------------------------------------------------------------------


def test_a_user_with_all(host: Host) -> None:
    report = generate(host, {"mara": "all"})
    path = host.spec_file("mara")
    assert report.written == [str(path)]
    assert report.findings == []
    assert report.specs["mara"]["devices"] == ["0", "1", *UUIDS, "all"]
    assert path.stat().st_mode & 0o7777 == 0o644
    assert [p.name for p in path.parent.iterdir()] == ["nvidia.json"]


def test_a_jetson_is_described_from_the_files_of_its_system(host: Host) -> None:
    """As nvidia-ctk's csv mode does it: one GPU, no uvm node, nothing to name it by."""
    edits = {"deviceNodes": [{"path": "/dev/nvhost-gpu"}], "mounts": [mount(LIBCUDA)]}
    names = [{"name": name, "containerEdits": edits} for name in ("0", "all")]
    host.describe({"cdiVersion": "0.5.0", "kind": "nvidia.com/gpu", "devices": names, "containerEdits": {}})
    host.file("/etc/nv_tegra_release", "# R36 (release)")
    host.file("/dev/nvhost-gpu", mode=0o666)
    for gone in ("nvidia0", "nvidia1", "nvidia-uvm", "nvidia-uvm-tools", "nvidiactl"):
        (host.root / "dev" / gone).unlink()
    for gpus in ("all", [0]):
        report = generate(host, {"mara": gpus})
        assert report.findings == []
        assert report.specs["mara"]["devices"] == ["0", "all"]
    assert host.calls
    assert all("--mode csv" in call and "--device-id" not in call for call in host.calls)


def test_a_second_run_writes_nothing(host: Host) -> None:
    users = {"mara": "all", "bo": [1]}
    generate(host, users)
    before = {user: host.spec_file(user).stat().st_mtime_ns for user in users}
    report = generate(host, users)
    assert not report.changed and report.diffs == []
    assert {user: host.spec_file(user).stat().st_mtime_ns for user in users} == before


@pytest.mark.parametrize("gpus", [[1], ["1"], [UUIDS[1]], [1, UUIDS[1]]])
def test_a_restricted_user(host: Host, gpus: list[Any]) -> None:
    """Exactly the assigned GPU; its index stays the host's, and `all` means all that are assigned."""
    report = generate(host, {"bo": gpus})
    assert report.specs["bo"]["devices"] == ["1", UUIDS[1], "all"]
    for each in host.spec("bo")["devices"]:
        assert [n["path"] for n in each["containerEdits"]["deviceNodes"]] == ["/dev/nvidia1"]


def test_one_call_for_each_distinct_set(host: Host) -> None:
    generate(host, {"a": "all", "b": "all", "c": [1], "d": [UUIDS[1]], "e": [1, 0], "f": [0, 1]})
    assert [line.count("--device-id") for line in host.calls] == [0, 1, 2]


def test_check_writes_nothing(host: Host) -> None:
    report = generate(host, {"mara": "all"}, check=True)
    assert report.written == [str(host.spec_file("mara"))]
    assert report.diffs[0]["before"] == "" and UUIDS[0] in report.diffs[0]["after"]
    assert not (host.root / "var").exists()


def test_users_no_longer_named_lose_their_specs(host: Host) -> None:
    generate(host, {"mara": "all", "bo": "all"})
    check = generate(host, {"mara": "all"}, check=True)
    assert check.removed == [str(host.spec_file("bo").parent)] and host.spec_file("bo").exists()
    report = generate(host, {"mara": "all", "bo": "none"})
    assert report.removed == check.removed
    assert not host.spec_file("bo").parent.exists() and host.spec_file("mara").exists()


def test_the_last_user_is_removed_without_asking_the_toolkit(host: Host) -> None:
    generate(host, {"mara": "all"})
    host.fail("Driver Not Loaded")
    report = generate(host, {})
    assert report.changed and report.findings == []


def test_sockets_of_services_are_left_out(host: Host) -> None:
    generate(host, {"mara": "all"})
    paths = [m["hostPath"] for m in host.spec("mara")["containerEdits"]["mounts"]]
    assert paths == [LIBCUDA] and SOCKET not in paths


def test_a_changed_driver_replaces_the_spec_by_a_rename(host: Host) -> None:
    generate(host, {"mara": "all"})
    inode = host.spec_file("mara").stat().st_ino
    spec = two_gpus()
    spec["containerEdits"]["mounts"] = [mount(LIBCUDA.replace("550.163.01", "580.95.05"))]
    host.describe(spec)
    host.file(LIBCUDA.replace("550.163.01", "580.95.05"))
    report = generate(host, {"mara": "all"})
    assert report.changed
    assert "580.95.05" in report.diffs[0]["after"]
    assert host.spec_file("mara").stat().st_ino != inode


def test_the_engine_never_sees_a_spec_that_it_cannot_read(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file has its final mode before it gets a spec's name, and is renamed within its folder."""
    renamed: list[tuple[str, int, bool]] = []
    rename = Path.rename

    def watch(self: Path, target: Path) -> Path:
        renamed.append((self.suffix, self.stat().st_mode & 0o7777, self.parent == target.parent))
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", watch)
    old = os.umask(0o077)
    try:
        generate(host, {"mara": "all"})
    finally:
        os.umask(old)
    assert renamed == [(".tmp", 0o644, True)]
    for folder in (host.spec_file("mara").parent, host.spec_file("mara").parent.parent):
        assert folder.stat().st_mode & 0o7777 == 0o755


@pytest.mark.parametrize("damage", ["text", "mode", "link"])
def test_a_spec_that_was_tampered_with_is_put_right(host: Host, damage: str) -> None:
    generate(host, {"mara": "all"})
    path = host.spec_file("mara")
    good = path.read_text()
    if damage == "text":
        path.write_text(good.replace("nvidia1", "nvidia7"))
    elif damage == "mode":
        path.chmod(0o600)
    else:
        path.rename(path.with_suffix(".old"))
        path.symlink_to(path.with_suffix(".old"))
    assert generate(host, {"mara": "all"}).changed
    assert path.read_text() == good and not path.is_symlink() and path.stat().st_mode & 0o7777 == 0o644


@pytest.mark.parametrize("folder", ["var/lib/gpulab", "var/lib/gpulab/cdi", "var/lib/gpulab/cdi/mara"])
def test_a_folder_that_somebody_closed_is_opened_again(host: Host, folder: str) -> None:
    generate(host, {"mara": "all"})
    (host.root / folder).chmod(0o700)
    assert generate(host, {"mara": "all"}, check=True).changed
    assert generate(host, {"mara": "all"}).changed
    assert (host.root / folder).stat().st_mode & 0o777 == 0o755
    assert not generate(host, {"mara": "all"}).changed


def test_what_a_killed_run_left_is_no_obstacle(host: Host) -> None:
    generate(host, {"mara": "all"})
    path = host.spec_file("mara")
    path.with_name(".nvidia.json.tmp").write_text("{")
    path.write_text("{")
    assert generate(host, {"mara": "all"}).changed
    assert [p.name for p in path.parent.iterdir()] == ["nvidia.json"]


# --- what is wrong ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ("failed to initialize NVML: Driver/library version mismatch", "NVML_LIBRARY_MISMATCH"),
        ("failed to initialize NVML: ERROR_LIBRARY_NOT_FOUND", "NVML_LIBRARY_NOT_FOUND"),
        ("failed to initialize NVML: Driver Not Loaded", "DRIVER_NOT_LOADED"),
        ('invalid CDI Spec: failed add device \\"all\\": invalid device, empty device edits', "GPU_NODES_MISSING"),
        ("invalid CDI Spec: invalid spec, no devices", "GPU_NODES_MISSING"),
        ("failed to initialize NVML: GPU is lost", "CDI_GENERATION_FAILED"),
    ],
)
def test_a_failed_generation_keeps_the_old_spec_and_says_why(host: Host, message: str, code: str) -> None:
    generate(host, {"mara": "all"})
    before = host.spec_file("mara").read_text()
    host.fail(message)
    report = generate(host, {"mara": "all", "bo": [1]})
    assert codes(report) == [code]
    assert message.replace('\\"', '"') in report.findings[0].evidence
    assert not report.changed and host.spec_file("mara").read_text() == before
    assert list(report.specs) == report.kept == ["mara"], "bo has no spec from before"


def test_without_the_toolkit(host: Host) -> None:
    (host.bin / "nvidia-ctk").unlink()
    host.tools.path = str(host.bin)
    assert codes(generate(host, {"mara": "all"})) == ["TOOLKIT_MISSING"]


def spec_without(path: str) -> dict[str, Any]:
    spec = two_gpus()
    edits = spec["containerEdits"]
    edits["deviceNodes"] = [n for n in edits["deviceNodes"] if n["path"] != path]
    edits["mounts"] = [m for m in edits["mounts"] if m["hostPath"] != path]
    return spec


@pytest.mark.parametrize(
    ("spec", "code", "seen"),
    [
        (spec_without("/dev/nvidia-uvm"), "UVM_MISSING", "/dev/nvidia-uvm"),
        (spec_without(LIBCUDA), "CDI_SPEC_INCOMPLETE", "libcuda"),
        ({**two_gpus(), "devices": []}, "GPU_NODES_MISSING", "no device"),
    ],
)
def test_holes_that_the_toolkit_passes_over(host: Host, spec: dict[str, Any], code: str, seen: str) -> None:
    generate(host, {"mara": "all"})
    before = host.spec_file("mara").read_text()
    host.describe(spec)
    report = generate(host, {"mara": "all", "bo": "all"})
    assert codes(report) == [code], "said once, not once a user"
    assert seen in report.findings[0].evidence
    assert host.spec_file("mara").read_text() == before and not host.spec_file("bo").exists()


@pytest.mark.parametrize("path", ["/dev/nvidia1", LIBCUDA, "/usr/bin/nvidia-cdi-hook"])
def test_what_is_named_must_be_there(host: Host, path: str) -> None:
    (host.root / path.lstrip("/")).unlink()
    report = generate(host, {"mara": "all"})
    assert codes(report) == ["CDI_SPEC_INCOMPLETE"] and path in report.findings[0].evidence
    assert not report.changed


def test_a_hole_in_one_gpu_is_no_matter_for_a_user_of_the_other(host: Host) -> None:
    (host.root / "dev/nvidia1").unlink()
    report = generate(host, {"mara": "all", "bo": [0]})
    assert codes(report) == ["CDI_SPEC_INCOMPLETE"] and list(report.specs) == ["bo"]


def test_closed_nodes_are_said_and_served(host: Host) -> None:
    (host.root / "dev/nvidia0").chmod(0o660)
    report = generate(host, {"mara": "all", "bo": [1]})
    assert codes(report) == ["GPU_NODES_RESTRICTED"] and report.findings[0].evidence == "/dev/nvidia0"
    assert list(report.specs) == ["bo", "mara"] and report.changed


def test_an_unknown_gpu_does_not_take_the_others_away(host: Host) -> None:
    report = generate(host, {"bo": [1, "GPU-elsewhere"], "li": [7]})
    assert codes(report) == ["GPU_UNKNOWN", "GPU_UNKNOWN"]
    assert report.findings[0].data["user"] == "bo" and UUIDS[0] in report.findings[0].data["known"]
    assert report.specs["bo"]["devices"] == ["1", UUIDS[1], "all"]
    assert "li" not in report.specs


@pytest.mark.parametrize(
    ("name", "text", "conflict"),
    [
        ("other.yaml", "cdiVersion: 0.5.0\nkind: nvidia.com/gpu\n", True),
        ("nvidia.yaml", 'kind: "nvidia.com/gpu"\n', True),
        ("other.json", '{"cdiVersion": "0.5.0", "kind":"nvidia.com/gpu"}', True),
        ("other.yaml", "kind: nvidia.com/gpu.noncoherent\n", False),
        ("other.json", '{"kind": "vendor.com/net"}', False),
        ("notes.txt", "kind: nvidia.com/gpu\n", False),
    ],
)
def test_other_specs_in_the_folder(host: Host, name: str, text: str, conflict: bool) -> None:
    generate(host, {"mara": "all"})
    other = host.spec_file("mara").with_name(name)
    other.write_text(text)
    report = generate(host, {"mara": "all"})
    assert codes(report) == (["CDI_SPEC_CONFLICT"] if conflict else [])
    assert other.exists(), "what somebody else put there is named, not removed"


def test_mig_instances_are_known_by_uuid_and_by_index() -> None:
    spec = two_gpus()
    spec["devices"] = [
        device("0:0", "/dev/nvidia0", "/dev/nvidia-caps/nvidia-cap21"),
        device("1", "/dev/nvidia1"),
        device(UUIDS[1], "/dev/nvidia1"),
        device("MIG-1234", "/dev/nvidia0", "/dev/nvidia-caps/nvidia-cap21"),
        device("all", "/dev/nvidia0", "/dev/nvidia1"),
    ]
    assert _cdi.known_gpus(spec) == {"0:0": "MIG-1234", "1": UUIDS[1], UUIDS[1]: UUIDS[1], "MIG-1234": "MIG-1234"}


def test_every_code_is_in_the_catalogue() -> None:
    source = Path(_cdi.__file__).read_text()
    used = set(re.findall(r'(?:Finding|Trouble)\(\s*"([A-Z_]+)"', source)) | {code for _pattern, code in _cdi.FAILURES}
    assert len(used) > 8
    assert used <= set(catalogue())


# --- driver ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("maker", "script"),
    [
        ("nvidia-modprobe", '[ "$*" = "-c0 -u" ] && : >{node}'),
        ("modprobe", '[ "$*" = "nvidia-uvm" ] && : >{node}'),
    ],
)
def test_uvm_is_made_before_the_gpus_are_described(host: Host, maker: str, script: str) -> None:
    node_path = host.root / "dev/nvidia-uvm"
    node_path.unlink()
    host.tools.path = f"{host.bin}:/bin" if maker == "nvidia-modprobe" else str(host.bin)
    host.script(maker, "#!/bin/sh\n" + script.format(node=node_path) + "\n")
    report = generate(host, {"mara": "all"}, check=True)
    assert codes(report) == ["CDI_SPEC_INCOMPLETE"], "check mode makes no node"
    generator = _cdi.Generator(host.root, host.tools)
    generator.prepare()
    assert node_path.exists()


def test_waiting_for_the_driver_is_bounded(host: Host) -> None:
    (host.root / "dev/nvidiactl").unlink()
    started = time.monotonic()
    _cdi.wait_for_driver(host.root, 30)
    assert time.monotonic() - started < 1, "this kernel has no NVIDIA module: nothing to wait for"
    host.file(f"/lib/modules/{os.uname().release}/modules.dep", "kernel/drivers/video/nvidia.ko:\n")
    _cdi.wait_for_driver(host.root, 0.6)
    assert 0.5 < time.monotonic() - started < 5
    threading.Timer(0.4, lambda: host.file("/proc/driver/nvidia/version")).start()
    started = time.monotonic()
    _cdi.wait_for_driver(host.root, 30)
    assert time.monotonic() - started < 5


@pytest.mark.parametrize(
    "change",
    [
        lambda h: h.file("/proc/driver/nvidia/version", "580"),
        lambda h: h.file("/proc/driver/nvidia/capabilities/gpu0/mig/gi1/access", "DeviceFileMinor: 12"),
        lambda h: h.file("/dev/nvidia2"),
        lambda h: h.file("/etc/gpulab/cdi.json", "{}"),
        lambda h: h.file("/usr/bin/nvidia-ctk", "new"),
        lambda h: (h.root / "dev/nvidia0").chmod(0o660),
    ],
)
def test_the_signature_sees(host: Host, change: Callable[[Host], Any]) -> None:
    before = _cdi.signature(host.root)
    assert _cdi.signature(host.root) == before
    change(host)
    assert _cdi.signature(host.root) != before


def test_refresh_goes_on_until_nothing_moves(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """A library that a package manager replaces during the first pass is in the spec of the second."""
    users = _cdi.parse_users({"mara": "all"})
    passes = []

    def generate_and_move(self: _cdi.Generator, named: Any) -> _cdi.Report:
        passes.append(1)
        if len(passes) == 1:
            host.file("/etc/ld.so.cache", "new")
        return original(self, named)

    original = _cdi.Generator.generate
    monkeypatch.setattr(_cdi.Generator, "generate", generate_and_move)
    report = _cdi.refresh(_cdi.Generator(host.root, host.tools), users)
    assert len(passes) == 2
    assert report.written == [str(host.spec_file("mara"))], "what the first pass wrote is not forgotten"
    assert _cdi.last_signature(host.root) == _cdi.signature(host.root)


# --- revive ----------------------------------------------------------------------------------------

INJECTION = "CDI device injection failed: unresolvable CDI devices nvidia.com/gpu=0"
NO_DRIVER = 'could not select device driver "cdi" with capabilities: []'
STALE = (
    "failed to create task for container: failed to create shim task: OCI runtime create failed: runc create failed: "
    'unable to start container process: error during container init: error mounting "/usr/lib/libcuda.so.550.163.01" '
    'to rootfs at "/usr/lib": stat /usr/lib/libcuda.so.550.163.01: no such file or directory'
)
NODE = (
    "error during container init: error creating device nodes: mount /dev/nvidia1:/merged/dev/nvidia1 "
    "(via /proc/self/fd/6), flags: 0x1000: no such file or directory"
)


BY_RUNTIME = (
    "failed to create task for container: failed to create shim task: OCI runtime create failed: could not apply "
    "required modification to OCI specification: error modifying OCI spec: failed to inject CDI devices: "
    "unresolvable CDI devices nvidia.com/gpu=0"
)


def container(
    error: str = INJECTION, policy: str = "unless-stopped", status: str = "exited", gpu: str | None = "nvidia.com/gpu=0"
) -> dict[str, Any]:
    requests = [{"Driver": "cdi", "Count": 0, "DeviceIDs": [gpu]}] if gpu else None
    return {
        "Id": "c1",
        "Name": "/trainer",
        "State": {"Status": status, "Running": status == "running", "ExitCode": 128, "Error": error},
        "HostConfig": {"RestartPolicy": {"Name": policy}, "DeviceRequests": requests},
    }


def by_runtime(visible: str) -> dict[str, Any]:
    """A container of `--runtime=nvidia`, as the engine describes it; its image sets the variable too."""
    made = container(BY_RUNTIME, gpu=None)
    made["HostConfig"]["Runtime"] = "nvidia"
    made["Config"] = {"Env": ["PATH=/bin", f"NVIDIA_VISIBLE_DEVICES={visible}"]}
    return made


@pytest.mark.parametrize(
    ("visible", "absent"),
    [
        ("all", []),
        ("0,1", ["nvidia.com/gpu=1"]),
        ("GPU-b", ["nvidia.com/gpu=GPU-b"]),
        ("nvidia.com/gpu=1", ["nvidia.com/gpu=1"]),
        ("", []),
    ],
)
def test_given_up_by_nvidias_runtime(visible: str, absent: list[str]) -> None:
    assert _cdi.has_given_up(by_runtime(visible))
    assert _cdi.unresolved(by_runtime(visible), ["0", "GPU-a", "all"]) == absent


@pytest.mark.parametrize("error", [INJECTION, NO_DRIVER, STALE, NODE])
@pytest.mark.parametrize("policy", ["always", "unless-stopped"])
@pytest.mark.parametrize("status", ["exited", "created"])
def test_given_up(error: str, policy: str, status: str) -> None:
    assert _cdi.has_given_up(container(error, policy, status))


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(container(error=""), id="stopped on purpose"),
        pytest.param(container(error="", status="created"), id="created and never started"),
        pytest.param(container(policy="no"), id="no restart policy"),
        pytest.param(container(policy="on-failure"), id="on-failure"),
        pytest.param(container(gpu=None), id="asked for no GPU"),
        pytest.param(container(status="running"), id="running"),
        pytest.param(container(error='exec: "python": executable file not found in $PATH'), id="another error"),
        pytest.param(container(error=STALE.replace("libcuda", "libfoo")), id="another file"),
    ],
)
def test_not_given_up(other: dict[str, Any]) -> None:
    assert not _cdi.has_given_up(other)


class FakeEngine(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """Answers the three calls; `refuse` starts fail before one works."""

    daemon_threads = True

    def __init__(self, path: Path, containers: list[dict[str, Any]], refuse: int = 0) -> None:
        self.containers = {c["Id"]: c for c in containers}
        self.refuse = refuse
        self.started: list[str] = []
        super().__init__(str(path), Answer)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that has gone away is no matter here."""


class Answer(BaseHTTPRequestHandler):
    server: FakeEngine

    def reply(self, status: int, body: Any = None) -> None:
        data = b"" if body is None else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self) -> None:
        if self.path.startswith("/containers/json?"):
            self.reply(200, [{"Id": key} for key in self.server.containers])
        else:
            self.reply(200, self.server.containers[self.path.split("/")[2]])

    def do_POST(self) -> None:
        if self.server.refuse:
            self.server.refuse -= 1
            self.reply(500, {"message": INJECTION})
            return
        self.server.started.append(self.path.split("/")[2])
        self.reply(204)

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def address_string(self) -> str:
        return "user"


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Callable[..., FakeEngine]]:
    servers: list[FakeEngine] = []

    def start(*containers: dict[str, Any], refuse: int = 0) -> FakeEngine:
        server = FakeEngine(tmp_path / "docker.sock", list(containers), refuse)
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def revive(tmp_path: Path, devices: list[str], seconds: float = 5) -> list[str]:
    return _cdi.revive(_cdi.Engine(str(tmp_path / "docker.sock"), 5), devices, time.monotonic() + seconds)


def test_only_what_gave_up_is_started(engine: Callable[..., FakeEngine], tmp_path: Path) -> None:
    stopped = {**container(error=""), "Id": "c2"}
    server = engine(container(), stopped, {**container(policy="no"), "Id": "c3"})
    assert revive(tmp_path, ["0", "all"]) == ["trainer: started again, its GPU can be resolved now"]
    assert server.started == ["c1"]


def test_a_gpu_that_is_not_in_the_spec_is_left_alone(engine: Callable[..., FakeEngine], tmp_path: Path) -> None:
    server = engine(container(gpu="nvidia.com/gpu=7"))
    assert revive(tmp_path, ["0", "all"]) == ["trainer: stays down, the spec has no nvidia.com/gpu=7"]
    assert server.started == []


def test_the_engine_may_need_a_moment(engine: Callable[..., FakeEngine], tmp_path: Path) -> None:
    server = engine(container(), refuse=1)
    assert "started again" in revive(tmp_path, ["0"])[0]
    assert server.started == ["c1"]


def test_when_time_is_up_the_rest_is_named(engine: Callable[..., FakeEngine], tmp_path: Path) -> None:
    server = engine(container(), {**container(), "Id": "c2", "Name": "/other"})
    lines = revive(tmp_path, ["0"], seconds=-1)
    assert server.started == [] and len(lines) == 2 and all("docker start" in line for line in lines)


def test_but_not_for_ever(engine: Callable[..., FakeEngine], tmp_path: Path) -> None:
    server = engine(container(), refuse=1000)
    started = time.monotonic()
    assert INJECTION in revive(tmp_path, ["0"], seconds=2)[0]
    assert time.monotonic() - started < 4 and server.started == []


# --- the program -----------------------------------------------------------------------------------


def test_it_runs_alone_with_the_systems_python(tmp_path: Path) -> None:
    """A copy outside the collection, with no package of ours or of others on the path."""
    program = tmp_path / "cdi.py"
    program.write_text(Path(_cdi.__file__).read_text())
    done = subprocess.run(
        ["/usr/bin/python3", "-I", "-S", str(program), "generate", "--help"], capture_output=True, text=True, check=True
    )
    assert "--if-changed" in done.stdout
    imports = subprocess.run(
        [sys.executable, "-I", "-c", f"import sys; sys.path=[p for p in sys.path if 'site-packages' not in p]; "
         f"exec(compile(open({str(program)!r}).read().split('if __name__')[0], 'cdi', 'exec'))"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert imports.returncode == 0, imports.stderr


def test_nodes_may_name_their_host_path(host: Host) -> None:
    spec = two_gpus()
    spec["containerEdits"]["deviceNodes"][0] = {**node("/dev/nvidia-uvm"), "hostPath": "/dev/nvidia-uvm"}
    host.describe(spec)
    assert generate(host, {"mara": "all"}).findings == []
