"""isaaclab's small programs: who may be who, which Python and mounts count, what fix-perms leaves, which model is newest."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

STACK = Path(__file__).parents[3] / "stacks" / "isaaclab"


def program(name: str, *args: str, **environment: str) -> subprocess.CompletedProcess[str]:
    whole = {"PATH": os.environ["PATH"], "HOME": "/", **environment}
    return subprocess.run(
        ["sh", str(STACK / "program" / name), *args], capture_output=True, text=True, check=False, env=whole
    )


def prepare(folder: Path, mode: str, uid: str) -> subprocess.CompletedProcess[str]:
    """In a copy whose paths are below the folder: as root it would change this machine's own users."""
    text = (STACK / "program" / "prepare").read_text(encoding="utf-8")
    for path in ("/etc/passwd", "/home/ext/", "/isaac-sim"):
        assert path in text
    text = re.sub(r"(?<![\w:])/(?=etc/passwd|isaac-sim)", f"{folder}/", text)
    text = re.sub(
        r'"/home/ext/|(?<= )/home/ext$', lambda found: found[0].replace("/home", f"{folder}/home"), text, flags=re.M
    )
    copy = folder / "prepare"
    copy.write_text(text)
    (folder / "etc").mkdir()
    (folder / "etc" / "passwd").write_text("root:x:0:0:root:/root:/bin/bash\n")
    environment = {"PATH": os.environ["PATH"], "USER_MODE": mode, "USER_UID": uid, "USER_GID": uid, "USER_NAME": "mara"}
    return subprocess.run(["sh", str(copy)], capture_output=True, text=True, check=False, env=environment)


@pytest.mark.parametrize(
    ("mode", "uid", "said"),
    [
        ("custom", "0", "USER_MODE is custom and USER_UID is 0"),
        ("preserve", "2000", "USER_UID is 2000 and USER_MODE is preserve"),
        ("fix-perms", "1000", "USER_UID is 1000 and USER_MODE is fix-perms"),
    ],
)
def test_a_mode_and_a_uid_that_do_not_go_together_end_the_build(tmp_path: Path, mode: str, uid: str, said: str) -> None:
    done = prepare(tmp_path, mode, uid)
    assert done.returncode == 1
    assert said in done.stderr
    assert (tmp_path / "etc" / "passwd").read_text().startswith("root:")


@pytest.mark.parametrize(
    ("mode", "uid", "first"),
    [
        ("preserve", "0", "mara:x:0:0:"),
        ("custom", "2000", "mara:x:2000:2000:"),
        ("root", "0", "root:x:0:0:"),
    ],
)
def test_who_works_in_the_container_has_a_name(tmp_path: Path, mode: str, uid: str, first: str) -> None:
    assert prepare(tmp_path, mode, uid).returncode == 0
    assert (tmp_path / "etc" / "passwd").read_text().startswith(first)
    assert (tmp_path / "home" / "ext" / ".cache").stat().st_mode & 0o777 == 0o777


def test_an_image_with_isaac_sim_is_not_built_without_its_licence(tmp_path: Path) -> None:
    (tmp_path / "isaac-sim").mkdir()
    done = prepare(tmp_path, "preserve", "0")
    assert done.returncode == 1
    assert "ACCEPT_EULA is not Y" in done.stderr


def test_what_is_mounted_comes_first(tmp_path: Path) -> None:
    """In a copy whose paths are below a folder of the test's."""
    (tmp_path / "venv" / "bin").mkdir(parents=True)
    shown = tmp_path / "venv" / "bin" / "python"
    shown.write_text('#!/bin/sh\nprintf "%s" "$PYTHONPATH"\n')
    shown.chmod(0o755)
    text = (STACK / "program" / "python").read_text(encoding="utf-8")
    copy = tmp_path / "python"
    copy.write_text(text.replace("/mounts/", f"{tmp_path}/mounts/").replace("/venv/", f"{tmp_path}/venv/"))

    def path() -> str:
        environment = {"PATH": os.environ["PATH"], "PYTHONPATH": "/workspace"}
        return subprocess.run(["sh", str(copy)], capture_output=True, text=True, check=True, env=environment).stdout

    mounts = f"{tmp_path}/mounts"
    assert path() == "/workspace"
    (tmp_path / "mounts/rsl_rl/rsl_rl").mkdir(parents=True)
    assert path() == f"{mounts}/rsl_rl:/workspace"
    (tmp_path / "mounts/isaaclab/source/isaaclab").mkdir(parents=True)
    (tmp_path / "mounts/a file").write_text("")
    assert path() == f"{mounts}/isaaclab:{mounts}/rsl_rl:{mounts}/isaaclab/source/isaaclab:/workspace"


def test_enter_is_the_command_where_nothing_is_to_be_mended() -> None:
    assert program("enter", "sh", "-c", "echo $PPID; exit 4", USER_MODE="root").returncode == 4


def test_enter_passes_on_the_end_and_mends_after_it(tmp_path: Path) -> None:
    """Without root, nothing belongs to somebody else: what is looked for is told by what find was asked."""
    tools = tmp_path / "tools"
    tools.mkdir()
    find = tools / "find"
    find.write_text(f'#!/bin/sh\necho "$*" >> {tmp_path}/asked\n')
    find.chmod(0o755)
    environment = {"PATH": f"{tools}:{os.environ['PATH']}", "USER_MODE": "fix-perms", "FIX_PERMISSIONS_IN": "/a /b"}
    assert program("enter", "sh", "-c", "exit 7", **environment).returncode == 7
    asked = (tmp_path / "asked").read_text()
    assert asked.endswith("/a /b ! -uid 0 -exec chown -h 0:0 {} +\n")
    running = subprocess.Popen(["sh", str(STACK / "program" / "enter"), "sleep", "60"], env=environment)
    time.sleep(0.5)
    running.send_signal(signal.SIGTERM)
    assert running.wait(10) == 128 + signal.SIGTERM
    assert (tmp_path / "asked").read_text() == asked * 2


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(STACK / "extension" / "source" / "ext_template"))
    return import_module("ext_template.runs")


def test_the_newest_model_is_that_of_the_last_run_with_one(runs: ModuleType, tmp_path: Path) -> None:
    assert runs.experiment("InvertedPendulum-v5") == "inverted_pendulum"
    assert runs.newest(tmp_path) is None
    for name in ("2026-01-01/model_0.pt", "2026-01-01/model_29.pt", "2026-01-02/model_9.pt", "2026-01-02/model_10.pt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "2026-01-03").mkdir()
    assert runs.newest(tmp_path) == tmp_path / "2026-01-02" / "model_10.pt"


def test_compose_and_stack_yml_name_the_same_folders_and_fix_perms_all_of_them() -> None:
    compose: dict[str, Any] = yaml.safe_load((STACK / "compose.yml").read_text(encoding="utf-8"))
    defined: dict[str, Any] = yaml.safe_load((STACK / "stack.yml").read_text(encoding="utf-8"))
    kept = {}
    for volume in compose["services"]["ext"]["volumes"]:
        source, target = volume.replace(":-", "?").rsplit(":", 1) if "}:" not in volume else volume.split("}:", 1)
        name, default = source.removeprefix("${").replace("?", ":-").split(":-")
        kept[name] = (default.removeprefix("./data/"), target)
    assert {name: folder for name, (folder, _target) in kept.items()} == {
        name: entry["folder"] for name, entry in defined["data"].items()
    }
    mended = compose["services"]["ext"]["environment"]["FIX_PERMISSIONS_IN"].split()
    assert sorted(mended) == sorted(target for _folder, target in kept.values())
    assert compose["services"]["train"]["volumes"] == compose["services"]["ext"]["volumes"]
    assert compose["services"]["ext-dev"]["volumes"][1 : 1 + len(kept)] == compose["services"]["ext"]["volumes"]
