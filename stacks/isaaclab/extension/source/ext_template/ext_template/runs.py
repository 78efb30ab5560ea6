"""Where trainings keep their work: logs/rsl_rl/EXPERIMENT/RUN/model_N.pt, as in Isaac Lab."""

from __future__ import annotations

import re
from pathlib import Path

MODEL = re.compile(r"model_(\d+)\.pt")


def experiment(task: str) -> str:
    """InvertedPendulum-v5 as inverted_pendulum."""
    name = re.sub(r"-v\d+$", "", task)
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).replace("-", "_").lower()


def newest(folder: Path) -> Path | None:
    """The last model of the last run that has one."""
    for run in sorted((each for each in folder.glob("*") if each.is_dir()), reverse=True):
        models = {int(match[1]): path for path in run.iterdir() if (match := MODEL.fullmatch(path.name))}
        if models:
            return models[max(models)]
    return None
