"""Generated driving: a careful driver brings the car back to the middle of lanes of all kinds."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from training.sft.waypoint_model import HORIZON, LOOK_AHEAD, STEP


def generate(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(what the car sees, the points that the driver then passes), in the car's own frame."""
    random = np.random.default_rng(seed)
    speed = random.uniform(2.0, 18.0, count)
    offset = random.normal(0.0, 0.8, count)
    heading = random.normal(0.0, 0.15, count)
    start, end = random.normal(0.0, 0.02, (2, count))
    curvature = start[:, None] + (end - start)[:, None] * np.asarray(LOOK_AHEAD) / LOOK_AHEAD[-1]
    seen = np.column_stack([speed, offset, heading, curvature]).astype(np.float32)
    return seen, drive(seen)


def drive(seen: np.ndarray, substeps: int = 5) -> np.ndarray:
    """What the driver does from there on, in short steps: (count, HORIZON, 2)."""
    speed, offset, heading = seen[:, 0].astype(float), seen[:, 1].astype(float), seen[:, 2].astype(float)
    lane = seen[:, 3:].astype(float)
    x, y, yaw, along = (np.zeros(len(seen)) for _ in range(4))
    points = np.empty((len(seen), HORIZON, 2), np.float32)
    dt = STEP / substeps
    for point in range(HORIZON):
        for _ in range(substeps):
            where = np.clip(along, LOOK_AHEAD[0], LOOK_AHEAD[-1])
            index = np.minimum((where / 5.0).astype(int), len(LOOK_AHEAD) - 2)
            share = where / 5.0 - index
            rows = np.arange(len(seen))
            bend = lane[rows, index] * (1 - share) + lane[rows, index + 1] * share
            turn = np.clip(bend - 0.05 * offset - 0.35 * heading, -0.2, 0.2)  # 1/m
            x += np.cos(yaw) * speed * dt
            y += np.sin(yaw) * speed * dt
            yaw += turn * speed * dt
            along += np.cos(heading) * speed * dt
            offset += np.sin(heading) * speed * dt
            heading += (turn - bend) * speed * dt
        points[:, point] = np.column_stack([x, y])
    return points


def load(folder: Path, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The data of the folder; generated there by whoever finds none of this size."""
    path = folder / f"driving_{count}_{seed}.npz"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        seen, points = generate(count, seed)
        unfinished = path.with_suffix(".tmp")
        with unfinished.open("wb") as file:
            np.savez(file, seen=seen, points=points)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    with np.load(path) as data:
        return data["seen"], data["points"]
