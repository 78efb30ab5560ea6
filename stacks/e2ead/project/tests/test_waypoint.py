"""What the data and the policy mean. In the container: gpulab shell e2ead training pytest"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from training.sft import checkpoints, waypoint_data
from training.sft.waypoint_model import HORIZON, OBSERVED, STEP, WaypointPolicy, steering


def seen(speed: float, offset: float, heading: float, curvature: float) -> np.ndarray:
    return np.array([[speed, offset, heading, *[curvature] * (OBSERVED - 3)]], np.float32)


def test_straight_ahead_stays_straight() -> None:
    points = waypoint_data.drive(seen(10.0, 0.0, 0.0, 0.0))[0]
    assert np.allclose(points[:, 1], 0.0, atol=1e-4)
    assert math.isclose(points[-1, 0], 10.0 * STEP * HORIZON, rel_tol=1e-3)


def test_the_driver_comes_back_to_the_middle_and_follows_bends() -> None:
    assert waypoint_data.drive(seen(10.0, 1.0, 0.0, 0.0))[0, -1, 1] < -0.2, "one metre to the left of it: goes right"
    assert waypoint_data.drive(seen(10.0, 0.0, 0.0, 0.03))[0, -1, 1] > 1.0, "the lane bends to the left"


def test_steering_is_the_circle_through_a_waypoint() -> None:
    radius, angle = 20.0, 0.4
    point = torch.tensor([[radius * math.sin(angle), radius * (1 - math.cos(angle))]])
    assert math.isclose(steering(point), 1 / radius, rel_tol=1e-5)


def test_a_damaged_checkpoint_is_passed_over(tmp_path: Path) -> None:
    policy = WaypointPolicy()
    for step in (1, 2):
        checkpoints.save({"model": policy.state_dict(), "hidden": policy.hidden, "step": step}, tmp_path)
    (tmp_path / "step_00000002" / "model.pt").write_bytes(b"cut off")
    kept = checkpoints.newest(tmp_path)
    assert kept is not None
    assert kept["step"] == 1
    again = WaypointPolicy.load_from_checkpoint(tmp_path / "step_00000001" / "model.pt")
    see = torch.from_numpy(seen(10.0, 0.0, 0.0, 0.0))
    assert torch.equal(again(see), policy(see))
