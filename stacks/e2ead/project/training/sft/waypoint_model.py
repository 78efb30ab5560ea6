"""The policy: what a car sees of its lane in, the points that it should drive through out."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

LOOK_AHEAD = (0.0, 5.0, 10.0, 15.0, 20.0)  # metres along the lane at which its curvature is seen
OBSERVED = 3 + len(
    LOOK_AHEAD
)  # speed (m/s), offset to the lane's middle (m, left is more), heading against it (rad), 1/m
HORIZON = 8  # waypoints
STEP = 0.25  # seconds between two of them
SCALE = (20.0, 2.0, 0.5, *(0.05 for _ in LOOK_AHEAD))


class WaypointPolicy(nn.Module):
    """Observation (…, OBSERVED) to waypoints (…, HORIZON, 2): metres ahead of the car and to its left."""

    def __init__(self, hidden: int = 128) -> None:
        super().__init__()
        self.hidden = hidden
        self.register_buffer("scale", torch.tensor(SCALE), persistent=False)
        self.layers = nn.Sequential(
            nn.Linear(OBSERVED, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU(), nn.Linear(hidden, HORIZON * 2)
        )

    def forward(self, seen: Tensor) -> Tensor:
        return self.layers(seen / self.scale).unflatten(-1, (HORIZON, 2)) * 10.0

    @classmethod
    def load_from_checkpoint(cls, path: str | Path, device: str = "cpu") -> WaypointPolicy:
        kept: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
        policy = cls(kept["hidden"])
        policy.load_state_dict(kept["model"])
        return policy.to(device)


def steering(waypoints: Tensor, ahead: float = 4.0) -> float:
    """The curvature (1/m, left is more) of the circle through the first waypoint that is `ahead` metres away, or the last."""
    x, y = 0.0, 0.0
    for x, y in waypoints.tolist():
        if math.hypot(x, y) >= ahead:
            break
    return 2.0 * y / max(x * x + y * y, 0.25)
