"""CartPole as an OpenEnv environment: many carts a session, one message a step for all of them.

A trainer that asks for one cart at a time spends its life waiting for the network. Here a session
resets a whole population (`count` carts) and every step moves each of them.

Run it with `uvicorn cartpole:app`; GET /health answers, the episodes are on WebSocket /ws.
"""

from __future__ import annotations

import os
from typing import Any

import gymnasium
import numpy as np
from openenv.core.env_server import Action, Environment, Observation, State, create_fastapi_app
from pydantic import Field

MOST_CARTS = 4096


class Pushes(Action):
    """One push a cart: 0 to the left, 1 to the right."""

    pushes: list[int]


class Carts(Observation):
    """What every cart looks like now; a cart that has fallen stays fallen until the next reset."""

    carts: list[list[float]] = Field(description="Position, speed, angle and angular speed of each cart")
    rewards: list[float] = Field(description="1 for each cart that stood at this step")
    fallen: list[bool] = Field(description="Carts whose episode is over")


class CartPole(Environment[Pushes, Carts, State]):
    """Gymnasium's vectorised CartPole-v1 behind OpenEnv's interface, one instance a session."""

    SUPPORTS_CONCURRENT_SESSIONS = True

    def __init__(self) -> None:
        super().__init__()
        self._carts: gymnasium.vector.VectorEnv | None = None
        self._fallen = np.zeros(0, dtype=bool)
        self._state = State()

    def reset(self, seed: int | None = None, episode_id: str | None = None, count: int = 1, **_: Any) -> Carts:
        if not 1 <= count <= MOST_CARTS:
            raise ValueError(f"count must be 1 to {MOST_CARTS}, not {count}")
        if self._carts is None or self._carts.num_envs != count:
            self.close()
            self._carts = gymnasium.make_vec("CartPole-v1", num_envs=count, vectorization_mode="vector_entry_point")
        seen, _info = self._carts.reset(seed=seed)
        self._fallen = np.zeros(count, dtype=bool)
        self._state = State(episode_id=episode_id, step_count=0)
        return self._observe(seen, np.zeros(count))

    def step(self, action: Pushes, timeout_s: float | None = None, **_: Any) -> Carts:
        if self._carts is None:
            raise ValueError("reset comes before the first step")
        if len(action.pushes) != self._carts.num_envs:
            raise ValueError(f"{len(action.pushes)} pushes for {self._carts.num_envs} carts")
        seen, rewards, terminated, truncated, _info = self._carts.step(np.asarray(action.pushes))
        # Gymnasium starts a fallen cart anew at the next step: what it earns then belongs to no episode of ours.
        rewards = np.where(self._fallen, 0.0, rewards)
        self._fallen |= terminated | truncated
        self._state.step_count += 1
        return self._observe(seen, rewards)

    @property
    def state(self) -> State:
        return self._state

    def close(self) -> None:
        if self._carts is not None:
            self._carts.close()
            self._carts = None

    def _observe(self, seen: np.ndarray, rewards: np.ndarray) -> Carts:
        return Carts(
            carts=seen.tolist(),
            rewards=rewards.tolist(),
            fallen=self._fallen.tolist(),
            reward=float(rewards.sum()),
            done=bool(self._fallen.all()),
        )


app = create_fastapi_app(CartPole, Pushes, Carts, max_concurrent_envs=int(os.environ.get("SIMULATOR_SESSIONS", "8")))
