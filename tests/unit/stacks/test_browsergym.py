"""The parts of browsergym's trainer that decide what it works on, and whether it is well."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest

TRAINING = Path(__file__).parents[3] / "stacks" / "browsergym" / "training"


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """A module of the trainer, under a name of its own: other stacks' trainers have some of the same."""

    def module(name: str) -> ModuleType:
        spec = spec_from_file_location(f"browsergym_{name}", TRAINING / f"{name}.py")
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
    config = load("config")
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(config.Wrong, match=r"mine\.yaml") as wrong:
        config.Config.read(tmp_path, "mine.yaml")
    assert said in str(wrong.value)


@pytest.mark.parametrize("name", ["none.yaml", "../mine.yaml", "mine.txt"])
def test_a_config_is_a_file_of_its_folder(load: Callable[[str], ModuleType], tmp_path: Path, name: str) -> None:
    config = load("config")
    folder = tmp_path / "configs"
    folder.mkdir()
    for each in ("mine.yaml", "configs/good.yaml", "configs/mine.txt"):
        (tmp_path / each).write_text("{tasks: [click-test]}")
    with pytest.raises(config.Wrong, match=r"there are: good\.yaml"):
        config.Config.read(folder, name)
    assert config.Config.read(folder, "good.yaml").tasks == ["click-test"]


def test_a_trainer_without_progress_is_not_healthy(load: Callable[[str], ModuleType], tmp_path: Path) -> None:
    healthy = load("healthy")
    heart, checkpoints = tmp_path / "heartbeat", tmp_path / "checkpoints"
    assert healthy.problem(heart, checkpoints, 1000.0) == "no checkpoint yet"
    (checkpoints / "mine").mkdir(parents=True)
    (checkpoints / "mine" / "episode_00002.npz").touch()
    assert healthy.problem(heart, checkpoints, 1000.0) == "no episode finished since the start"
    heart.touch()
    os.utime(heart, (1000.0, 1000.0))
    assert healthy.problem(heart, checkpoints, 1100.0) == ""
    assert healthy.problem(heart, checkpoints, 1121.0) == "nothing happened for 121 s"
