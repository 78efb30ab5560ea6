"""A policy of two small layers: camera image and joint state in, a chunk of actions out."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import numpy as np

log = logging.getLogger("policy-server")

HORIZON, ACTION = 10, 7  # actions a chunk, numbers an action: what openpi's LIBERO policies answer
PATCHES, STATE, HIDDEN = 8, 8, 64  # the image is seen as 8 x 8 patches of colour


class SmallPolicy:
    """numpy only; the same weights for ever once they are in the data folder."""

    def __init__(self, weights: dict[str, np.ndarray]) -> None:
        self._weights = weights
        self.metadata = {"policy": "small", "horizon": HORIZON, "action_dim": ACTION}

    @classmethod
    def load(cls, home: Path) -> SmallPolicy:
        """The weights of the data folder; made there, always the same, by the first start."""
        path = home / "small-policy" / "weights.npz"
        if not path.exists():
            random = np.random.default_rng(20260101)
            inputs = PATCHES * PATCHES * 3 + STATE
            path.parent.mkdir(parents=True, exist_ok=True)
            unfinished = path.with_suffix(".tmp")
            with unfinished.open("wb") as file:
                np.savez(
                    file,
                    hidden=random.normal(0, inputs**-0.5, (inputs, HIDDEN)).astype(np.float32),
                    out=random.normal(0, HIDDEN**-0.5, (HIDDEN, HORIZON * ACTION)).astype(np.float32),
                )
                file.flush()
                os.fsync(file.fileno())
            unfinished.replace(path)
            log.info("wrote %s", path)
        with np.load(path) as data:
            return cls({name: data[name] for name in ("hidden", "out")})

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
        hidden = np.tanh(np.concatenate([colours.ravel(), state]) @ self._weights["hidden"])
        return {"actions": np.tanh(hidden @ self._weights["out"]).reshape(HORIZON, ACTION)}
