#!/usr/bin/env python3
"""What the containers of this stack start with.

e2ead work               the container is up to be worked in; with TRAIN_ON_START=true it trains, then rests
e2ead train [ARG…]       torchrun of TRAIN_MODULE with TRAIN_ARGS and these arguments, on NPROC_PER_NODE processes
e2ead evaluate [ARG…]    EVALUATION_MODULE with EVALUATION_ARGS, once CARLA answers with this client's own version
e2ead rest evaluate      the same, and then waits to be told to stop
e2ead jupyter            JupyterLab, with the token of its secret
e2ead healthy            health check of work, train and evaluate
e2ead COMMAND…           any other command, in the same environment
"""

from __future__ import annotations

import fcntl
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, MutableMapping
from pathlib import Path
from typing import Any, NoReturn

SECRETS = Path("/run/secrets")
TOKENS = ("WANDB_API_KEY", "HF_TOKEN")
ALIVE = Path("/tmp/e2ead-alive")  # touched for as long as `rest` looks after something
FRESH = 30.0
HELD: list[int] = []  # locks that go on to the command that is started
# Empty means unset to Compose, and something else to the libraries that read these.
OPTIONAL = ("WANDB_ENTITY", "PYTORCH_CUDA_ALLOC_CONF")


class Refused(Exception):
    """What is wrong, with its remedy."""


def complete(env: MutableMapping[str, str], secrets: Path = SECRETS) -> None:
    """Secrets come from files, into this process only: neither `docker inspect` nor the release's files show them."""
    for name in TOKENS:
        try:
            text = (secrets / name).read_text(encoding="utf-8").strip()
        except FileNotFoundError:
            text = ""
        except PermissionError:
            raise Refused(f"the secret {name} cannot be read by uid {os.getuid()}") from None
        if text:
            env[name] = text
    for name in OPTIONAL:
        if not env.get(name):
            env.pop(name, None)
    if not env.get("WANDB_API_KEY") and not env.get("WANDB_MODE"):
        env["WANDB_MODE"] = "offline"  # without a key W&B would ask for one; `wandb sync` sends what was kept


# --- GPUs ------------------------------------------------------------------------------------------------


def given(text: str) -> int | None:
    """How many GPUs this container was given; None: some, by hand."""
    if text == "any":
        return None
    return len([each for each in text.split(",") if each])


def processes(wanted: str, gpus: int) -> int:
    """How many training processes: NPROC_PER_NODE, where `gpu` is one for each GPU."""
    if wanted == "gpu":
        if gpus == 0:
            raise Refused(
                "NPROC_PER_NODE is gpu, and this service has no GPU: give it some (gpus: {training: 1, train: 1}), or set "
                "NPROC_PER_NODE to a number to train on CPUs"
            )
        return gpus
    if not wanted.isdecimal() or int(wanted) < 1:
        raise Refused(f"NPROC_PER_NODE is {wanted!r}: write gpu, or a number from 1 on")
    if gpus and int(wanted) > gpus:
        raise Refused(
            f"NPROC_PER_NODE is {wanted}, and this service has {gpus} GPU{'s' if gpus > 1 else ''}: two processes cannot "
            "share one with NCCL; give it more (gpus: …), or write gpu"
        )
    return int(wanted)


def count_gpus(text: str) -> int:
    """GPUs that torch can compute on: each of those that were given, or an error that says what is missing."""
    wanted = given(text)
    if wanted == 0:
        return 0
    import torch

    seen = torch.cuda.device_count()
    if torch.version.cuda is None:
        raise Refused(
            f"{text} was given, and torch {torch.__version__} is a build without CUDA: set REQUIREMENTS to requirements.txt, "
            "or give no GPU (gpus: {training: 0, train: 0})"
        )
    if seen == 0 or (wanted is not None and seen < wanted):
        raise Refused(
            f"{text} was given, and torch {torch.__version__} sees {seen}: CUDA {torch.version.cuda} of this image may be too "
            "new for the host's driver (`gpulab gpus` says which it is), or the driver has failed (`gpulab verify`)"
        )
    for index in range(seen):
        torch.ones(8, device=f"cuda:{index}").sum().item()
    return seen


# --- training --------------------------------------------------------------------------------------------


def torchrun(env: Mapping[str, str], gpus: int, arguments: list[str]) -> list[str]:
    number = processes(env.get("NPROC_PER_NODE", "gpu"), gpus)
    module = env.get("TRAIN_MODULE", "training.sft.train_waypoint")
    script = [module] if module.endswith(".py") else ["-m", module]
    given_by_site = shlex.split(env.get("TRAIN_ARGS", ""))
    # A rendezvous of its own for each: two trainings in one container do not meet.
    return ["torchrun", "--standalone", f"--nproc-per-node={number}", *script, *given_by_site, *arguments]


def check_folders(env: Mapping[str, str]) -> None:
    """Where a training writes; found out now and not after its first epoch."""
    for name in ("TRAIN_DATA_DIR", "OUTPUT_DIR", "CHECKPOINT_DIR"):
        folder = Path(env[name])
        try:
            folder.mkdir(parents=True, exist_ok=True)
            probe = folder / f".e2ead-{os.getpid()}"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise Refused(
                f"{name}: {folder} cannot be written by uid {os.getuid()} ({error.strerror}): choose a path below the mounted "
                "data folders, or run `gpulab repair e2ead` on the host"
            ) from error


def reserve(folder: Path) -> int:
    """The folder is this training's for as long as the process lives: two would write over each other's checkpoints."""
    lock = os.open(folder / ".in-use", os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise Refused(
            f"another training writes to {folder}: stop it, wait for it, or give this one a CHECKPOINT_DIR of its own (in "
            "`gpulab shell e2ead training`: CHECKPOINT_DIR=$CHECKPOINT_DIR/mine e2ead train)"
        ) from None
    os.set_inheritable(lock, True)  # torchrun takes this process's place, or is its child
    HELD.append(lock)
    return lock


def training(env: Mapping[str, str], arguments: list[str]) -> list[str]:
    check_folders(env)
    reserve(Path(env["CHECKPOINT_DIR"]))
    return torchrun(env, count_gpus(env.get("GPULAB_GPUS", "")), arguments)


# --- evaluation ------------------------------------------------------------------------------------------


def same_version(client: str, server: str) -> None:
    """CARLA's own client only warns, and then fails in ways that say something else."""
    if client != server:
        raise Refused(
            f"CARLA's server is {server} and this client {client}: they have to be the same. CARLA_VERSION chooses both; where "
            "the server's image has another version than its tag says, set CARLA_VERSION to the image's"
        )


def carla_versions(env: Mapping[str, str], timeout: float) -> tuple[str, str]:
    import carla

    client: Any = carla.Client(env.get("CARLA_HOST", "carla"), int(env.get("CARLA_PORT", "2000")))
    client.set_timeout(timeout)
    return client.get_client_version(), client.get_server_version()


def evaluation(env: Mapping[str, str], arguments: list[str], wait: float = 300.0) -> list[str]:
    """Waits for CARLA (compose.yml does already; a run by hand, or a simulator elsewhere, may not have)."""
    deadline = time.monotonic() + wait
    while True:
        try:
            client, server = carla_versions(env, 5.0)
            break
        except RuntimeError as error:
            if time.monotonic() > deadline:
                raise Refused(f"CARLA does not answer: {error}; `gpulab logs e2ead carla` says why") from None
            say(f"waiting for CARLA: {error}")
            time.sleep(2)
    same_version(client, server)
    say(f"CARLA {server} answers, and the client is the same")
    module = env.get("EVALUATION_MODULE", "evaluation.closed_loop")
    return [sys.executable, "-m", module, *shlex.split(env.get("EVALUATION_ARGS", "")), *arguments]


# --- resting ---------------------------------------------------------------------------------------------


def rest(command: Callable[[], list[str] | None], last_words: str) -> int:
    """Runs a command to its end and waits after one that went well, so that the container is there to be worked in."""
    told: list[int] = []
    child: list[subprocess.Popen[bytes]] = []

    def stop(number: int, _frame: Any) -> None:
        told.append(number)
        for each in child:
            each.send_signal(signal.SIGTERM)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    argv = command()
    if argv and not told:
        say(shlex.join(argv))
        child.append(subprocess.Popen(argv, pass_fds=HELD))
        while HELD:
            os.close(HELD.pop())  # the command's from here on: what rests holds nothing
        while child[0].poll() is None:
            ALIVE.touch()
            time.sleep(0.2)
        if told:
            return 0
        if child[0].returncode != 0:
            return child[0].returncode if child[0].returncode > 0 else 1
        child.clear()
    say(last_words)
    while not told:
        ALIVE.touch()
        time.sleep(0.5)
    return 0


def healthy(now: float) -> str:
    """What is wrong, empty when nothing is."""
    try:
        age = now - ALIVE.stat().st_mtime
    except FileNotFoundError:
        return "nothing has started yet"
    return f"nothing was looked after for {age:.0f} s" if age > FRESH else ""


# --- notebook --------------------------------------------------------------------------------------------


def jupyter(env: MutableMapping[str, str]) -> list[str]:
    """An empty token would be no login at all, and one with a line's end at its end could never be typed."""
    file = Path(env.get("JUPYTER_TOKEN_FILE", str(SECRETS / "JUPYTER_TOKEN")))
    try:
        token = file.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise Refused(f"{file}: {error.strerror}: JupyterLab does not start without a token") from error
    if len(token) < 16:
        raise Refused(f"{file} has {len(token)} characters: JupyterLab does not start without a token of 16 or more")
    env.pop("JUPYTER_TOKEN", None)  # it would win over the file
    kept = Path.home() / ".jupyter-token"
    kept.touch(mode=0o600)
    kept.write_text(token, encoding="utf-8")
    env["JUPYTER_TOKEN_FILE"] = str(kept)
    options = ["--ServerApp.ip=0.0.0.0", "--ServerApp.port=8888", f"--ServerApp.root_dir={Path.cwd()}"]
    # It would ask the internet for news and newer versions, and the person whether it may.
    quiet = ["--LabApp.news_url=None", "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"]
    return ["jupyter", "lab", "--no-browser", *options, *quiet]


# --------------------------------------------------------------------------------------------------------


def say(text: str) -> None:
    print(f"e2ead: {text}", flush=True)


def become(argv: list[str]) -> NoReturn:
    os.execvp(argv[0], argv)


def main(arguments: list[str]) -> int:
    env = os.environ
    name, rest_of = (arguments[0], arguments[1:]) if arguments else ("work", [])
    if name == "healthy":
        wrong = healthy(time.time())
        if not wrong and rest_of == ["evaluate"]:
            same_version(*carla_versions(env, 4.0))
        print(wrong or "ok")
        return 1 if wrong else 0
    complete(env)
    if name == "work":
        if env.get("TRAIN_ON_START", "false") == "true":
            return rest(lambda: training(env, rest_of), "training is done: `gpulab shell e2ead training` to work here")

        def ready() -> None:
            check_folders(env)
            say(f"{count_gpus(env.get('GPULAB_GPUS', ''))} GPUs")

        return rest(ready, "ready: `gpulab run e2ead train`, or `gpulab shell e2ead training`")
    if name == "train":
        become(training(env, rest_of))
    if name == "evaluate":
        become(evaluation(env, rest_of))
    if (name, rest_of[:1]) == ("rest", ["evaluate"]):
        return rest(
            lambda: evaluation(env, rest_of[1:]), "evaluation is done: `gpulab run e2ead evaluation` for another"
        )
    if name == "jupyter":
        become(jupyter(env))
    become(arguments)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except Refused as refused:
        print(f"e2ead: {refused}", file=sys.stderr, flush=True)
        sys.exit(1)
