"""The order of the proof, with an engine that answers as it is told."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.gpulab.fleet.plugins.module_utils import _cdi_spec, _passthrough, _probe_image
from ansible_collections.gpulab.fleet.plugins.module_utils._docker import Ran
from ansible_collections.gpulab.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.gpulab.fleet.plugins.module_utils._passthrough import Passthrough, Settings, at_once

GPUS = ["GPU-00000000-0000-0000-0000-000000000000", "GPU-00000000-0000-0000-0000-000000000001"]
SPEED = {"bytes": 1, "pinned": True, "host_to_device_bytes_per_second": 20e9, "device_to_host_bytes_per_second": 10e9}


def probe_says(
    gpus: list[str], forbidden: list[dict[str, Any]], compute: bool, speed: dict[str, Any]
) -> dict[str, Any]:
    said: dict[str, Any] = {
        "probe": 1,
        "ok": True,
        "error": None,
        "library": True,
        "nodes": {},
        "control_nodes": {"/dev/nvidia-uvm": "ok"},
        "forbidden": {node["path"]: {"open": "ENOENT", "make": "EPERM"} for node in forbidden},
        "uuids": [gpu[4:] for gpu in gpus],
        "steps": [{"name": "kernel", "ok": True, "seconds": 0.1}],
    }
    if compute:
        said["device"] = {"name": "A100", "compute_capability": "8.0"}
        said["copy"] = {"bytes": 4}
        said["kernel"] = {"words": 4, "wrong": 0}
        said["bandwidth"] = speed
    return said


class Engine:
    """Containers that see what they were given."""

    def __init__(self) -> None:
        self.info = {"ServerVersion": "28.5.2", "CDISpecDirs": ["/specs"], "Driver": "overlay2"}
        self.imported = 0
        self.image: dict[str, Any] | None = {"Id": "sha256:1", "RepoTags": ["gpulab/probe:x"], "Size": 11}
        self.guards = 0
        self.runs: list[list[str]] = []
        self.refuse: dict[str, str] = {}
        self.slow_runs = 0

    def sweep(self) -> int:
        return 0

    def guarded(self) -> Any:
        engine = self

        class Guard:
            def __enter__(self) -> None:
                engine.guards += 1

            def __exit__(self, *_args: object) -> None:
                engine.guards -= 1

        return Guard()

    def find_image(self, _made_from: str) -> dict[str, Any] | None:
        return self.image

    def import_image(self, _built: Any, _made_from: str) -> dict[str, Any]:
        self.imported += 1
        self.image = {"Id": "sha256:2", "RepoTags": ["gpulab/probe:y"], "Size": 11}
        return self.image

    def remove_image(self, _image: dict[str, Any]) -> None:
        self.image = None

    def run(self, _image: str, command: list[str], devices: list[str], _files: dict[str, str]) -> Ran:
        assert self.guards == 1
        self.runs.append(devices)
        name = devices[0].split("=")[1] if devices else "none"
        if name in self.refuse:
            return Ran(refused=self.refuse[name])
        request = json.loads(command[-1])
        gpus = GPUS if name == "all" else [name] if devices else []
        speed = SPEED
        if self.slow_runs and "gpu" in request:
            self.slow_runs -= 1
            speed = {**SPEED, "host_to_device_bytes_per_second": 1e9}
        said = probe_says(gpus, request["forbidden"], "gpu" in request, speed)
        return Ran(output=json.dumps(said) + "\n", seconds=0.5)


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Engine:
    made = Engine()
    nodes = ["/dev/nvidia0", "/dev/nvidia1"]
    devices = {GPUS[0]: nodes[:1], GPUS[1]: nodes[1:], "all": nodes}
    monkeypatch.setattr(_passthrough, "socket_of", lambda user: (None, f"/run/{user}.sock"))
    monkeypatch.setattr(_passthrough, "load_sdk", lambda _path: None)
    monkeypatch.setattr(_passthrough, "Engine", lambda *_args: made)
    monkeypatch.setattr(_cdi_spec, "read", lambda _folders: (["/specs/nvidia.json"], devices))
    monkeypatch.setattr(_passthrough, "host_gpu_nodes", lambda: nodes)
    monkeypatch.setattr(_passthrough, "nodes_by_uuid", dict)
    monkeypatch.setattr(_passthrough, "node_number", lambda path: {"path": path, "major": 1, "minor": 3})
    monkeypatch.setattr(_probe_image, "build", lambda _source: None)
    monkeypatch.setattr(Passthrough, "on_host", lambda _self, gpu: probe_says([gpu], [], True, SPEED))
    return made


def prove(gpus: list[str] | None = None) -> _passthrough.Answer:
    return Passthrough(Settings("ann", GPUS if gpus is None else gpus, "/nowhere", 0.5, 30)).run()


def verdicts(answer: _passthrough.Answer) -> list[tuple[str, str | None, str]]:
    return [(step["name"], step["gpu"] and step["gpu"][-1], step["verdict"]) for step in answer.judged.steps]


def codes(answer: _passthrough.Answer) -> set[str]:
    return {found["code"] for found in answer.judged.findings}


def test_everything_works(engine: Engine) -> None:
    answer = prove()
    per_gpu = [(name, number, "pass") for number in "01" for name in ("visible", "isolated", "compute", "bandwidth")]
    first = [(name, None, "pass") for name in ("engine", "spec", "image")]
    assert verdicts(answer) == [*first, *per_gpu, ("none", None, "pass"), ("all", None, "pass")]
    assert answer.judged.findings == []
    assert sorted(engine.runs) == sorted([[], ["nvidia.com/gpu=all"], *([f"nvidia.com/gpu={gpu}"] for gpu in GPUS)])
    assert answer.image["built"] is False
    assert engine.guards == 0


def test_without_gpus_the_control_alone_is_run(engine: Engine) -> None:
    assert [name for name, _gpu, _verdict in verdicts(prove([]))] == ["engine", "image", "none"]
    assert engine.runs == [[]]


def test_a_gpu_that_no_container_gets_does_not_hide_the_other(engine: Engine) -> None:
    engine.refuse = {GPUS[1]: "CDI device injection failed: unresolvable CDI devices nvidia.com/gpu=x"}
    answer = prove()
    found = {(name, gpu): verdict for name, gpu, verdict in verdicts(answer)}
    assert found["compute", "0"] == "pass"
    assert (found["visible", "1"], found["compute", "1"], found["bandwidth", "1"]) == ("fail", "unknown", "unknown")
    assert codes(answer) == {"PROOF_CDI_UNRESOLVED"}


def test_unknown_gpu(engine: Engine) -> None:
    answer = prove([*GPUS, "GPU-elsewhere"])
    assert codes(answer) == {"GPU_UNKNOWN"}
    assert GPUS[0] in answer.judged.findings[0]["remedy"]
    assert engine.runs == []
    assert {verdict for name, _gpu, verdict in verdicts(answer) if name in ("visible", "compute", "none")} == {
        "unknown"
    }


@pytest.mark.parametrize(
    ("folders", "files", "code"),
    [([], ["/specs/nvidia.json"], "PROOF_CDI_OFF"), (["/specs"], [], "PROOF_SPEC_MISSING")],
)
def test_no_spec(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, folders: list[str], files: list[str], code: str
) -> None:
    engine.info["CDISpecDirs"] = folders
    monkeypatch.setattr(_cdi_spec, "read", lambda _folders: (files, {}))
    answer = prove()
    assert codes(answer) == {code}
    assert ("spec", None, "fail") in verdicts(answer)


def test_no_engine(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_args: object) -> Engine:
        raise FleetError("PROOF_ENGINE_ABSENT", "/run/ann.sock: No such file or directory")

    monkeypatch.setattr(_passthrough, "Engine", refuse)
    answer = prove()
    assert codes(answer) == {"PROOF_ENGINE_ABSENT"}
    assert "/run/ann.sock" in answer.judged.findings[0]["cause"]
    assert verdicts(answer)[0] == ("engine", None, "fail")
    assert all(verdict == "unknown" for _name, _gpu, verdict in verdicts(answer)[1:])


def test_the_image_is_made_when_it_is_not_there(engine: Engine) -> None:
    engine.image = None
    assert prove().image["built"] is True
    assert engine.imported == 1


def test_a_broken_image_is_made_anew_once(engine: Engine) -> None:
    engine.refuse = {"none": "exec /usr/bin/python3.11: exec format error"}
    answer = prove()
    assert engine.imported == 1
    assert answer.image["built"] is True
    assert codes(answer) == {"PROOF_CONTAINER_FAILED"}


@pytest.mark.parametrize(
    ("ran", "suspect"),
    [
        (Ran(errors="RuntimeError: Bad magic number in .pyc file"), True),
        (Ran(), True),
        (Ran(refused="exec /usr/bin/python3.11: exec format error"), True),
        (Ran(refused="no space left on device"), False),
        (Ran(timed_out=True), False),
        (Ran(output='{"probe": 1}'), False),
    ],
)
def test_which_end_puts_the_image_in_doubt(ran: Ran, suspect: bool) -> None:
    assert _passthrough.image_is_suspect(ran) is suspect


@pytest.mark.parametrize(("slow_runs", "verdict"), [(1, "pass"), (5, "pass"), (99, "fail")])
def test_slow_copies_are_looked_at_again(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, slow_runs: int, verdict: str
) -> None:
    monkeypatch.setattr(_passthrough, "SECOND_LOOKS", (0.0,) * len(_passthrough.SECOND_LOOKS))
    engine.slow_runs = slow_runs
    answer = prove(GPUS[:1])
    assert ("bandwidth", "0", verdict) in verdicts(answer)
    assert len(engine.runs) == 3 + min(slow_runs, 5)


def test_at_once_gives_up_at_the_deadline() -> None:
    started = time.monotonic()
    done = at_once({"quick": lambda: 1, "slow": lambda: time.sleep(30)}, 2, started + 0.3)
    assert done == {"quick": 1}
    assert time.monotonic() - started < 5


def test_at_once_hands_on_errors() -> None:
    def fail() -> None:
        raise FleetError("PROOF_TIMEOUT", "x")

    with pytest.raises(FleetError):
        at_once({"one": fail}, 2, time.monotonic() + 5)


def test_nodes_by_uuid(tmp_path: Path) -> None:
    for bus, uuid, minor in (("0000:07:00.0", GPUS[0], "1"), ("0000:0f:00.0", GPUS[1], "0"), ("0000:10:00.0", "", "x")):
        folder = tmp_path / "proc/driver/nvidia/gpus" / bus
        folder.mkdir(parents=True)
        (folder / "information").write_text(f"Model: \t A100\nGPU UUID: \t {uuid}\nDevice Minor: \t {minor}\n")
    assert _passthrough.nodes_by_uuid(tmp_path) == {GPUS[0]: "/dev/nvidia1", GPUS[1]: "/dev/nvidia0"}
