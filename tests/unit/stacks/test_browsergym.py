"""What browsergym's trainer works on, and when server and trainer are well."""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Callable
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest

STACK = Path(__file__).parents[3] / "stacks" / "browsergym"


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """A module of the stack, under a name of its own: other stacks' trainers have some of the same."""

    def module(name: str) -> ModuleType:
        spec = spec_from_file_location(f"browsergym_{Path(name).stem}", STACK / f"{name}.py")
        assert spec and spec.loader
        loaded = module_from_spec(spec)
        monkeypatch.setitem(sys.modules, spec.name, loaded)
        spec.loader.exec_module(loaded)
        return loaded

    return module


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[click-test]", "no mapping"),
        ("{}", "tasks is None"),
        ("{tasks: click-test}", "tasks is 'click-test'"),
        ("{tasks: [click-test], rounds: 3}", "rounds"),
        ("{tasks: [click-test], episodes: 0}", "episodes is 0"),
        ("{tasks: [click-test], sessions: true}", "sessions is True"),
    ],
)
def test_a_wrong_config_is_refused_by_name(
    load: Callable[[str], ModuleType], tmp_path: Path, text: str, said: str
) -> None:
    config = load("training/config")
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(config.Wrong, match=r"mine\.yaml") as wrong:
        config.Config.read(tmp_path, "mine.yaml")
    assert said in str(wrong.value)


@pytest.mark.parametrize("name", ["none.yaml", "../mine.yaml", "mine.txt"])
def test_a_config_is_a_file_of_its_folder(load: Callable[[str], ModuleType], tmp_path: Path, name: str) -> None:
    config = load("training/config")
    folder = tmp_path / "configs"
    folder.mkdir()
    for each in ("mine.yaml", "configs/good.yaml", "configs/mine.txt"):
        (tmp_path / each).write_text("{tasks: [click-test]}")
    with pytest.raises(config.Wrong, match=r"there are: good\.yaml"):
        config.Config.read(folder, name)
    assert config.Config.read(folder, "good.yaml").tasks == ["click-test"]


def test_a_trainer_without_progress_is_not_healthy(load: Callable[[str], ModuleType], tmp_path: Path) -> None:
    healthy = load("training/healthy")
    heart, checkpoints = tmp_path / "heartbeat", tmp_path / "checkpoints"
    assert healthy.problem(heart, checkpoints, 1000.0) == "no checkpoint yet"
    (checkpoints / "mine").mkdir(parents=True)
    (checkpoints / "mine" / "episode_00002.npz").touch()
    assert healthy.problem(heart, checkpoints, 1000.0) == "no episode finished since the start"
    heart.touch()
    os.utime(heart, (1000.0, 1000.0))
    assert healthy.problem(heart, checkpoints, 1100.0) == ""
    assert healthy.problem(heart, checkpoints, 1121.0) == "nothing happened for 121 s"


@pytest.mark.parametrize(
    ("browsers", "asked", "said"),
    [
        ({"sessions": 0, "well": True, "answered_seconds_ago": 10.0}, False, ""),
        ({"sessions": 0, "well": True, "answered_seconds_ago": 55.0}, True, "asked"),
        ({"sessions": 0, "well": False, "answered_seconds_ago": None}, True, "asked"),
        ({"sessions": 3, "well": False, "answered_seconds_ago": 2.0}, True, "asked"),
        ({"sessions": 4, "well": True, "answered_seconds_ago": 900.0}, False, ""),
        ({"sessions": 4, "well": False, "answered_seconds_ago": 900.0}, False, "all sessions are taken, and: crashed"),
    ],
)
def test_the_servers_check_starts_a_browser_only_when_none_has_answered_lately(
    load: Callable[[str], ModuleType],
    monkeypatch: pytest.MonkeyPatch,
    browsers: dict[str, object],
    asked: bool,
    said: str,
) -> None:
    client = ModuleType("websockets.sync.client")
    monkeypatch.setattr(client, "connect", None, raising=False)
    for name, module in (("websockets", ModuleType("websockets")), ("websockets.sync", ModuleType("websockets.sync"))):
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setitem(sys.modules, "websockets.sync.client", client)
    healthy = load("server/healthy")
    answer = json.dumps({"most": 4, "last_failure": "crashed", **browsers}).encode()
    monkeypatch.setattr(healthy.urllib.request, "urlopen", lambda url, timeout: io.BytesIO(answer))
    resets: list[str] = []

    def reset() -> str:
        resets.append("asked")
        return "asked"

    monkeypatch.setattr(healthy, "reset", reset)
    assert (healthy.problem(), bool(resets)) == (said, asked)
