"""config.toml and daemon.json: what the tools write into them."""

import difflib
import json
import stat

import pytest

from .conftest import Box, Make

CONFIG = "etc/nvidia-container-runtime/config.toml"
DAEMON = "etc/docker/daemon.json"


def in_place(box: Box, *settings: str) -> str:
    words = [word for setting in settings for word in ("--set", setting)]
    done = box.ctk("config", *words, "--in-place")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    return (box.root / CONFIG).read_text()


def test_a_setting_changes_one_line_and_again_none(make: Make) -> None:
    box = make()
    before = in_place(box)
    after = in_place(box, "nvidia-container-cli.no-cgroups")
    changed = [line for line in difflib.ndiff(before.splitlines(), after.splitlines()) if line[0] in "+-"]
    assert changed == ["- #no-cgroups = false", "+ no-cgroups = true"]
    assert in_place(box, "nvidia-container-cli.no-cgroups") == after
    assert "\nno-cgroups = false\n" in in_place(box, "nvidia-container-cli.no-cgroups=false")


def test_a_list_is_separated_by_colons(make: Make) -> None:
    assert 'runtimes = ["crun", "runc"]' in in_place(make(), "nvidia-container-runtime.runtimes=crun:runc")


def test_comments_go_and_unknown_tables_stay(make: Make) -> None:
    box = make()
    in_place(box)
    path = box.root / CONFIG
    path.write_text("# mine\n" + path.read_text() + '[zebra]\nstripes = 9\n[aardvark]\nants = "all"\n')
    text = in_place(box)
    assert "# mine" not in text
    assert text.endswith('\n\n[aardvark]\nants = "all"\n\n[zebra]\nstripes = 9\n')


def test_default_path_follows_the_environment(make: Make) -> None:
    box = make()
    box.ctk("config", "--in-place", XDG_CONFIG_HOME="/home/u/.config")
    assert (box.root / "home/u/.config/nvidia-container-runtime/config.toml").exists()
    assert not (box.root / CONFIG).exists()


def test_default_goes_to_stdout(make: Make) -> None:
    box = make()
    assert box.ctk("config", "default").stdout == in_place(box)


def test_driver_root_of_the_configuration_is_heeded(make: Make) -> None:
    box = make()
    in_place(box, "nvidia-container-cli.root=/run/nvidia/driver")
    assert box.ctk("cdi", "generate").returncode == 1


def configure(box: Box, text: str | None, *arguments: str) -> str:
    path = box.root / DAEMON
    if text is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    done = box.ctk("runtime", "configure", *arguments)
    assert (done.returncode, done.stdout) == (0, "")
    return path.read_text()


RUNTIMES = {"nvidia": {"args": [], "path": "nvidia-container-runtime"}}
FEATURES = {"containerd-snapshotter": True, "buildkit": False}


@pytest.mark.parametrize(
    ("before", "arguments", "after"),
    [
        ({"features": FEATURES}, ["--cdi.enabled"], {"features": {"cdi": True}, "runtimes": RUNTIMES}),
        ({"features": FEATURES}, [], {"features": FEATURES, "runtimes": RUNTIMES}),
        ({"features": {"cdi": True}}, ["--cdi.enabled=false"], {"features": {"cdi": True}, "runtimes": RUNTIMES}),
        ({"debug": True}, ["--set-as-default"], {"debug": True, "default-runtime": "nvidia", "runtimes": RUNTIMES}),
        ({}, ["--nvidia-runtime-name=x", "--runtime-path=/y"], {"runtimes": {"x": {"args": [], "path": "/y"}}}),
    ],
)
@pytest.mark.parametrize("release", ["1.18.2", "1.20.0"])
def test_daemon_json(
    make: Make, release: str, before: dict[str, object], arguments: list[str], after: dict[str, object]
) -> None:
    box = make(release=release)
    text = configure(box, json.dumps(before), *arguments)
    assert json.loads(text) == after
    assert configure(box, None, *arguments) == text


def test_form_of_daemon_json(make: Make) -> None:
    text = configure(make(), '{"z": 1, "labels": ["<a&b>"]}')
    assert text == (
        '{\n    "labels": [\n        "\\u003ca\\u0026b\\u003e"\n    ],\n    "runtimes": {\n        "nvidia": {\n'
        '            "args": [],\n            "path": "nvidia-container-runtime"\n        }\n    },\n    "z": 1\n}'
    )


def test_mode_of_daemon_json(make: Make) -> None:
    box = make()
    configure(box, None)
    path = box.root / DAEMON
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    path.chmod(0o600)
    configure(box, None)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_dry_run_prints_and_writes_nothing(make: Make) -> None:
    box = make()
    done = box.ctk("runtime", "configure", "--dry-run")
    assert json.loads(done.stdout) == {"runtimes": RUNTIMES}
    assert done.stdout.endswith("}\n\n")
    assert not (box.root / DAEMON).exists()
