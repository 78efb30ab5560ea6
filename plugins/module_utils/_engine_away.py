# Copyright: gpulab.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A user's rootless engine goes: stacks down, engine stopped, files of the home as they were before.

The user's part; everything here runs as the user. What the engine and the stacks have stored is not touched here.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ansible_collections.gpulab.fleet.plugins.module_utils import _daemon_json as settings
from ansible_collections.gpulab.fleet.plugins.module_utils import _gpu_holders, _home_record, _registries
from ansible_collections.gpulab.fleet.plugins.module_utils._docker_api import get
from ansible_collections.gpulab.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.gpulab.fleet.plugins.module_utils._files import read_text, write_atomic
from ansible_collections.gpulab.fleet.plugins.module_utils._release import Store
from ansible_collections.gpulab.fleet.plugins.module_utils._rootless_engine import MARK, Engine, cli_style
from ansible_collections.gpulab.fleet.plugins.module_utils._userenv import Account, run

STOP = 330  # seconds: an engine stops its containers by their own grace periods
OURS = ("gpulab.stack", "gpulab.probe")  # labels of containers that are not somebody's own


class Away:
    """Looks at one user's engine and takes back what was made for it."""

    def __init__(self, user: Account, check: bool, stacks_root: str = "~/gpulab") -> None:
        self.user = user
        self.check = check
        self.engine = Engine(user, {}, "", check)
        self.state: dict[str, Any] = self.engine.read_state()
        self.record = _home_record.stacks(user.home)
        self.stacks_root = Path(stacks_root.replace("~", str(user.home), 1))
        self.actions: list[str] = []
        self.diff: list[dict[str, str]] = []

    def look(self) -> dict[str, Any]:
        """What there is: whether the engine is ours, its data, its stacks, and containers that are somebody's work."""
        unit = read_text(self.engine.unit)
        return {
            "ours": bool(self.state) or unit.startswith(MARK),
            "roots": list(dict.fromkeys([*self.state.get("roots", []), self.data_root()])),
            "data": self.record["data"],
            "folders": [*self.state.get("original", {}).get("folders", []), *self.record["folders"]],
            "stacks": [path.name for path in self.stack_folders()],
            "busy": self.work(),
        }

    def data_root(self) -> str:
        if "leaving" in self.state:  # daemon.json is as it was already
            return str(self.state["leaving"])
        with contextlib.suppress(FleetError):
            return self.engine.data_root(
                settings.parse(read_text(self.engine.daemon_json), str(self.engine.daemon_json))
            )
        return self.engine.data_root({})

    def stack_folders(self) -> list[Path]:
        roots = dict.fromkeys([str(self.stacks_root), *self.record["roots"]])
        return [path for root in roots for path in sorted(Path(root).glob("stacks/[!.]*")) if _is_ours(path)]

    def work(self) -> list[str]:
        """Running containers that belong to no stack of this collection; an engine that does not tell may have some."""
        try:
            rows = get(str(self.user.socket), "/containers/json")
        except (FileNotFoundError, ConnectionRefusedError):
            return []  # no engine runs, or one has left its socket behind
        except OSError as error:
            return [f"unknown, the engine of {self.user.name} does not say ({error})"]
        return sorted(
            row["Names"][0].lstrip("/") if row["Names"] else row["Id"][:12]
            for row in rows
            if not any(label in (row.get("Labels") or {}) for label in OURS)
        )

    # --- going -------------------------------------------------------------------------------------------

    def leave(self) -> dict[str, Any]:
        """Everything but the data and our own notes, which are needed until the data are settled."""
        self.note_data_root()
        self.stacks()
        self.gpus()
        self.stop()
        self.restore_daemon_json()
        self.restore_cli()
        self.restore_files()
        if self.manager():
            self.systemctl("daemon-reload")
            self.systemctl("reset-failed", "docker.service")
            if self.state.get("original", {}).get("runs") and read_text(self.engine.unit):
                self.systemctl("start", "docker.service")  # the engine that was there before ours
        return {"actions": self.actions, "diff": self.diff}

    def note_data_root(self) -> None:
        if self.check or not self.state:
            return
        self.state["leaving"] = self.data_root()
        write_atomic(self.engine.state_file, settings.render(self.state).encode(), 0o600, 0o700)

    def stacks(self) -> None:
        """Their containers and networks, as far as there is an engine that knows them, and their releases; data stay."""
        for path in self.stack_folders():
            self.actions.append(f"stack {path.name}: remove {path}")
            if not self.check:
                if self.answers():
                    self.stop_stack(path.name)
                Store(path.parent.parent, path.name).remove()

    def stop_stack(self, name: str) -> None:
        """With the engine's own words: what a deploy consists of is more than this module should be loaded with."""
        filters = quote(json.dumps({"label": [f"com.docker.compose.project={name}"]}))
        docker = ["env", f"DOCKER_HOST=unix://{self.user.socket}", "docker"]
        rows = get(str(self.user.socket), f"/containers/json?all=1&filters={filters}")
        running = [row["Id"] for row in rows if row["State"] == "running"]
        if running:
            run([*docker, "stop", *running], timeout=STOP)
        for row in rows:
            run([*docker, "rm", "--force", row["Id"]])
        for row in get(str(self.user.socket), f"/networks?filters={filters}"):
            run([*docker, "network", "rm", row["Id"]])

    def gpus(self) -> None:
        """What this user's stacks held is everybody's again."""
        if _gpu_holders.path_of(self.user).exists():
            self.actions.append("gave back the GPUs of all stacks")
            if not self.check:
                _gpu_holders.record(self.user, {})

    def answers(self) -> bool:
        """Whether the engine can be asked; one that is merely off is started, because it knows the containers."""
        for attempt in range(2):
            with contextlib.suppress(OSError):
                get(str(self.user.socket), "/version")
                return True
            if self.check or attempt or not self.manager():
                break
            self.systemctl("start", "docker.service")
        return False

    def manager(self) -> bool:
        return (self.user.runtime_dir / "systemd" / "private").exists()

    def systemctl(self, *arguments: str) -> None:
        if not self.check:
            run(["systemctl", "--user", *arguments], timeout=STOP)

    def stop(self) -> None:
        if not read_text(self.engine.unit).startswith(MARK):
            return  # somebody else's unit is back in its place already
        if self.engine.link.is_symlink() or self.manager():
            self.actions.append("stopped docker.service")
        self.systemctl("stop", "docker.service")
        deadline = time.monotonic() + STOP
        while not self.check and self.user.socket.exists() and self.answers_now():
            if time.monotonic() > deadline:
                raise FleetError("ENGINE_STOP_FAILED", f"{self.user.socket} still answers")
            time.sleep(0.2)

    def answers_now(self) -> bool:
        with contextlib.suppress(OSError):
            get(str(self.user.socket), "/version", timeout=2)
            return True
        return False

    def restore_daemon_json(self) -> None:
        path = self.engine.daemon_json
        text = read_text(path)
        ours = self.state.get("daemon")
        if not ours or not text:
            return
        before = self.state.get("original_daemon_json")
        present = settings.parse(text, str(path))
        kept = settings.without(present, ours, {})
        if before is not None:
            # A key that was there and that ours had replaced comes back; what the user changed since stays.
            original = settings.parse(before, str(path))
            kept = settings.overlay({k: v for k, v in original.items() if present.get(k) == ours.get(k)}, kept)
            after = before if kept == original else settings.render(kept)
        else:
            after = settings.render(kept) if kept else ""
        self.replace(path, text, after, show=True)

    def restore_cli(self) -> None:
        path = self.engine.cli_config
        text = read_text(path)
        original = self.state.get("original", {})
        if not text:
            return
        config = settings.parse(text, str(path), "CLI_CONFIG_INVALID")
        after = _registries.merge(config, {}, self.state.get("registries", {}), str(path))[0]
        client = self.state.get("client") or {"ours": {}, "original": {}}
        after = settings.overlay(client["original"], settings.merge(after, {}, client["ours"]))
        if after.get("currentContext") == "rootless":
            del after["currentContext"]
            if original.get("currentContext"):
                after["currentContext"] = original["currentContext"]
        if after == config:
            return
        was = original.get("cli_config", True)
        if not after and not was:
            new = ""
        elif isinstance(was, str) and settings.parse(was, str(path)) == after:
            new = was
        else:
            new = cli_style(after)
        self.replace(path, text, new, show=False)  # it may hold logins

    def replace(self, path: Path, before: str, after: str, show: bool) -> None:
        if after == before:
            return
        self.actions.append(f"{'restored' if after else 'removed'} {path}")
        if show:
            shown = {"before": settings.redact(before), "after": settings.redact(after)}
            self.diff.append({"before_header": str(path), "after_header": str(path), **shown})
        if self.check:
            return
        if after:
            target = path.resolve()
            write_atomic(target, after.encode(), target.stat().st_mode & 0o777)
        else:
            path.unlink()

    def restore_files(self) -> None:
        known: dict[str, Any] = self.state.get("original", {}).get("files", {})
        others = _home_record.files(self.user.home)
        spare = self.engine.unit.with_name("docker.service.before-gpulab")
        own = (self.engine.link, self.engine.unit, self.engine.context, self.engine.socket_link)
        # Links go before what they lead to.
        for path in (*own, *map(Path, sorted(others, key=len, reverse=True))):
            before = others.get(str(path), known.get(str(path)))
            if _home_record.kept(path) == before:
                continue
            self.actions.append(f"{'removed' if before is None else 'restored'} {path}")
            if not self.check:
                _home_record.put_back(path, before)
        if spare.exists() and known.get(str(self.engine.unit)) is not None:
            self.actions.append(f"removed {spare}")
            if not self.check:
                spare.unlink()

    # --- afterwards ---------------------------------------------------------------------------------------

    def forget(self) -> dict[str, Any]:
        """Our own notes, and the folders that were made and are empty."""
        original = self.state.get("original", {})
        folder = _home_record.state_folder(self.user.home)
        trees = [Path(path) for path in original.get("trees", []) if Path(path).is_dir()]
        actions = [f"removed {path}" for path in [*trees, folder] if path.is_dir()]
        if not self.check:
            for path in [*trees, folder]:
                shutil.rmtree(path, ignore_errors=True)
            folders = [*original.get("folders", []), *self.record["folders"]]
            actions += [f"removed {path}" for path in _home_record.remove_empty(folders)]
        return {"actions": actions}


def _is_ours(stack: Path) -> bool:
    """Whether a folder among the stacks is one that was deployed, or where that was begun."""
    return any((stack / name).exists() for name in ("releases", "history", "unfinished.json"))
