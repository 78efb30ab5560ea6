"""daemon.json: a person's keys stay, ours come and go."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.gpulab.fleet.plugins.module_utils._daemon_json import (
    LOGGING,
    merge,
    nvidia_runtime,
    ours,
    overlay,
    parse,
    redact,
    refuse_flag_spellings,
    without,
)
from ansible_collections.gpulab.fleet.plugins.module_utils._errors import FleetError

DIR = "/var/lib/gpulab/cdi/trainer"
CDI = {"features": {"cdi": True}, "cdi-spec-dirs": [DIR]}


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ('{"a": 1,}', "f:1:9:"),
        ('{\n  "a": 1\n  "b": 2\n}', "f:3:3:"),
        ("{", "f:1:2:"),
        ("[]", "f:1:1: it holds a list"),
        ("{'a': 1}", "f:1:2:"),
    ],
)
def test_what_is_not_json_is_named_with_its_place(text: str, place: str) -> None:
    with pytest.raises(FleetError) as caught:
        parse(text, "f")
    assert caught.value.code == "DAEMON_JSON_INVALID"
    assert caught.value.detail.startswith(place)


@pytest.mark.parametrize("text", ["", "\n", "{}"])
def test_an_empty_file_has_no_settings(text: str) -> None:
    assert parse(text, "f") == {}


@pytest.mark.parametrize(
    ("base", "over", "result"),
    [
        ({}, {"a": 1}, {"a": 1}),
        ({"a": 1}, {}, {"a": 1}),
        ({"features": {"x": True}}, {"features": {"cdi": True}}, {"features": {"x": True, "cdi": True}}),
        ({"dns": ["1.1.1.1"]}, {"dns": ["9.9.9.9"]}, {"dns": ["9.9.9.9"]}),
        ({"a": {"b": 1}}, {"a": 2}, {"a": 2}),
        ({"a": 2}, {"a": {"b": 1}}, {"a": {"b": 1}}),
    ],
)
def test_overlay(base: dict[str, Any], over: dict[str, Any], result: dict[str, Any]) -> None:
    assert overlay(base, over) == result


@pytest.mark.parametrize(
    ("existing", "daemon", "before", "result"),
    [
        # a fresh file
        ({}, {}, {}, {**LOGGING, **CDI}),
        ({}, {"mtu": 1400}, {}, {**LOGGING, **CDI, "mtu": 1400}),
        # keys of the user's own stay, at every depth; ours win
        ({"debug": True}, {}, {}, {"debug": True, **LOGGING, **CDI}),
        (
            {"features": {"buildkit": True, "cdi": False}, "cdi-spec-dirs": ["/etc/cdi"]},
            {},
            {},
            {**LOGGING, "features": {"buildkit": True, "cdi": True}, "cdi-spec-dirs": [DIR]},
        ),
        # whoever has chosen a log driver, or options for one, keeps it
        ({"log-driver": "journald"}, {}, {}, {"log-driver": "journald", **CDI}),
        ({"log-opts": {"tag": "x"}}, {}, {}, {"log-opts": {"tag": "x"}, **CDI}),
        ({}, {"log-driver": "journald"}, {}, {"log-driver": "journald", **CDI}),
        # also when rotation was ours before
        ({**LOGGING, **CDI}, {"log-driver": "journald"}, {**LOGGING, **CDI}, {"log-driver": "journald", **CDI}),
        ({**LOGGING, **CDI, "log-driver": "none"}, {}, {**LOGGING, **CDI}, {"log-driver": "none", **CDI}),
        # other limits than ours, by hand or from the inventory
        (
            {**LOGGING, **CDI, "log-opts": {"max-size": "50m", "max-file": "3"}},
            {},
            {**LOGGING, **CDI},
            {"log-driver": "local", "log-opts": {"max-size": "50m"}, **CDI},
        ),
        # taken out by hand: put in again
        (CDI, {}, {**LOGGING, **CDI}, {**LOGGING, **CDI}),
        # a driver from the inventory that it no longer names: rotation again
        ({"log-driver": "journald", **CDI}, {}, {"log-driver": "journald", **CDI}, {**LOGGING, **CDI}),
        # taken out of the inventory: taken out of the file
        ({**LOGGING, **CDI, "mtu": 1400}, {}, {**LOGGING, **CDI, "mtu": 1400}, {**LOGGING, **CDI}),
        # unless the user has changed it since
        ({**LOGGING, **CDI, "mtu": 9000}, {}, {**LOGGING, **CDI, "mtu": 1400}, {**LOGGING, **CDI, "mtu": 9000}),
        # or it was theirs all along
        ({**LOGGING, **CDI, "mtu": 1400}, {}, {**LOGGING, **CDI}, {**LOGGING, **CDI, "mtu": 1400}),
    ],
)
def test_three_way_merge_is_stable(
    existing: dict[str, Any], daemon: dict[str, Any], before: dict[str, Any], result: dict[str, Any]
) -> None:
    wanted = ours(existing, daemon, DIR, before)
    merged = merge(existing, wanted, before)
    assert merged == result
    again = ours(merged, daemon, DIR, wanted)
    assert merge(merged, again, wanted) == merged


HAND_MADE = {"args": [], "path": "nvidia-container-runtime"}  # what nvidia-ctk runtime configure writes
RUNTIMES = "/var/lib/gpulab/runtime/trainer"


@pytest.mark.parametrize(
    ("existing", "daemon", "nvidia"),
    [
        ({}, {}, nvidia_runtime(RUNTIMES)),
        # somebody's own would describe every GPU: nothing of it remains
        ({"runtimes": {"nvidia": HAND_MADE}}, {}, nvidia_runtime(RUNTIMES)),
        ({"runtimes": {"nvidia": {"runtimeType": "io.example.v1"}}}, {}, nvidia_runtime(RUNTIMES)),
        # the inventory's wins
        ({}, {"runtimes": {"nvidia": HAND_MADE}}, HAND_MADE),
    ],
)
def test_the_nvidia_runtime_comes_whole_and_goes_whole(
    existing: dict[str, Any], daemon: dict[str, Any], nvidia: dict[str, Any]
) -> None:
    existing = overlay({"runtimes": {"crun": {"path": "crun"}}}, existing)
    wanted = ours(existing, daemon, DIR, {}, RUNTIMES)
    merged = merge(existing, wanted, {})
    assert merged["runtimes"] == {"crun": {"path": "crun"}, "nvidia": nvidia}
    again = ours(merged, daemon, DIR, wanted, RUNTIMES)
    assert merge(merged, again, wanted) == merged
    assert merge(merged, ours(merged, {}, DIR, wanted), wanted)["runtimes"] == {"crun": {"path": "crun"}}


def test_cdi_is_switched_off_again() -> None:
    before = {**LOGGING, **CDI}
    existing = {**LOGGING, "features": {"cdi": True, "buildkit": True}, "cdi-spec-dirs": [DIR]}
    assert merge(existing, ours(existing, {}, "", before), before) == {**LOGGING, "features": {"buildkit": True}}


def test_without_removes_an_object_that_becomes_empty() -> None:
    assert without({"features": {"cdi": True}}, {"features": {"cdi": True}}, {}) == {}
    assert without({"a": {}}, {}, {}) == {"a": {}}


@pytest.mark.parametrize("key", ["cdi-spec-dir", "insecure-registry", "label"])
def test_spellings_that_dockerd_would_ignore(key: str) -> None:
    with pytest.raises(FleetError) as caught:
        refuse_flag_spellings({key: ["x"]})
    assert caught.value.code == "DAEMON_JSON_TYPO"
    assert caught.value.detail.startswith(f"{key}: ")
    refuse_flag_spellings({"cdi-spec-dirs": [], "labels": []})


def test_redact() -> None:
    text = '{"proxies": {"http-proxy": "http://me:secret@proxy:3128", "no-proxy": "a@b"}}'
    assert redact(text) == '{"proxies": {"http-proxy": "http://***@proxy:3128", "no-proxy": "a@b"}}'
