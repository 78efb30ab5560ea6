"""What a training run is to do: one YAML file of the folder that is mounted at /workspace/configs."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

import yaml


class Wrong(Exception):
    """A config that cannot be used; the text says which and why."""


@dataclass(frozen=True)
class Config:
    tasks: list[str]
    episodes: int = 48
    sessions: int = 2
    seed: int = 1
    steps: int = 1  # clicks that an episode may take
    kept: int = 10  # checkpoints

    @classmethod
    def read(cls, folder: Path, name: str) -> Config:
        path = folder / name
        if path.suffix not in (".yaml", ".yml") or path.parent != folder or not path.is_file():
            there = ", ".join(sorted(each.name for each in folder.glob("*.y*ml"))) or "none"
            raise Wrong(f"no config {name!r} in {folder}; there are: {there}")
        read = yaml.safe_load(path.read_text(encoding="utf-8"))
        if not isinstance(read, dict):
            raise Wrong(f"{name} is no mapping: write `tasks: [click-button]`")
        known = {field.name for field in fields(cls)}
        unknown = sorted(map(str, set(read) - known))
        if unknown:
            raise Wrong(f"{name}: {', '.join(unknown)}: there are {', '.join(sorted(known))} only")
        tasks = read.get("tasks")
        if not isinstance(tasks, list) or not tasks or not all(isinstance(task, str) for task in tasks):
            raise Wrong(f"{name}: tasks is {tasks!r}: write a list of names, such as [click-button]")
        for key in (known - {"tasks"}) & set(read):
            if type(read[key]) is not int or read[key] < 1:
                raise Wrong(f"{name}: {key} is {read[key]!r}: write a whole number, from 1 on")
        return cls(**read)
