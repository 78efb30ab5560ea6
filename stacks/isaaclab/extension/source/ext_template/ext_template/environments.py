"""Gymnasium's MuJoCo environments in the form that rsl-rl trains on: tensors, all of a step at once."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import torch
from rsl_rl.env import VecEnv
from tensordict import TensorDict


class MujocoEnvironments(VecEnv):  # type: ignore[misc]
    """Many environments of one task; each starts anew in the step in which it ended, as Isaac Lab's do."""

    def __init__(self, task: str, count: int, seed: int, device: str) -> None:
        self._environments = gymnasium.make_vec(
            task,
            num_envs=count,
            vectorization_mode="sync",
            vector_kwargs={"autoreset_mode": gymnasium.vector.AutoresetMode.SAME_STEP},
        )
        spec = self._environments.spec
        space = self._environments.single_action_space
        self.num_envs = count
        self.num_actions = int(np.prod(space.shape))
        self.max_episode_length = spec.max_episode_steps if spec and spec.max_episode_steps else 1000
        self.device = device
        self.cfg: dict[str, Any] = {"task": task, "num_envs": count, "seed": seed}
        self.episode_length_buf = torch.zeros(count, dtype=torch.long, device=device)
        self._lowest, self._highest = space.low, space.high
        seen, _ = self._environments.reset(seed=seed)
        self._seen = self._observed(seen)

    def get_observations(self) -> TensorDict:
        return self._seen

    def step(self, actions: torch.Tensor) -> tuple[TensorDict, torch.Tensor, torch.Tensor, dict[str, Any]]:
        wanted = np.clip(actions.detach().cpu().numpy(), self._lowest, self._highest)
        seen, rewards, terminated, truncated, _ = self._environments.step(wanted)
        self._seen = self._observed(seen)
        ended = self._tensor(terminated | truncated)
        self.episode_length_buf = torch.where(ended > 0, 0, self.episode_length_buf + 1)
        return self._seen, self._tensor(rewards), ended, {"time_outs": self._tensor(truncated)}

    def close(self) -> None:
        self._environments.close()

    def _observed(self, seen: np.ndarray) -> TensorDict:
        return TensorDict({"policy": self._tensor(seen)}, batch_size=[self.num_envs], device=self.device)

    def _tensor(self, values: np.ndarray) -> torch.Tensor:
        return torch.as_tensor(np.asarray(values), dtype=torch.float32, device=self.device)
