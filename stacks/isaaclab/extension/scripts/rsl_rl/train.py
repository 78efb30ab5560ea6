"""Train a policy with rsl-rl's PPO. The arguments are those of Isaac Lab's own script of this name."""

from __future__ import annotations

import argparse
import os
import sys
from datetime import datetime, timezone
from pathlib import Path

# rsl-rl looks for the program git when it is imported; there need not be one.
os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")

import torch
from ext_template import environments, runs
from rsl_rl.runners import OnPolicyRunner


def settings(seed: int, save_interval: int) -> dict[str, object]:
    """rsl-rl's own configuration, form of version 5."""
    network = {"class_name": "MLPModel", "hidden_dims": [64, 64], "activation": "elu", "obs_normalization": True}
    return {
        "seed": seed,
        "num_steps_per_env": 32,
        "save_interval": save_interval,
        "logger": "tensorboard",
        "obs_groups": {"actor": ["policy"], "critic": ["policy"]},
        "actor": {**network, "distribution_cfg": {"class_name": "GaussianDistribution", "init_std": 1.0}},
        "critic": network,
        "algorithm": {
            "class_name": "PPO",
            "value_loss_coef": 1.0,
            "use_clipped_value_loss": True,
            "clip_param": 0.2,
            "entropy_coef": 0.0,
            "num_learning_epochs": 5,
            "num_mini_batches": 4,
            "learning_rate": 1e-3,
            "schedule": "adaptive",
            "gamma": 0.99,
            "lam": 0.95,
            "desired_kl": 0.01,
            "max_grad_norm": 1.0,
        },
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--task", default="InvertedPendulum-v5", help="a MuJoCo task of Gymnasium")
    parser.add_argument("--num_envs", type=int, default=32)
    parser.add_argument("--max_iterations", type=int, default=30)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--resume", action="store_true", help="go on from the newest model of this task")
    parser.add_argument("--headless", action="store_true", help="taken and not needed: nothing is shown")
    options = parser.parse_args()

    folder = Path("logs", "rsl_rl", runs.experiment(options.task))
    found = runs.newest(folder) if options.resume else None
    if options.resume and found is None:
        print(f"--resume: there is no model in {folder.absolute()}", file=sys.stderr)
        return 2
    torch.manual_seed(options.seed)
    device = "cuda:0" if torch.cuda.is_available() else "cpu"
    if device == "cpu":
        torch.set_num_threads(1)  # networks this small wait for each other's threads longer than they compute
    tasks = environments.MujocoEnvironments(options.task, options.num_envs, options.seed, device)
    run = folder / datetime.now(timezone.utc).strftime("%Y-%m-%d_%H-%M-%S-%f")
    run.mkdir(parents=True)
    runner = OnPolicyRunner(tasks, settings(options.seed, save_interval=10), log_dir=str(run), device=device)
    if found is not None:
        runner.load(str(found))
        print(f"resumed from {found}, iteration {runner.current_learning_iteration}")
    print(f"training {options.task} on {device}, logs in {run.absolute()}", flush=True)
    runner.learn(options.max_iterations)
    tasks.close()
    print(f"saved {runs.newest(folder)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
