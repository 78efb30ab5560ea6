"""Trains a small policy against the simulator service, over the network, for as long as it is let run.

The policy is one linear unit; it is improved by the cross-entropy method: draw a population of weights,
let each steer one cart, keep the best, draw the next population around them. What this shows is the
life of a training job, not the learning: it waits for its simulator, uses the GPUs it was given or refuses,
logs for TensorBoard, saves checkpoints that a power cut cannot tear, resumes from the last of them, and stops when told.
"""

from __future__ import annotations

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
from openenv.core import GenericEnvClient
from tensorboardX import SummaryWriter

log = logging.getLogger("training")

OBSERVED = 4  # what CartPole shows of a cart
ELITE = 0.2  # share of a population that the next one is drawn around
HEARTBEAT = Path("/tmp/heartbeat")
SECRETS = Path("/run/secrets")


@dataclass(frozen=True)
class Settings:
    simulator: str
    population: int
    generations: int
    seed: int
    checkpoints: Path
    logs: Path

    @classmethod
    def from_environment(cls, env: dict[str, str]) -> Settings:
        return cls(
            simulator=env.get("SIMULATOR_URL", "http://simulator:8000"),
            population=int(env.get("POPULATION", "64")),
            generations=int(env.get("GENERATIONS", "50")),
            seed=int(env.get("SEED", "1")),
            checkpoints=Path(env.get("CHECKPOINTS", "/data/checkpoints")),
            logs=Path(env.get("LOGS", "/data/logs")),
        )


class Stopped(Exception):
    """The container was told to stop."""


class Trainer:
    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.stopping = asyncio.Event()
        self.progress = checkpoints.newest(settings.checkpoints) or checkpoints.Progress.start(OBSERVED + 1)
        if self.progress.generation:
            log.info("resumed from generation %d (mean reward %.1f)", self.progress.generation, self.progress.reward)
        self.writer = SummaryWriter(str(settings.logs), purge_step=self.progress.generation + 1)

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stopping.set)
        try:
            while self.progress.generation < self.settings.generations:
                await self._with_simulator()
            log.info("generation %d reached: nothing left to do until GENERATIONS is raised", self.progress.generation)
            HEARTBEAT.touch()
            while not await self._pause(5):
                HEARTBEAT.touch()
        except Stopped:
            pass
        finally:
            self.writer.close()
        log.info("stopped after generation %d, which is saved", self.progress.generation)

    async def _with_simulator(self) -> None:
        """Trains until done, or until the simulator goes away: then it comes back here."""
        try:
            async with GenericEnvClient(base_url=self.settings.simulator) as simulator:
                while self.progress.generation < self.settings.generations:
                    await self._generation(simulator)
        except Stopped:
            raise
        except (
            Exception
        ) as error:  # a lost connection has no one class; whatever it is, the health check sees no progress
            log.warning("simulator %s: %s: %s; trying again", self.settings.simulator, type(error).__name__, error)
            if await self._pause(2):
                raise Stopped from None

    async def _generation(self, simulator: GenericEnvClient) -> None:
        began = time.monotonic()
        number = self.progress.generation + 1
        # Seeded by the generation: one that is cut short and run again draws the same population.
        random = np.random.default_rng([self.settings.seed, number])
        policies = random.normal(self.progress.mean, self.progress.spread, (self.settings.population, OBSERVED + 1))
        rewards = await self._play(simulator, policies, seed=number)
        best = policies[np.argsort(rewards)[-max(2, int(self.settings.population * ELITE)) :]]
        self.progress = checkpoints.Progress(
            generation=number,
            mean=best.mean(axis=0),
            spread=best.std(axis=0) + 0.5 / number,  # some of the first doubt is kept, less each time
            reward=float(rewards.mean()),
        )
        path = checkpoints.save(self.progress, self.settings.checkpoints)
        seconds = time.monotonic() - began
        self.writer.add_scalar("reward/mean", rewards.mean(), number)
        self.writer.add_scalar("reward/best", rewards.max(), number)
        self.writer.add_scalar("seconds/generation", seconds, number)
        self.writer.flush()
        HEARTBEAT.touch()
        log.info(
            "generation %d: mean reward %.1f, best %.0f, %.2f s, saved %s",
            number, rewards.mean(), rewards.max(), seconds, path.name,
        )  # fmt: skip

    async def _play(self, simulator: GenericEnvClient, policies: np.ndarray, seed: int) -> np.ndarray:
        """Each policy steers one cart until it falls: the sum of what each cart earned."""
        earned = np.zeros(len(policies))
        result = await simulator.reset(seed=seed, count=len(policies))
        while not result.done:
            if self.stopping.is_set():
                raise Stopped
            seen = np.asarray(result.observation["carts"])
            pushes = (seen * policies[:, :OBSERVED]).sum(axis=1) + policies[:, OBSERVED] > 0
            result = await simulator.step({"pushes": pushes.astype(int).tolist()})
            earned += result.observation["rewards"]
        return earned

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
    wanted = os.environ.get("GPULAB_GPUS", "")
    seen = gpus.visible()
    log.info("GPUs asked for: %s; seen: %s", wanted or "none", ", ".join(seen) or "none")
    missing = gpus.missing(wanted, seen)
    if missing:
        log.error("refusing to train without the GPU that was asked for: %s", missing)
        return 3
    log.info("secrets given: %s", ", ".join(take_secrets(SECRETS)) or "none")
    asyncio.run(Trainer(Settings.from_environment(dict(os.environ))).run())
    return 0


if __name__ == "__main__":
    sys.exit(main())
