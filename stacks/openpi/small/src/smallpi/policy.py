"""A policy of two small layers: camera image and joint state in, a chunk of actions out."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

import numpy as np

log = logging.getLogger("policy")

HORIZON, ACTION = 10, 7  # actions a chunk, numbers an action: what openpi's LIBERO policies answer
PATCHES, STATE, HIDDEN = 8, 8, 64  # the image is seen as 8 x 8 patches of colour
INPUTS = PATCHES * PATCHES * 3 + STATE
PARAMS, STATS = "params.npz", "assets/norm_stats.json"


class SmallPolicy:
    """numpy only, and a function of what it is shown: the same weights answer the same for ever."""

    def __init__(self, weights: dict[str, np.ndarray], stats: dict[str, list[float]] | None, name: str) -> None:
        self.weights = weights
        self.stats = stats or {"mean": [0.0] * STATE, "std": [1.0] * STATE}
        self.metadata = {"policy": "small", "checkpoint": name, "horizon": HORIZON, "action_dim": ACTION}

    @classmethod
    def default(cls, home: Path) -> SmallPolicy:
        """The weights of the data folder; made there, always the same, by the first start."""
        path = home / "small-policy" / "weights.npz"
        if not path.exists():
            write_weights(path, untrained(20260101))
            log.info("wrote %s", path)
        return cls(read_weights(path), None, "default")

    @classmethod
    def checkpoint(cls, folder: Path) -> SmallPolicy:
        """What a training left: weights, and the statistics that its states were normalised with."""
        stats = json.loads((folder / STATS).read_text(encoding="utf-8"))
        return cls(read_weights(folder / PARAMS), stats, str(folder))

    def infer(self, seen: dict[str, Any]) -> dict[str, Any]:
        """actions, shape (HORIZON, ACTION), for an observation with openpi's LIBERO keys."""
        image, state = seen["observation/image"], np.asarray(seen["observation/state"], np.float32)
        if image.ndim != 3 or image.shape[2] != 3 or min(image.shape[:2]) < PATCHES:
            raise ValueError(f"observation/image is {image.shape}, not height x width x 3")
        if state.shape != (STATE,):
            raise ValueError(f"observation/state is {state.shape}, not ({STATE},)")
        rows, columns = (np.linspace(0, size, PATCHES, endpoint=False, dtype=int) for size in image.shape[:2])
        sums = np.add.reduceat(np.add.reduceat(image.astype(np.float32), rows, axis=0), columns, axis=1)
        colours = sums / (255.0 * image.shape[0] * image.shape[1] / PATCHES**2)
        inputs = np.concatenate([colours.ravel(), self.normalised(state)]).astype(np.float32)
        return {"actions": np.tanh(self.features(inputs) @ self.weights["out"]).reshape(HORIZON, ACTION)}

    def features(self, inputs: np.ndarray) -> np.ndarray:
        return np.tanh(inputs @ self.weights["hidden"])

    def normalised(self, states: np.ndarray) -> np.ndarray:
        return (states - np.asarray(self.stats["mean"], np.float32)) / np.asarray(self.stats["std"], np.float32)


def untrained(seed: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    return {
        "hidden": random.normal(0, INPUTS**-0.5, (INPUTS, HIDDEN)).astype(np.float32),
        "out": random.normal(0, HIDDEN**-0.5, (HIDDEN, HORIZON * ACTION)).astype(np.float32),
    }


def read_weights(path: Path) -> dict[str, np.ndarray]:
    with np.load(path) as data:
        return {name: data[name] for name in ("hidden", "out")}


def write_weights(path: Path, weights: dict[str, np.ndarray]) -> None:
    """Whole or not at all, whenever the power goes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".tmp")
    with unfinished.open("wb") as file:
        np.savez(file, **weights)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)
