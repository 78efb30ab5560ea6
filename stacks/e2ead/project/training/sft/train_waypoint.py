"""Trains the waypoint policy by behaviour cloning, on as many processes as torchrun starts.

Resumes from the newest checkpoint, in the middle of an epoch if need be, and writes one when it is told to stop.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import yaml
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.tensorboard import SummaryWriter

from training.sft import checkpoints, waypoint_data
from training.sft.waypoint_model import WaypointPolicy

log = logging.getLogger("training")


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", required=True, help="YAML file with the settings below")
    parser.add_argument("--wandb_project", default=os.environ.get("WANDB_PROJECT", ""))
    parser.add_argument("--wandb_entity", default=os.environ.get("WANDB_ENTITY", ""))
    config = yaml.safe_load(Path(parser.parse_known_args()[0].config).read_text(encoding="utf-8"))
    for name, value in config.items():
        parser.add_argument(f"--{name}", type=type(value), default=value)
    return parser.parse_args()


def _stay(_worker: int) -> None:
    """torchrun tells a training's whole process group to stop: its loaders stay until the last batch is done with."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


class Batches:
    """This process's share of each epoch, in an order that depends on seed and epoch only: an epoch can be gone on with."""

    def __init__(self, data: TensorDataset, rank: int, world: int, args: argparse.Namespace) -> None:
        self.data, self.rank, self.world, self.args = data, rank, world, args
        self.count = max(1, len(data) // (args.batch_size * world))

    def of(self, epoch: int, first: int) -> Iterator[list[torch.Tensor]]:
        order = torch.randperm(len(self.data), generator=torch.Generator().manual_seed(self.args.seed + epoch))
        mine = order[self.rank :: self.world].tolist()
        size = self.args.batch_size
        batches = [mine[index * size : (index + 1) * size] for index in range(first, self.count)]
        yield from DataLoader(
            self.data, batch_sampler=batches, num_workers=self.args.data_workers, worker_init_fn=_stay
        )


class Training:
    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.rank, self.world = dist.get_rank(), dist.get_world_size()
        local = int(os.environ["LOCAL_RANK"])
        self.device = torch.device("cuda", local) if torch.cuda.is_available() else torch.device("cpu")
        self.folder = Path(os.environ["CHECKPOINT_DIR"])
        self.stop = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._told_to_stop)
        torch.manual_seed(args.seed)
        self.policy = WaypointPolicy().to(self.device)
        self.optimizer = torch.optim.AdamW(self.policy.parameters(), lr=args.learning_rate)
        self.epoch = self.batch = self.step = 0
        self._resume()
        self.model: nn.Module = DistributedDataParallel(self.policy)

    def _told_to_stop(self, _number: int, _frame: Any) -> None:
        self.stop = True

    def _resume(self) -> None:
        kept = checkpoints.newest(self.folder)
        if kept is None:
            return
        self.policy.load_state_dict(kept["model"])
        self.optimizer.load_state_dict(kept["optimizer"])
        self.epoch, self.batch, self.step = kept["epoch"], kept["batch"], kept["step"]
        if kept["share"] != [self.world, self.args.batch_size]:
            self.batch = 0  # another division of the data: this epoch is begun anew
        if self.rank == 0:
            log.info("resumed from step %d (epoch %d, batch %d)", self.step, self.epoch, self.batch)

    def save(self) -> None:
        """By the first process; nobody goes on before it is on disk."""
        if self.rank == 0:
            kept = {
                "model": self.policy.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "hidden": self.policy.hidden,
                "epoch": self.epoch,
                "batch": self.batch,
                "step": self.step,
                "share": [self.world, self.args.batch_size],
            }
            log.info("saved %s", checkpoints.save(kept, self.folder))
        dist.barrier()

    def run(self, data: TensorDataset, log_to: Any) -> None:
        batches = Batches(data, self.rank, self.world, self.args)
        while self.epoch < self.args.epochs:
            began, first, losses = time.monotonic(), self.batch, []
            for batch in batches.of(self.epoch, self.batch):
                losses.append(self._step(batch))
                if self._all_stop():
                    self.save()
                    if self.rank == 0:
                        log.info("told to stop: step %d is saved", self.step)
                    return
            self.epoch, self.batch = self.epoch + 1, 0
            if losses and self.rank == 0:
                rate = len(losses) * self.args.batch_size * self.world / (time.monotonic() - began)
                mean = float(torch.stack(losses).mean())
                log_to({"loss": mean, "samples/s": rate, "epoch": self.epoch}, self.step)
                log.info(
                    "epoch %d from batch %d: loss %.4f, %.0f samples/s on %d processes (%s)",
                    self.epoch, first, mean, rate, self.world, self.device.type,
                )  # fmt: skip
            if self.epoch % self.args.checkpoint_every == 0 or self.epoch >= self.args.epochs:
                self.save()
        if self.rank == 0:
            log.info("epoch %d reached: done until `epochs` is raised", self.epoch)

    def _step(self, batch: list[torch.Tensor]) -> torch.Tensor:
        seen, wanted = (each.to(self.device, non_blocking=True) for each in batch)
        self.batch += 1
        update = self.batch % self.args.gradient_accumulation_steps == 0
        # The processes exchange gradients only for an update.
        with contextlib.nullcontext() if update else self.model.no_sync():  # type: ignore[operator]
            loss = nn.functional.smooth_l1_loss(self.model(seen), wanted)
            (loss / self.args.gradient_accumulation_steps).backward()
        if update:
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            self.step += 1
        return loss.detach()

    def _all_stop(self) -> bool:
        """Whether any process was told to: they have to leave at the same batch."""
        told = torch.tensor([int(self.stop)], device=self.device)
        dist.all_reduce(told, dist.ReduceOp.MAX)
        return bool(told.item())


def logger(args: argparse.Namespace) -> tuple[Any, Any]:
    """(writes figures to TensorBoard and W&B, closes both)"""
    folder = Path(os.environ["OUTPUT_DIR"]) / "tensorboard"
    board = SummaryWriter(str(folder))
    run = None
    if args.wandb_project:
        import wandb

        run = wandb.init(
            project=args.wandb_project,
            entity=args.wandb_entity or None,
            config=vars(args),
            dir=os.environ.get("WANDB_DIR"),
        )

    def write(values: dict[str, float], step: int) -> None:
        for name, value in values.items():
            board.add_scalar(name, value, step)
        board.flush()
        if run is not None:
            run.log(values, step=step)

    def close() -> None:
        board.close()
        if run is not None:
            run.finish()

    return write, close


def main() -> None:
    args = read_arguments()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stdout)
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    training = Training(args)
    write = close = None
    if training.rank == 0:
        waypoint_data.load(Path(os.environ["TRAIN_DATA_DIR"]), args.samples, args.seed)
        write, close = logger(args)
    dist.barrier()  # the data are there
    seen, points = waypoint_data.load(Path(os.environ["TRAIN_DATA_DIR"]), args.samples, args.seed)
    try:
        training.run(TensorDataset(torch.from_numpy(seen), torch.from_numpy(points)), write)
    finally:
        if close is not None:
            close()
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
