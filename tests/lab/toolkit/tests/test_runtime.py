"""nvidia-container-runtime: NVIDIA_VISIBLE_DEVICES of a bundle becomes devices, mounts and hooks."""

import json
from pathlib import Path
from typing import Any

import pytest

from .conftest import Box, Make

CONFIG = "etc/nvidia-container-runtime/config.toml"


def create(box: Box, tmp_path: Path, visible: str | None, **env: str) -> tuple[dict[str, Any], list[str], str]:
    """config.json afterwards, what runc was called with (nothing: it was not), and the runtime's log file."""
    bundle, tools, called = tmp_path / "bundle", tmp_path / "tools", tmp_path / "called"
    bundle.mkdir()
    tools.mkdir()
    (tools / "runc").write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" >{called}\n')
    (tools / "runc").chmod(0o755)
    variables = ["PATH=/bin"] + ([f"NVIDIA_VISIBLE_DEVICES={visible}"] if visible is not None else [])
    (bundle / "config.json").write_text(json.dumps({"process": {"env": variables}, "mounts": [], "linux": {}}))
    words = ["--log", str(tmp_path / "log.json"), "create", "--bundle", str(bundle), "id"]
    box.run("nvidia-container-runtime", *words, PATH=f"{tools}:/usr/bin:/bin", **env)
    log = (tmp_path / "log.json").read_text() if (tmp_path / "log.json").exists() else ""
    found = json.loads((bundle / "config.json").read_text())
    return found, called.read_text().split() if called.exists() else [], log


def paths(config: dict[str, Any]) -> list[str]:
    return [device["path"] for device in config["linux"].get("devices", [])]


@pytest.mark.parametrize(
    ("visible", "gpus"),
    [
        ("1", ["/dev/nvidia1"]),
        ("0,1", ["/dev/nvidia0", "/dev/nvidia1"]),
        ("all", ["/dev/nvidia0", "/dev/nvidia1"]),
        ("GPU-12345678-1234-1234-1234-123456780001", ["/dev/nvidia1"]),
    ],
)
def test_visible_devices(make: Make, tmp_path: Path, visible: str, gpus: list[str]) -> None:
    config, called, log = create(make(), tmp_path, visible)
    assert [path for path in paths(config) if path[-1].isdigit()] == gpus
    assert "/dev/nvidiactl" in paths(config)
    assert any(mount["destination"].endswith("libcuda.so.550.163.01") for mount in config["mounts"])
    assert len(config["hooks"]["createContainer"]) == 5
    assert called[-4:] == ["create", "--bundle", str(tmp_path / "bundle"), "id"]
    assert log == ""


@pytest.mark.parametrize("visible", [None, "", "void"])
def test_without_a_wish_nothing_is_added(make: Make, tmp_path: Path, visible: str | None) -> None:
    config, called, _ = create(make(), tmp_path, visible)
    assert paths(config) == [] and "hooks" not in config and config["mounts"] == []
    assert called


def test_an_unknown_gpu_is_told_to_the_engine(make: Make, tmp_path: Path) -> None:
    _, called, log = create(make(), tmp_path, "7")
    assert called == []
    assert "failed to get device handle from index" in json.loads(log)["msg"]


@pytest.mark.parametrize(("spec", "called"), [(True, True), (False, False)])
def test_mode_cdi_uses_the_files(make: Make, tmp_path: Path, spec: bool, called: bool) -> None:
    box = make()
    box.ctk("config", "--set", "nvidia-container-runtime.mode=cdi", "--in-place")
    if spec:
        box.ctk("cdi", "generate", f"--output={box.root}/etc/cdi/nvidia.yaml")
    config, arguments, log = create(box, tmp_path, "1")
    assert bool(arguments) == called
    assert ("/dev/nvidia1" in paths(config)) == called
    assert ("unresolvable CDI devices nvidia.com/gpu=1" in log) == (not called)


OWN = """\
[nvidia-container-runtime]
mode = "cdi"

[nvidia-container-runtime.modes.cdi]
spec-dirs = ["/own/cdi"]
"""


@pytest.mark.parametrize(
    ("visible", "gpus", "said"),
    [
        ("all", ["/dev/nvidia1"], ""),
        ("GPU-12345678-1234-1234-1234-123456780001", ["/dev/nvidia1"], ""),
        ("nvidia.com/gpu=1", ["/dev/nvidia1"], ""),
        ("0", [], "unresolvable CDI devices nvidia.com/gpu=0"),
        (
            "1,0",
            [],
            "error modifying OCI spec: failed to inject CDI devices: unresolvable CDI devices nvidia.com/gpu=0",
        ),
        # as with the real one: the mode does not keep a container from this kind
        ("runtime.nvidia.com/gpu=all", ["/dev/nvidia0", "/dev/nvidia1"], ""),
        ("runtime.nvidia.com/gpu=0,1", [], "is not supported when requesting other CDI devices"),
    ],
)
def test_a_configuration_of_its_own_beside_the_hosts(
    make: Make, tmp_path: Path, visible: str, gpus: list[str], said: str
) -> None:
    """XDG_CONFIG_HOME names it; the specs are those of its spec-dirs, in JSON too, and nothing else in the folder."""
    box = make()
    box.ctk("cdi", "generate", f"--output={box.root}/etc/cdi/nvidia.yaml")
    box.ctk("cdi", "generate", "--device-id=1", f"--output={box.root}/own/cdi/nvidia.json")
    (box.root / "own/cdi/.nvidia.json.x1").write_text("half a fi")
    (box.root / "own/nvidia-container-runtime").mkdir()
    (box.root / "own/nvidia-container-runtime/config.toml").write_text(OWN)
    config, _, log = create(box, tmp_path, visible, XDG_CONFIG_HOME="/own")
    assert [path for path in paths(config) if path[-1].isdigit()] == gpus
    assert said in log and bool(said) == bool(log)


def test_mode_legacy_leaves_it_to_the_hook(make: Make, tmp_path: Path) -> None:
    box = make()
    box.ctk("config", "--set", "nvidia-container-runtime.mode=legacy", "--in-place")
    config, _, _ = create(box, tmp_path, "1")
    assert config["hooks"]["prestart"][0]["args"] == ["nvidia-container-runtime-hook", "prestart"]
    assert paths(config) == []
