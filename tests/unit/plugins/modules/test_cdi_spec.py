"""What cdi_spec decides: settings, units, and the calls that bring units to where they should be."""

from __future__ import annotations

import inspect
import json
from typing import Any

import pytest
from ansible_collections.gpulab.fleet.plugins.module_utils import _cdi
from ansible_collections.gpulab.fleet.plugins.module_utils._cdi_units import (
    ENABLED,
    RUNNING,
    SYSTEM_UNITS,
    VENDOR_REFRESH,
)
from ansible_collections.gpulab.fleet.plugins.modules import cdi_spec

KNOWN = {"0": "GPU-a", "1": "GPU-b", "GPU-a": "GPU-a", "GPU-b": "GPU-b"}

SHOWN = """\
Id=gpulab-cdi.service
LoadState=loaded
ActiveState=inactive
UnitFileState=enabled

Id=gpulab-cdi.path
LoadState=loaded
ActiveState=active
UnitFileState=enabled

Id=gpulab-cdi-poll.timer
LoadState=loaded
ActiveState=active
UnitFileState=enabled

Id=nvidia-cdi-refresh.path
LoadState=masked
ActiveState=inactive
UnitFileState=masked

Id=nvidia-cdi-refresh.service
LoadState=masked
ActiveState=inactive
UnitFileState=masked
"""


def test_settings_do_not_depend_on_the_order_of_the_inventory() -> None:
    one = cdi_spec.settings_text({"b": "all", "a": ["GPU-a"]})
    assert one == cdi_spec.settings_text({"a": ["GPU-a"], "b": "all"})
    assert json.loads(one) == {"users": {"a": ["GPU-a"], "b": "all"}}


@pytest.mark.parametrize(
    ("gpus", "settled"),
    [("all", "all"), (["1"], ["GPU-b"]), (["1", "0"], ["GPU-a", "GPU-b"]), (["GPU-b", "1"], ["GPU-b"])],
)
def test_indices_are_written_down_as_uuids(gpus: Any, settled: Any) -> None:
    assert cdi_spec.with_uuids({"mara": gpus}, KNOWN) == {"mara": settled}


def test_an_unknown_gpu_stops_before_anything_is_written() -> None:
    with pytest.raises(_cdi.Trouble) as raised:
        cdi_spec.with_uuids({"mara": "all", "bo": ["0", "GPU-elsewhere"]}, KNOWN)
    found = raised.value.finding
    assert found.code == "GPU_UNKNOWN" and "bo" in found.evidence and "GPU-elsewhere" in found.evidence
    assert found.data == {"user": "bo", "known": "0, 1, GPU-a, GPU-b"}


def test_a_converged_host_needs_no_call() -> None:
    assert cdi_spec.unit_steps(cdi_spec.parse_show(SHOWN), "masked") == []


def test_a_fresh_host_needs_all_of_them() -> None:
    assert cdi_spec.unit_steps({}, "masked") == [
        ["mask", "--now", *VENDOR_REFRESH],
        ["enable", *ENABLED],
        ["start", *RUNNING],
    ]


@pytest.mark.parametrize(
    ("unit", "key", "value", "step"),
    [
        ("gpulab-cdi.path", "UnitFileState", "disabled", ["enable", "gpulab-cdi.path"]),
        ("gpulab-cdi.path", "ActiveState", "failed", ["start", "gpulab-cdi.path"]),
        ("gpulab-cdi-poll.timer", "ActiveState", "inactive", ["start", "gpulab-cdi-poll.timer"]),
        ("nvidia-cdi-refresh.path", "UnitFileState", "enabled", ["mask", "--now", "nvidia-cdi-refresh.path"]),
    ],
)
def test_what_drifted_is_put_right(unit: str, key: str, value: str, step: list[str]) -> None:
    units = cdi_spec.parse_show(SHOWN)
    units[unit][key] = value
    assert cdi_spec.unit_steps(units, "masked") == [step]


def test_the_vendors_units_come_back_and_then_stay_as_they_are() -> None:
    units = cdi_spec.parse_show(SHOWN)
    assert cdi_spec.unit_steps(units, "kept") == [["unmask", *VENDOR_REFRESH], ["enable", "--now", *VENDOR_REFRESH]]
    for name in VENDOR_REFRESH:
        units[name]["UnitFileState"] = "disabled"  # the administrator's own choice
    assert cdi_spec.unit_steps(units, "kept") == []


def test_the_units_call_the_program_with_options_that_it_has() -> None:
    parsed = []
    for text in SYSTEM_UNITS.values():
        for line in text.splitlines():
            if line.startswith("ExecStart="):
                program, *arguments = line.removeprefix("ExecStart=/usr/bin/python3 ").split()
                assert program == _cdi.PROGRAM
                parsed.append(arguments)
    assert parsed == [["generate", "--wait", "20", "--revive"], ["generate", "--if-changed", "--revive"]]
    source = inspect.getsource(_cdi)
    for arguments in parsed:
        for option in (a for a in arguments if a.startswith("--")):
            assert f'"{option}"' in source


def test_no_node_in_dev_is_watched() -> None:
    """Closing one is an event: nvidia-ctk itself would start the service again and again."""
    assert "/dev/" not in SYSTEM_UNITS["/etc/systemd/system/gpulab-cdi.path"].split("[Path]")[1]


class FakeModule:
    """dpkg-query's answer, and users for the module."""

    def __init__(self, dpkg: str, check: bool) -> None:
        self.params = {"users": {}, "vendor_refresh": "masked", "shares": "cooperative", "persistence": True}
        self.check_mode = check
        self.dpkg = dpkg

    def run_command(self, argv: list[str]) -> tuple[int, str, str]:
        if argv[0] == "dpkg-query":
            return (0 if self.dpkg else 1), self.dpkg, ""
        return 0, SHOWN, ""


DPKG = "nvidia-container-toolkit-base\t{}\t1.20.0-1\n"


@pytest.mark.parametrize(
    ("dpkg", "check", "code"),
    [
        (DPKG.format("ii "), False, "TOOLKIT_DAMAGED"),
        (DPKG.format("ii "), True, "TOOLKIT_DAMAGED"),
        ("", False, "TOOLKIT_MISSING"),
        ("", True, None),
        (DPKG.format("rc "), True, None),
        (DPKG.format("iHR"), True, None),
    ],
)
def test_without_nvidia_ctk(monkeypatch: pytest.MonkeyPatch, dpkg: str, check: bool, code: str | None) -> None:
    monkeypatch.setattr(_cdi.Tools, "has", lambda self, name: False)
    spec = cdi_spec.CdiSpec(FakeModule(dpkg, check))
    if code is None:
        spec.present()
        assert f"write {_cdi.SETTINGS}" in spec.actions
        return
    with pytest.raises(_cdi.Trouble) as raised:
        spec.present()
    assert raised.value.finding.code == code
    assert spec.actions == []


def test_a_diff_shows_what_a_spec_gives_and_no_change_is_hidden() -> None:
    spec = {
        "devices": [{"name": "0", "containerEdits": {"deviceNodes": [{"path": "/dev/nvidia0"}]}}],
        "containerEdits": {
            "env": ["A=1"],
            "deviceNodes": [{"path": "/dev/nvidiactl"}],
            "mounts": [{"hostPath": "/a", "containerPath": "/b"}],
            "hooks": [{"path": "/usr/bin/nvidia-cdi-hook", "args": ["nvidia-cdi-hook", "update-ldcache"]}],
        },
    }
    shown = cdi_spec.outline(json.dumps(spec)).splitlines()
    assert shown[:-1] == ["device 0: /dev/nvidia0", "node /dev/nvidiactl", "mount /b", "hook update-ldcache"]
    assert cdi_spec.outline(json.dumps(spec).replace("A=1", "A=2")).splitlines()[-1] != shown[-1]


@pytest.mark.parametrize("text", ["", "(what nvidia-ctk will say)\n", "[]", '{"devices": [1]}'])
def test_what_is_no_spec_is_shown_as_it_is(text: str) -> None:
    assert cdi_spec.outline(text) == text
