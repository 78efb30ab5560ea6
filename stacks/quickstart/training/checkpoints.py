"""Checkpoints: one file a generation, written whole or not at all."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

log = logging.getLogger("training")

KEPT = 10


@dataclass(frozen=True)
class Progress:
    """Everything that the next generation is drawn from."""

    generation: int
    mean: np.ndarray
    spread: np.ndarray
    reward: float

    @classmethod
    def start(cls, size: int) -> Progress:
        return cls(generation=0, mean=np.zeros(size), spread=np.ones(size), reward=0.0)


def save(progress: Progress, folder: Path) -> Path:
    """Writes gen_NNNNN.npz: on disk before it has its name, and its name on disk before this returns."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"gen_{progress.generation:05d}.npz"
    unfinished = path.with_suffix(".tmp")
    with unfinished.open("wb") as file:
        np.savez(
            file,
            generation=progress.generation,
            mean=progress.mean,
            spread=progress.spread,
            reward=progress.reward,
        )
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)
    entry = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(entry)
    finally:
        os.close(entry)
    for old in sorted(folder.glob("gen_*.npz"))[:-KEPT]:
        old.unlink()
    return path


def newest(folder: Path) -> Progress | None:
    """The last checkpoint that can be read; a damaged one is said and passed over."""
    for path in sorted(folder.glob("gen_*.npz"), reverse=True):
        try:
            with np.load(path) as data:
                return Progress(
                    generation=int(data["generation"]),
                    mean=data["mean"],
                    spread=data["spread"],
                    reward=float(data["reward"]),
                )
        except Exception as error:  # numpy, zipfile and the file system each have their own way to say it
            log.warning("checkpoint %s cannot be read (%s): using the one before it", path.name, error)
    return None
