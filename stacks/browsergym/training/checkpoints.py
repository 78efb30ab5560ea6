"""Checkpoints: one file a round of episodes, written whole or not at all."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

log = logging.getLogger("training")


@dataclass(frozen=True)
class Progress:
    """Everything that the next round needs: the policy, and the clicks that it has learned from."""

    episode: int
    weights: np.ndarray
    clicked: np.ndarray  # a row for each click: the element's features
    rewards: np.ndarray  # what each click earned
    solved: np.ndarray  # what each episode earned

    @classmethod
    def start(cls, size: int) -> Progress:
        return cls(0, np.zeros(size), np.zeros((0, size)), np.zeros(0), np.zeros(0))


def save(progress: Progress, folder: Path, kept: int) -> Path:
    """Writes episode_NNNNN.npz: on disk before it has its name, and its name on disk before this returns."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"episode_{progress.episode:05d}.npz"
    unfinished = path.with_suffix(".tmp")
    with unfinished.open("wb") as file:
        np.savez(file, **vars(progress))
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)
    entry = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(entry)
    finally:
        os.close(entry)
    for old in sorted(folder.glob("episode_*.npz"))[:-kept]:
        old.unlink()
    return path


def newest(folder: Path) -> Progress | None:
    """The last checkpoint that can be read; a damaged one is said and passed over."""
    for path in sorted(folder.glob("episode_*.npz"), reverse=True):
        try:
            with np.load(path) as data:
                return Progress(
                    episode=int(data["episode"]), **{name: data[name] for name in data if name != "episode"}
                )
        except Exception as error:  # numpy, zipfile and the file system each have their own way to say it
            log.warning("checkpoint %s cannot be read (%s): using the one before it", path.name, error)
    return None
