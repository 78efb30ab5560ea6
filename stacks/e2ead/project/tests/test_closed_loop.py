"""The closed loop, on a car of a few lines instead of CARLA's."""

from __future__ import annotations

import math

import numpy as np
import torch
from evaluation.closed_loop import TICK, WHEELBASE, WIDEST, Seen, drive, turned
from training.sft import waypoint_data
from training.sft.waypoint_model import LOOK_AHEAD


class SimpleCar:
    """On a lane that bends alike everywhere."""

    def __init__(self, bend: float, offset: float, wall: float = 5.0) -> None:
        self.bend, self.offset, self.heading, self.speed, self.wall = bend, offset, 0.0, 4.0, wall

    def see(self) -> Seen:
        return Seen(self.speed, self.offset, self.heading, (self.bend,) * len(LOOK_AHEAD))

    def act(self, throttle: float, steer: float) -> bool:
        turn = math.tan(steer * WIDEST) / WHEELBASE
        self.offset += math.sin(self.heading) * self.speed * TICK
        self.heading += (turn - self.bend) * self.speed * TICK
        self.speed += 3.0 * throttle * TICK
        return abs(self.offset) > self.wall


def expert(seen: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(waypoint_data.drive(seen.numpy()[None].astype(np.float32))[0])


def test_a_good_driver_comes_back_to_the_lane_and_stays() -> None:
    for bend in (0.0, 0.03, -0.03):
        car = SimpleCar(bend, offset=1.5)
        driven = drive(expert, car, ticks=600, speed=8.0)
        assert not driven["collided"]
        assert driven["worst_offset"] < 1.6
        assert abs(car.offset) < 0.5, bend
        assert driven["metres"] > 150


def test_a_bad_driver_hits_the_wall() -> None:
    driven = drive(
        lambda seen: expert(seen) * torch.tensor([1.0, -1.0]), SimpleCar(0.03, offset=0.5), ticks=600, speed=8.0
    )
    assert driven["collided"]
    assert driven["seconds"] < 30


def test_yaws_turn_the_short_way_round() -> None:
    assert math.isclose(turned(179.0, -179.0), math.radians(2.0))
    assert math.isclose(turned(-179.0, 179.0), math.radians(-2.0))
