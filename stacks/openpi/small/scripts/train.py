"""Teaches the small policy from an expert; takes the arguments of openpi's train.py that matter here.

Checkpoints go to ./checkpoints/small/EXPERIMENT/STEP, with the statistics that states were normalised with; the one that
is written whole or not at all is the folder itself.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
from pathlib import Path

import numpy as np
from smallpi.demonstrations import batches
from smallpi.policy import PARAMS, STATS, SmallPolicy, read_weights, untrained, write_weights

RATE, BATCH = 2.0, 64


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config", choices=["small"])
    parser.add_argument("--exp-name", required=True)
    parser.add_argument("--num-train-steps", type=int, default=200)
    parser.add_argument("--save-interval", type=int, default=100)
    parser.add_argument("--seed", type=int, default=42)
    beginning = parser.add_mutually_exclusive_group()
    beginning.add_argument("--overwrite", action="store_true", help="an experiment of this name begins anew")
    beginning.add_argument("--resume", action="store_true", help="an experiment of this name goes on")
    return parser.parse_args()


def steps_of(folder: Path) -> list[int]:
    return sorted(int(each.name) for each in folder.glob("[0-9]*") if each.name.isdecimal())


def save(folder: Path, step: int, policy: SmallPolicy) -> None:
    unfinished = folder / f".{step}"
    shutil.rmtree(unfinished, ignore_errors=True)
    write_weights(unfinished / PARAMS, policy.weights)
    (unfinished / STATS).parent.mkdir()
    (unfinished / STATS).write_text(json.dumps(policy.stats) + "\n", encoding="utf-8")
    unfinished.replace(folder / str(step))
    print(f"saved {folder / str(step)}", flush=True)


def main() -> None:
    given = arguments()
    folder = Path("checkpoints") / given.config / given.exp_name
    stats_file = Path("assets") / given.config / "norm_stats.json"
    if not stats_file.exists():
        raise SystemExit(f"{stats_file} is not there: compute_norm_stats.py --config-name {given.config} writes it")
    if folder.exists() and not (given.overwrite or given.resume):
        raise SystemExit(f"{folder} is there already: --resume goes on with it, --overwrite begins anew")
    if given.overwrite:
        shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    memory = os.statvfs("/dev/shm")
    print(f"/dev/shm has {memory.f_blocks * memory.f_frsize >> 20} MiB", flush=True)
    print(f"Weights & Biases is {os.environ.get('WANDB_MODE', 'online')}, its key {'' if os.environ.get('WANDB_API_KEY') else 'not '}given",
          flush=True)  # fmt: skip

    done = steps_of(folder)[-1] if given.resume and steps_of(folder) else 0
    weights = read_weights(folder / str(done) / PARAMS) if done else untrained(given.seed)
    if done:
        print(f"resumed from step {done}", flush=True)
    policy = SmallPolicy(weights, json.loads(stats_file.read_text(encoding="utf-8")), "training")
    teacher = batches(given.seed + done, BATCH)
    for step in range(done + 1, given.num_train_steps + 1):
        colours, states, wanted = next(teacher)
        hidden = policy.features(np.concatenate([colours, policy.normalised(states)], axis=1))
        actions = np.tanh(hidden @ weights["out"])
        error = actions - wanted
        weights["out"] -= RATE * (hidden.T @ (error * (1 - actions**2)) / BATCH).astype(np.float32) / 10
        if step % given.save_interval == 0 or step == given.num_train_steps:
            print(f"step {step}: loss {float(np.mean(error**2)):.4f}", flush=True)
            save(folder, step, policy)


if __name__ == "__main__":
    main()
