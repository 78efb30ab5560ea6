"""What the small policy is taught from: an expert's actions for random scenes, the same for a seed."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from smallpi.policy import PATCHES, STATE, SmallPolicy, untrained

EXPERT = 7


def batches(seed: int, size: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """(patches of colour, states, the expert's actions), without end."""
    random = np.random.default_rng(seed)
    expert = SmallPolicy(untrained(EXPERT), None, "expert")
    while True:
        colours = random.uniform(0, 1, (size, PATCHES * PATCHES * 3)).astype(np.float32)
        states = random.normal(0.5, 2.0, (size, STATE)).astype(np.float32)
        seen = np.concatenate([colours, states], axis=1)
        yield colours, states, np.tanh(expert.features(seen) @ expert.weights["out"])
