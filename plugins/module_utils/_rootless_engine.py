# Copyright: gpulab.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""One user's rootless engine, seen from the user's side: settings, unit, CLI context, service.

Everything here runs as the user (see _userenv.as_user) and touches nothing outside the home and the user's manager.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import stat
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

from ansible_collections.gpulab.fleet.plugins.module_utils import _daemon_json as settings
from ansible_collections.gpulab.fleet.plugins.module_utils import _home_record, _registries, _work
from ansible_collections.gpulab.fleet.plugins.module_utils._docker_api import get
from ansible_collections.gpulab.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.gpulab.fleet.plugins.module_utils._files import make_folders, read_text, write_atomic
from ansible_collections.gpulab.fleet.plugins.module_utils._userenv import Account, run

SCHEMA = 1
MARK = "# Kept by gpulab.fleet (rootless_docker_user)"

# PATH: rootlesskit, dockerd and newuidmap from the packages come first; /usr/share/docker.io/contrib is where
# Debian's docker.io keeps dockerd-rootless.sh; NVIDIA's hooks are in /usr/bin.
# env instead of a path: one text fits both layouts, and the process stays the unit's main process.
UNIT = f"""{MARK}; put changes into docker.service.d/*.conf.
[Unit]
Description=Rootless Docker engine
Documentation=https://docs.docker.com/engine/security/rootless/
Requires=dbus.socket
After=dbus.socket
StartLimitIntervalSec=60
StartLimitBurst=10

[Service]
Type=notify
NotifyAccess=all
Environment=PATH=/usr/bin:/usr/sbin:/bin:/sbin:/usr/local/bin:/usr/share/docker.io/contrib
ExecStart=/usr/bin/env dockerd-rootless.sh
SyslogIdentifier=dockerd-rootless
ExecReload=/bin/kill -s HUP $MAINPID
TimeoutStartSec=300
Restart=always
RestartSec=2
LimitNOFILE=infinity
LimitNPROC=infinity
LimitCORE=infinity
TasksMax=infinity
Delegate=yes
KillMode=mixed

[Install]
WantedBy=default.target
"""

NETWORK_FILE_SYSTEMS = {
    "nfs", "nfs4", "cifs", "smb3", "ceph", "lustre", "gpfs", "beegfs", "afs", "9p", "virtiofs",
    "fuse.glusterfs", "fuse.sshfs", "fuse.ceph", "fuse.s3fs", "fuse.juicefs",
}  # fmt: skip
PROGRAMS = ("rootlesskit", "dockerd", "containerd")


def file_system(path: Path, mountinfo: str) -> str:
    """Type of the file system that a path lies on, by the longest mount point above it."""
    best, kind = -1, ""
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        point = left.split()[4].replace("\\040", " ")
        inside = str(path) == point or str(path).startswith(point.rstrip("/") + "/")
        if inside and len(point) >= best:  # a later mount on the same point hides the earlier one
            best, kind = len(point), right.split()[0]
    return kind


def parse_properties(text: str) -> dict[str, str]:
    return dict(line.split("=", 1) for line in text.splitlines() if "=" in line)


def started_at(pid: int) -> float:
    """When a process was started, as a time that files' times can be compared with."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    since_boot = int(fields[19]) / os.sysconf("SC_CLK_TCK")
    return time.time() - (time.clock_gettime(time.CLOCK_BOOTTIME) - since_boot)


class Busy(NamedTuple):
    """What is done about running containers when the engine has to be restarted."""

    when: str = "skip"  # skip, wait or proceed
    seconds: float = 0  # how long to wait for their end
    resume: bool = True  # start again what was stopped
    healthy_within: float = 120


class Engine:
    """Reads what is there, compares it with what is wanted, acts on the difference."""

    def __init__(
        self,
        user: Account,
        daemon: dict[str, Any],
        cdi_spec_dir: str,
        check: bool,
        upgraded: bool = False,
        nvidia_runtime: str = "",
    ) -> None:
        self.user = user
        self.busy = Busy()
        self.daemon = daemon
        self.cdi_spec_dir = cdi_spec_dir
        self.nvidia_runtime = nvidia_runtime
        self.check = check
        self.upgraded = check and upgraded  # a package upgrade that is only predicted leaves no other trace
        self.registries: list[dict[str, Any]] = []
        self.client: dict[str, Any] = {}  # what goes into the CLI's config.json besides: a proxy for containers
        self.actions: list[str] = []
        self.diff: list[dict[str, str]] = []
        self.stale: list[str] = []  # why the running engine is not what its files say
        self.restart_pending = False
        self.running: list[str] = []  # what keeps the engine from being restarted
        config = user.home / ".config"
        self.daemon_json = config / "docker" / "daemon.json"
        self.units = config / "systemd" / "user"
        self.unit = self.units / "docker.service"
        self.link = self.units / "default.target.wants" / "docker.service"
        digest = hashlib.sha256(b"rootless").hexdigest()  # the folder's name is the CLI's own convention
        self.context = user.home / ".docker" / "contexts" / "meta" / digest / "meta.json"
        self.cli_config = user.home / ".docker" / "config.json"
        self.socket_link = user.home / ".docker" / "run" / "docker.sock"
        self.state_file = _home_record.state_folder(user.home) / "rootless_docker_user.json"

    def converge(self) -> dict[str, Any]:
        try:
            self.converge_settings()
            self.converge_unit()
            self.converge_context()
        except PermissionError as error:
            raise FleetError("HOME_UNUSABLE", str(self.foreign(Path(error.filename)))) from error
        self.converge_service()
        return {
            "actions": self.actions,
            "diff": self.diff,
            "restart_pending": self.restart_pending,
            "stale": self.stale,
            "running": self.running,
            "engine": self.facts(),
        }

    # --- daemon.json ---------------------------------------------------------------------------

    def converge_settings(self) -> None:
        settings.refuse_flag_spellings(self.daemon)
        text = read_text(self.daemon_json)
        existing = settings.parse(text, str(self.daemon_json))
        state = self.read_state()
        before = state.get("daemon", {})
        wanted = settings.ours(existing, self.daemon, self.cdi_spec_dir, before, self.nvidia_runtime)
        merged = settings.merge(existing, wanted, before)
        settings.refuse_flag_spellings(merged)
        self.refuse_network_data_root(merged)
        if merged != existing:
            self.validate(merged)
        roots = [*state.get("roots", []), self.data_root(existing), self.data_root(merged)]
        roots = list(dict.fromkeys(roots))
        if wanted != before or not state or roots != state.get("roots"):
            # Before the file itself: a run that is killed in between still knows later what it had put in.
            # And how the home is before the first change, so that it can be made so again.
            first = {} if state else {"original_daemon_json": text or None, "original": original(self)}
            # An engine whose data root moves leaves its data where they were: all places count when the user goes.
            state = {**first, **state, "schema": SCHEMA, "daemon": wanted, "roots": roots}
            if not self.check:
                write_atomic(self.state_file, settings.render(state).encode(), 0o600, 0o700)
        if merged != existing:
            after = settings.render(merged)
            # The address of a proxy may hold its password.
            self.put(self.daemon_json, text, after, 0o600 if settings.redact(after) != after else 0o644)
            self.stale.append("daemon.json was changed")

    def read_state(self) -> dict[str, Any]:
        """What the last run put in; without it all that is there counts as the user's own."""
        with contextlib.suppress(ValueError):
            data = json.loads(read_text(self.state_file) or "{}")
            if isinstance(data, dict) and data.get("schema", SCHEMA) == SCHEMA:
                return data
        return {}

    def data_root(self, daemon: dict[str, Any]) -> str:
        """Where an engine with these settings keeps its data."""
        return str(daemon.get("data-root") or self.user.home / ".local" / "share" / "docker")

    def refuse_network_data_root(self, merged: dict[str, Any]) -> None:
        root = Path(self.data_root(merged))
        kind = file_system(root.resolve(), Path("/proc/self/mountinfo").read_text(encoding="utf-8"))
        if kind in NETWORK_FILE_SYSTEMS:
            raise FleetError("DATA_ROOT_NETWORK_FS", f"{root} is on {kind}")

    def validate(self, merged: dict[str, Any]) -> None:
        """Let dockerd judge the settings before they land."""
        if self.upgraded or not shutil.which("dockerd"):
            return  # only in check mode: the dockerd that would judge is not there, or another one still is
        with tempfile.NamedTemporaryFile("w", prefix="daemon-", suffix=".json", encoding="utf-8") as file:
            file.write(settings.render(merged))
            file.flush()
            answer = run(["dockerd", "--validate", "--config-file", file.name])
            if answer.returncode != 0:
                said = (answer.stderr or answer.stdout).strip().replace(file.name, str(self.daemon_json))
                raise FleetError("DAEMON_JSON_REJECTED", settings.redact(said))

    # --- unit ----------------------------------------------------------------------------------

    def converge_unit(self) -> None:
        text = read_text(self.unit)
        if text != UNIT:
            if text and not text.startswith(MARK) and not self.check:
                # Somebody else's (the set-up tool's, or by hand): kept beside ours under a name systemd ignores.
                write_atomic(self.unit.with_name("docker.service.before-gpulab"), text.encode(), 0o644)
            if self.unit.is_symlink() and not self.check:
                self.unit.unlink()  # masked, or a link into the user's own collection of units
            self.put(self.unit, text, UNIT, 0o644)
            self.stale.append("the unit was changed")
        link = self.link
        if not link.is_symlink() or link.resolve() != self.unit.resolve():
            if not self.check:
                link.parent.mkdir(parents=True, exist_ok=True)
                link.unlink(missing_ok=True)
                link.symlink_to(self.unit)
            self.actions.append("enabled docker.service")

    # --- CLI -----------------------------------------------------------------------------------

    def converge_context(self) -> None:
        """The context `rootless`, current, so that a login shell's docker finds the engine."""
        meta = self.context
        endpoint = {"Host": f"unix://{self.user.socket}", "SkipTLSVerify": False}
        text = read_text(meta)
        present = settings.parse(text, str(meta), "CLI_CONFIG_INVALID")
        if present.get("Endpoints", {}).get("docker", {}).get("Host") != endpoint["Host"]:
            context = {"Name": "rootless", "Metadata": {}, "Endpoints": {"docker": endpoint}}
            self.put(meta, text, settings.render(context), 0o644, diff=False)
        self.converge_link(self.socket_link)
        config = self.cli_config
        text = read_text(config)
        present = settings.parse(text, str(config), "CLI_CONFIG_INVALID")
        after = self.with_client(self.with_logins({**present, "currentContext": "rootless"}, config))
        if after != present:
            # May hold registry credentials: never in a diff.
            self.put(config, text, cli_style(after), 0o600, diff=False)
        if self.registries and config.exists() and stat.S_IMODE(config.stat().st_mode) & 0o077:
            self.actions.append(f"closed {config} to others")
            if not self.check:
                config.chmod(0o600)

    def converge_link(self, link: Path) -> None:
        """The socket by a name below the home, for a DOCKER_HOST that is the same text for everybody."""
        if link.is_symlink() and link.readlink() == self.user.socket:
            return
        if not self.check:
            make_folders(link.parent, 0o700)
            link.unlink(missing_ok=True)
            link.symlink_to(self.user.socket)
        self.actions.append(f"linked {link}")

    def with_logins(self, config: dict[str, Any], path: Path) -> dict[str, Any]:
        """The CLI's configuration with the inventory's registry logins; what is ours is kept in the state."""
        state = self.read_state()
        before = state.get("registries", {})
        after, record = _registries.merge(config, _registries.wanted(self.registries), before, str(path))
        if record != before and not self.check:
            state = {**state, "schema": SCHEMA, "registries": record}
            write_atomic(self.state_file, settings.render(state).encode(), 0o600, 0o700)
        return after

    def with_client(self, config: dict[str, Any]) -> dict[str, Any]:
        """The CLI's configuration with ours merged in; what the user had in its place comes back when ours goes."""
        state = self.read_state()
        kept = state.get("client") or {"ours": {}, "original": {}}
        original = kept["original"] if kept["ours"] else {key: config[key] for key in self.client if key in config}
        merged = settings.merge(config, self.client, kept["ours"])
        if not self.client:
            merged = settings.overlay(original, merged)
        record = {"ours": self.client, "original": original if self.client else {}}
        if record != kept and not self.check:
            state = {**state, "schema": SCHEMA, "client": record}
            write_atomic(self.state_file, settings.render(state).encode(), 0o600, 0o700)
        return merged

    # --- service -------------------------------------------------------------------------------

    def converge_service(self) -> None:
        if not (self.user.runtime_dir / "systemd" / "private").exists():
            if not self.check:
                raise FleetError("USER_MANAGER_DOWN", f"{self.user.runtime_dir}/systemd/private is missing")
            self.actions.append("started docker.service")
            return
        state = self.show()
        if state.get("NeedDaemonReload") == "yes" or (self.stale and not self.check):
            self.systemctl("daemon-reload")
            state = self.show()
        if not (self.user.runtime_dir / "bus").exists() and not self.check:
            # The manager is older than the installation of dbus-user-session.
            self.systemctl("daemon-reload")
            self.systemctl("start", "dbus.socket")
        if state["ActiveState"] in ("active", "reloading"):
            self.stale += self.outdated(state)
            if self.stale and _work.may_go_on(self.busy.when, self.running_containers, self.busy.seconds, self.check):
                if not self.check:
                    # Not left to the engine's own end: that has a limit of its own, whatever the grace periods are.
                    self.stop_work()
                self.bring_up("restart")
            elif self.stale:
                self.running = self.running_containers()
                self.restart_pending = True
        else:
            self.stale.clear()
            self.bring_up("start")
        self.resume()

    def stop_work(self) -> None:
        try:
            _work.stop(str(self.user.socket), self.user.home)
        except OSError as error:
            raise FleetError("ENGINE_UNRESPONSIVE", str(error)) from error

    def resume(self) -> None:
        """Start what this run, or an earlier one that was interrupted, has stopped for a change."""
        stopped = _work.load(self.user.home).get("containers", [])
        if not stopped or not self.busy.resume:
            return
        names = ", ".join(each["name"] for each in stopped)
        if self.check:
            self.actions.append(f"started {names} again")
            return
        back, wrong = _work.start(str(self.user.socket), self.user.home, self.busy.healthy_within)
        if wrong:
            raise FleetError("WORK_NOT_BACK", "; ".join(wrong))
        self.actions.append(f"started {', '.join(each['name'] for each in back)} again")

    def show(self) -> dict[str, str]:
        names = "ActiveState,Result,MainPID,ControlGroup,NeedDaemonReload"
        return parse_properties(self.systemctl("show", "--property", names, "docker.service"))

    def systemctl(self, *arguments: str, timeout: float = 30) -> str:
        answer = run(["systemctl", "--user", *arguments], timeout=timeout)
        if answer.returncode != 0:
            raise FleetError("ENGINE_START_FAILED", f"systemctl --user {' '.join(arguments)}: {answer.stderr.strip()}")
        return answer.stdout

    def outdated(self, state: dict[str, str]) -> list[str]:
        """Why a running engine is older than its files: it read them at its start, or they were replaced since."""
        reasons = []
        start = started_at(int(state["MainPID"]))
        read_at_start = [self.daemon_json, self.unit, *(self.units / "docker.service.d").glob("*.conf")]
        for path in read_at_start:
            # Half a second: a file's time is coarser than a clock's. What this run wrote is known anyway.
            if path.exists() and path.stat().st_mtime > start + 0.5:
                reasons.append(f"{path} is newer than the running engine")
        replaced = self.replaced_programs(state["ControlGroup"])
        if replaced or self.upgraded:
            reasons.append(f"{', '.join(replaced) or 'dockerd'} was replaced by a package since the start")
        return reasons

    def replaced_programs(self, cgroup: str) -> list[str]:
        """The engine's running programs whose file is gone (a package upgrade puts a new one in its place)."""
        found = set()
        for root in (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/unified")):
            for procs in (root / cgroup.lstrip("/")).rglob("cgroup.procs"):
                for pid in procs.read_text(encoding="ascii").split():
                    with contextlib.suppress(OSError):
                        program = Path(f"/proc/{pid}/exe").readlink()
                        if program.name.endswith(" (deleted)"):
                            found.add(program.name.removesuffix(" (deleted)"))
        return sorted(found & set(PROGRAMS))

    def running_containers(self) -> list[str]:
        try:
            return [_work.told(each) for each in _work.running(str(self.user.socket))]
        except OSError as error:
            raise FleetError("ENGINE_UNRESPONSIVE", str(error)) from error

    def bring_up(self, verb: str) -> None:
        if not self.check:
            # Also clears the count of recent starts, so that the start limit is not hit by us.
            run(["systemctl", "--user", "reset-failed", "docker.service"])
            self.systemctl(verb, "docker.service", timeout=330)
            self.stale.clear()
        self.actions.append(f"{verb}ed docker.service")

    def facts(self) -> dict[str, Any]:
        """What the engine says of itself; nothing where there is none yet."""
        socket = str(self.user.socket)
        try:
            version, info = get(socket, "/version"), get(socket, "/info")
        except OSError as error:
            if self.check:
                return {}
            raise FleetError("ENGINE_UNRESPONSIVE", str(error)) from error
        return {
            "version": version["Version"],
            "api_version": version["ApiVersion"],
            "socket": socket,
            "data_root": info["DockerRootDir"],
            "cgroup_driver": info["CgroupDriver"],
            "storage_driver": info["Driver"],
        }

    def foreign(self, path: Path) -> Path:
        """The outermost part of a path in the home that belongs to somebody else; the path when none does."""
        for part in (*reversed(path.parents), path):
            with contextlib.suppress(OSError):
                if part.is_relative_to(self.user.home) and part.lstat().st_uid != self.user.uid:
                    return part
        return path

    # --- files ---------------------------------------------------------------------------------

    def put(self, path: Path, before: str, after: str, mode: int, diff: bool = True) -> None:
        """Replace a file (the target of a link, not the link), keeping the mode it has."""
        target = path.resolve()
        with contextlib.suppress(FileNotFoundError):
            mode = stat.S_IMODE(target.stat().st_mode)
        if not self.check:
            write_atomic(target, after.encode(), mode, 0o700)
        self.actions.append(f"wrote {path}")
        if diff:
            before, after = settings.redact(before), settings.redact(after)
            self.diff.append({"before_header": str(path), "after_header": str(path), "before": before, "after": after})


def cli_style(config: dict[str, Any]) -> str:
    """The CLI's own way of writing its configuration."""
    return json.dumps(config, indent="\t", ensure_ascii=False)


def original(engine: Engine) -> dict[str, Any]:
    """How a home is before the engine comes."""
    home = engine.user.home
    buildx = home / ".docker" / "buildx"  # the CLI's own notes about builds
    files = [engine.unit, engine.link, engine.context, engine.socket_link]
    folders = [*files, engine.daemon_json, engine.cli_config, engine.state_file, home / ".local" / "share" / "docker"]
    config = settings.parse(read_text(engine.cli_config), str(engine.cli_config), "CLI_CONFIG_INVALID")
    return {
        "files": {str(path): _home_record.kept(path) for path in files},
        "folders": _home_record.missing_folders(home, folders),
        "trees": [] if buildx.exists() else [str(buildx)],
        # Its text, so that it comes back to the letter, unless it has logins: those are in no second place.
        "cli_config": read_text(engine.cli_config) if not config.get("auths") else engine.cli_config.exists(),
        "currentContext": config.get("currentContext"),
        "runs": engine.user.socket.exists(),
    }
