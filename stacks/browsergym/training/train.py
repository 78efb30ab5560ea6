"""Learns which element to click from what clicks earn, in a real browser, over the network.

    train.py --config-file-name click-button.yaml

Every config has a folder of its own for checkpoints and for TensorBoard. A run goes on from its last checkpoint, stops on
SIGTERM with nothing lost but the episodes in hand, and ends when its episodes are done; with --rest it waits instead.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import checkpoints
import gpus
import numpy as np
import policy
from config import Config, Wrong
from openenv.core import GenericEnvClient
from tensorboardX import SummaryWriter

log = logging.getLogger("training")

HEARTBEAT = Path("/tmp/heartbeat")
SECRETS = Path("/run/secrets")
WORKSPACE = Path("/workspace")
WINDOW = 16  # episodes that the mean reward is taken over


class Stopped(Exception):
    """The container was told to stop."""


@dataclass(frozen=True)
class Episode:
    clicked: list[np.ndarray]
    rewards: list[float]


class Trainer:
    def __init__(self, name: str, config: Config, server: str) -> None:
        self.config = config
        self.server = server
        self.folder = WORKSPACE / "checkpoints" / name
        self.stopping = asyncio.Event()
        self.progress = checkpoints.newest(self.folder) or checkpoints.Progress.start(policy.SIZE)
        if self.progress.episode:
            log.info("resumed from episode %d (%s)", self.progress.episode, self.recent())
        # Its flush does not wait for what is still in its queue; its own thread writes that, by default two minutes later.
        logs = str(WORKSPACE / "logs" / name)
        self.writer = SummaryWriter(logs, purge_step=self.progress.episode + 1, flush_secs=2)

    def recent(self) -> str:
        last = self.progress.solved[-WINDOW:]
        return f"mean reward {last.mean():.2f} over the last {len(last)}" if len(last) else "nothing played yet"

    async def run(self, rest: bool) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, self.stopping.set)
        try:
            while self.progress.episode < self.config.episodes:
                await self._round()
            log.info("episode %d reached: %s", self.progress.episode, self.recent())
            while rest and not await self._pause(5):
                HEARTBEAT.touch()
        except Stopped:
            log.info("stopped after episode %d, which is saved", self.progress.episode)
        finally:
            self.writer.close()

    async def _round(self) -> None:
        """As many episodes as there are sessions, all with the same policy; then it learns, and saves what it knows."""
        began = time.monotonic()
        first = self.progress.episode
        numbers = range(first, min(first + self.config.sessions, self.config.episodes))
        try:
            played = await asyncio.gather(*(self._play(number) for number in numbers))
        except Stopped:
            raise
        except (
            Exception
        ) as error:  # a lost connection has no one class; whatever it is, the health check sees no progress
            log.warning("server %s: %s: %s; trying again", self.server, type(error).__name__, error)
            if await self._pause(2):
                raise Stopped from None
            return
        before = self.progress
        clicked = np.vstack([before.clicked, *(row for episode in played for row in episode.clicked)])
        rewards = np.append(before.rewards, [reward for episode in played for reward in episode.rewards])
        earned = [sum(episode.rewards) for episode in played]
        self.progress = checkpoints.Progress(
            episode=before.episode + len(played),
            weights=policy.learn(before.weights, clicked, rewards),
            clicked=clicked,
            rewards=rewards,
            solved=np.append(before.solved, earned),
        )
        path = checkpoints.save(self.progress, self.folder, self.config.kept)
        for number, reward in zip(numbers, earned, strict=True):
            self.writer.add_scalar("reward/episode", reward, number + 1)
        self.writer.add_scalar("reward/mean", self.progress.solved[-WINDOW:].mean(), self.progress.episode)
        self.writer.add_scalar("seconds/episode", (time.monotonic() - began) / len(played), self.progress.episode)
        self.writer.flush()
        HEARTBEAT.touch()
        log.info("episode %d: %s, saved %s", self.progress.episode, self.recent(), path.name)

    async def _play(self, number: int) -> Episode:
        """Clicks until the task is done or its clicks are used up. Seeded by the episode: played again, it is the same."""
        random = np.random.default_rng([self.config.seed, number])
        task = self.config.tasks[number % len(self.config.tasks)]
        episode = Episode([], [])
        async with GenericEnvClient(base_url=self.server) as session:
            result = await session.reset(seed=int(random.integers(2**31)), task_name=task)
            while not result.done and len(episode.rewards) < self.config.steps:
                if self.stopping.is_set():
                    raise Stopped
                there = policy.elements(result.observation["axtree_txt"])
                if not there:
                    break
                seen = np.array([policy.features(result.observation["goal"], element) for element in there])
                choice = int(random.choice(len(there), p=policy.chances(self.progress.weights, seen)))
                result = await session.step({"action_str": f"click('{there[choice].bid}')"})
                episode.clicked.append(seen[choice])
                episode.rewards.append(float(result.reward or 0.0))
        return episode

    async def _pause(self, seconds: float) -> bool:
        """Waits; true when told to stop meanwhile."""
        try:
            await asyncio.wait_for(self.stopping.wait(), seconds)
        except asyncio.TimeoutError:
            return False
        return True


def take_secrets(folder: Path) -> list[str]:
    """Hands secret files to the libraries that look in the environment; returns the names of those that were given.

    They stay out of the container's configuration: only this process has them.
    """
    given = []
    for name in ("HF_TOKEN", "WANDB_API_KEY"):
        file = folder / name
        value = file.read_text(encoding="utf-8").strip() if file.exists() else ""
        if value:
            os.environ[name] = value
            given.append(name)
    return given


def main() -> int:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    options = argparse.ArgumentParser(description="Learns which element to click")
    options.add_argument("--config-file-name", required=True, help="a file of /workspace/configs")
    options.add_argument("--rest", action="store_true", help="wait when the episodes are done, instead of ending")
    given = options.parse_args()
    wanted = os.environ.get("GPULAB_GPUS", "")
    seen = gpus.visible()
    log.info("GPUs asked for: %s; seen: %s", wanted or "none", ", ".join(seen) or "none")
    missing = gpus.missing(wanted, seen)
    if missing:
        log.error("refusing to train without the GPU that was asked for: %s", missing)
        return 3
    try:
        config = Config.read(WORKSPACE / "configs", given.config_file_name)
    except Wrong as wrong:
        log.error("%s", wrong)
        return 2
    log.info("secrets given: %s", ", ".join(take_secrets(SECRETS)) or "none")
    name = Path(given.config_file_name).stem
    server = os.environ.get("BROWSERGYM_URL", "http://browsergym:8000")
    asyncio.run(Trainer(name, config, server).run(given.rest))
    return 0


if __name__ == "__main__":
    sys.exit(main())
