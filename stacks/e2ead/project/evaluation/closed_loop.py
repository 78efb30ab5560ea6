"""The newest policy drives in CARLA: it sees its lane, says its waypoints, and lives with what it did.

Writes OUTPUT_DIR/evaluation/STEP.json.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from training.sft import checkpoints
from training.sft.waypoint_model import LOOK_AHEAD, WaypointPolicy, steering

log = logging.getLogger("evaluation")

WHEELBASE, WIDEST = 2.9, 0.6  # metres, and the wheels' angle (rad) at full steering: a saloon's
TICK = 0.05  # seconds


@dataclass(frozen=True)
class Seen:
    """What a car sees of its lane."""

    speed: float
    offset: float
    heading: float
    curvature: tuple[float, ...]

    def tensor(self) -> torch.Tensor:
        return torch.tensor([self.speed, self.offset, self.heading, *self.curvature])


class Car(Protocol):
    """What the loop needs of a simulator."""

    def see(self) -> Seen: ...
    def act(self, throttle: float, steer: float) -> bool:
        """One tick on; whether the car hit something. steer is -1 to 1, left is more."""
        ...


@dataclass(frozen=True)
class Result:
    step: int
    map: str
    seconds: float
    metres: float
    mean_offset: float
    worst_offset: float
    collided: bool


def drive(policy: Callable[[torch.Tensor], torch.Tensor], car: Car, ticks: int, speed: float) -> dict[str, Any]:
    """Closed loop: each tick sees what the one before has done."""
    metres, offsets, collided = 0.0, [], False
    for _ in range(ticks):
        seen = car.see()
        offsets.append(abs(seen.offset))
        metres += seen.speed * TICK
        with torch.inference_mode():
            curvature = steering(policy(seen.tensor()))
        steer = max(-1.0, min(1.0, math.atan(curvature * WHEELBASE) / WIDEST))
        throttle = max(0.0, min(0.7, 0.4 * (speed - seen.speed)))
        collided = car.act(throttle, steer)
        if collided:
            break
    return {
        "seconds": len(offsets) * TICK,
        "metres": metres,
        "mean_offset": sum(offsets) / len(offsets),
        "worst_offset": max(offsets),
        "collided": collided,
    }


class CarlaCar:
    """A car in CARLA, whose clock is ours for as long as this lives."""

    def __init__(self, client: Any, spawn_point: int) -> None:
        import carla

        self.carla = carla
        self.world = client.get_world()
        self.map = self.world.get_map()
        self.before = self.world.get_settings()
        settings = self.world.get_settings()
        settings.synchronous_mode, settings.fixed_delta_seconds = True, TICK
        self.world.apply_settings(settings)
        blueprints = self.world.get_blueprint_library()
        points = self.map.get_spawn_points()
        self.vehicle = self.world.spawn_actor(
            blueprints.find("vehicle.tesla.model3"), points[spawn_point % len(points)]
        )
        self.collision = self.world.spawn_actor(
            blueprints.find("sensor.other.collision"), carla.Transform(), attach_to=self.vehicle
        )
        self.hits = 0
        self.collision.listen(self._hit)
        self.world.tick()

    def _hit(self, _event: Any) -> None:
        self.hits += 1

    def see(self) -> Seen:
        """CARLA's axes are left-handed: y and yaw grow to the right."""
        transform, velocity = self.vehicle.get_transform(), self.vehicle.get_velocity()
        here = self.map.get_waypoint(transform.location)
        lane = here.transform
        right = math.radians(lane.rotation.yaw)
        dx, dy = transform.location.x - lane.location.x, transform.location.y - lane.location.y
        return Seen(
            speed=math.hypot(velocity.x, velocity.y),
            offset=dx * math.sin(right) - dy * math.cos(right),
            heading=-turned(lane.rotation.yaw, transform.rotation.yaw),
            curvature=tuple(_curvature(here, ahead) for ahead in LOOK_AHEAD),
        )

    def act(self, throttle: float, steer: float) -> bool:
        self.vehicle.apply_control(self.carla.VehicleControl(throttle=throttle, steer=-steer))
        self.world.tick()
        return self.hits > 0

    def close(self) -> None:
        self.collision.stop()
        self.collision.destroy()
        self.vehicle.destroy()
        self.world.apply_settings(self.before)


def turned(start: float, end: float) -> float:
    """From one yaw (degrees) to another, in radians, the short way round."""
    return math.radians((end - start + 180.0) % 360.0 - 180.0)


def _curvature(waypoint: Any, ahead: float, length: float = 2.0) -> float:
    """Of the lane at a distance ahead, left is more; straight on where the map ends."""
    start = waypoint.next(ahead)[0] if ahead else waypoint
    following = start.next(length)
    return -turned(start.transform.rotation.yaw, following[0].transform.rotation.yaw) / length if following else 0.0


def _cars(client: Any, count: int) -> Iterator[CarlaCar]:
    for index in range(count):
        car = CarlaCar(client, index)
        try:
            yield car
        finally:
            car.close()


def main() -> int:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stdout)
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--routes", type=int, default=3, help="spawn points of the map to start from")
    parser.add_argument("--seconds", type=float, default=30.0, help="of each route")
    parser.add_argument("--speed", type=float, default=8.0, help="m/s")
    args = parser.parse_args()
    import carla

    client = carla.Client(os.environ.get("CARLA_HOST", "carla"), int(os.environ.get("CARLA_PORT", "2000")))
    client.set_timeout(60.0)
    world_map = client.get_world().get_map().name
    kept = checkpoints.newest(Path(os.environ["CHECKPOINT_DIR"]))
    log.info("CARLA shows %s", world_map)
    if kept is None:
        log.info("there is no checkpoint to evaluate yet: train first")
        return 0
    policy = WaypointPolicy(kept["hidden"])
    policy.load_state_dict(kept["model"])
    policy.eval()
    results = []
    for car in _cars(client, args.routes):
        driven = drive(policy, car, round(args.seconds / TICK), args.speed)
        results.append(asdict(Result(step=kept["step"], map=world_map, **driven)))
        log.info("%s", results[-1])
    folder = Path(os.environ["OUTPUT_DIR"]) / "evaluation"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"step_{kept['step']:08d}.json"
    unfinished = path.with_suffix(".tmp")
    unfinished.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    unfinished.replace(path)
    log.info("wrote %s", path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
