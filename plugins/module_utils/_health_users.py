# Copyright: gpulab.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Checks of the accounts that own engines: subordinate ids, lingering, session bus, CLI."""

from __future__ import annotations

import contextlib
import hashlib
import re

from ansible_collections.gpulab.fleet.plugins.module_utils import _health_facts as facts
from ansible_collections.gpulab.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.gpulab.fleet.plugins.module_utils._findings import finding, from_error
from ansible_collections.gpulab.fleet.plugins.module_utils._health import Check, Seen
from ansible_collections.gpulab.fleet.plugins.module_utils._health_view import Account, HostView, Unreadable
from ansible_collections.gpulab.fleet.plugins.module_utils._rootless_engine import MARK
from ansible_collections.gpulab.fleet.plugins.module_utils._subid import COUNT, Range, parse
from ansible_collections.gpulab.fleet.plugins.module_utils._user_limits import CONTROLLERS, unenforceable

NOBODY = 65534
ID_FILES = ("/etc/subuid", "/etc/subgid")
# Where the engine's settings lie, outermost first; what belongs to somebody else further down is refused as well, later.
OWN_FOLDERS = ("", "/.config", "/.config/docker", "/.config/systemd", "/.config/systemd/user", "/.docker", "/.local")
SHELL_FILES = ("/etc/environment", "{home}/.profile", "{home}/.bash_profile", "{home}/.bashrc", "{home}/.zshrc")


def ranges(host: HostView, path: str) -> list[tuple[str, Range]]:
    """The ranges of a file with their owners' names (a file may name an owner by uid)."""

    def read() -> list[tuple[str, Range]]:
        names = {str(account.uid): account.name for account in host.accounts().values()}
        return [(names.get(each.owner, each.owner), each) for each in parse(host.read(path) or "", path)]

    return host.remember(f"ranges {path}", read)


def accounts(host: HostView) -> Seen:
    """Whoever is given an engine is a person, or a system account on purpose, and no root by way of a group."""
    wanted = facts.dict_of(host.settings.get("gpulab_users"))
    login_defs = re.search(r"^\s*UID_MIN\s+(\d+)", host.read("/etc/login.defs") or "", re.MULTILINE)
    floor = int(login_defs.group(1)) if login_defs else 1000
    answer = host.run(["getent", "group", "docker"])
    docker = answer.out.strip().split(":") if answer and answer.rc == 0 else []
    for name, entry in wanted.items():
        user = facts.dict_of(entry)
        account = host.account(str(name))
        uid = account.uid if account else int(user["uid"]) if str(user.get("uid")).isdecimal() else None
        on_purpose = str(user.get("system", False)).lower() in ("true", "yes")
        if uid == NOBODY or (uid and uid < floor and not on_purpose):
            yield finding("USER_IS_SYSTEM", f"gpulab_users.{name}: uid {uid}", user=name, uid=uid, floor=floor)
        if account and len(docker) == 4 and (account.name in docker[3].split(",") or str(account.gid) == docker[2]):
            yield finding("USER_IN_DOCKER_GROUP", f"getent group docker: {':'.join(docker)}", user=name)


def limits(host: HostView) -> Seen:
    """What users are limited to can be enforced here."""
    controllers = host.word(CONTROLLERS) or ""
    for name, entry in facts.dict_of(host.settings.get("gpulab_users")).items():
        for seen in unenforceable(str(name), facts.dict_of(facts.dict_of(entry).get("limits")), controllers):
            yield finding("LIMIT_UNENFORCEABLE", seen, user=name)


def homes(host: HostView) -> Seen:
    """What an engine keeps in a home can be written by its user: a ~/.docker of root's is found before packages come."""
    wanted = facts.dict_of(host.settings.get("gpulab_users"))
    for account in facts.interesting_accounts(host)[0]:
        entry = facts.dict_of(wanted.get(account.name))
        if account.name not in wanted or entry.get("state") == "absent":
            continue
        for name in OWN_FOLDERS:
            path = f"{account.home}{name}"
            # What may not be looked at from here is the engine's own to refuse.
            with contextlib.suppress(Unreadable):
                node = host.node(path)
                if node and node.uid != account.uid:
                    yield finding("HOME_UNUSABLE", f"{path} belongs to uid {node.uid}", home=path, user=account.name)
                    break


def subordinate_ids(host: HostView) -> Seen:
    """Nobody shares subordinate ids with a user whose engine matters, and the files can be read."""
    matter = {account.name for account in facts.interesting_accounts(host)[0]}
    for path in ID_FILES:
        try:
            known = sorted(ranges(host, path), key=lambda entry: entry[1].start)
        except FleetError as error:
            yield from_error(error, path=path)
            continue
        for index, (owner, one) in enumerate(known):
            for other_owner, other in known[index + 1 :]:
                if other.start >= one.end:
                    break
                if owner != other_owner and (not matter or {owner, other_owner} & matter):
                    yield finding("SUBID_OVERLAP", f"{path}: {one} and {other}", path=path)


def enough_ids(host: HostView) -> Seen:
    """A user with an engine has the ids that images need."""
    for each in facts.engines(host):
        if isinstance(each, Unreadable):
            yield each
            continue
        for path in ID_FILES:
            given = sum(one.count for owner, one in ranges(host, path) if owner == each.account.name)
            if given < COUNT:
                yield finding("SUBID_MISSING", f"{path} gives {each.account.name} {given} ids")


def lingering(host: HostView) -> Seen:
    """A user's engine starts at boot, and its manager has a bus."""
    for each in facts.engines(host):
        if isinstance(each, Unreadable):
            yield each
            continue
        name, uid = each.account.name, each.account.uid
        if not host.exists(f"/var/lib/systemd/linger/{name}"):
            yield finding("LINGER_OFF", f"/var/lib/systemd/linger/{name} is absent", user=name)
        try:
            if host.exists(f"/run/user/{uid}/systemd") and not host.exists(f"/run/user/{uid}/bus"):
                yield finding("USER_BUS_MISSING", f"/run/user/{uid}/bus of {name} is absent", uid=uid)
        except Unreadable as error:
            yield error


def command_line(host: HostView) -> Seen:
    """What a user types reaches the user's own engine."""
    for each in facts.engines(host):
        if isinstance(each, Unreadable):
            continue  # told by the check 'lingering'
        try:
            yield from _command_line(host, each.account)
        except Unreadable as error:
            yield error


def _command_line(host: HostView, account: Account) -> Seen:
    context = facts.cli_context(host, account)
    own = f"unix:///run/user/{account.uid}/docker.sock"
    if context in ("", "default"):
        for path in SHELL_FILES:
            if "DOCKER_HOST" in (host.read(path.format(home=account.home)) or ""):
                return  # pointed somewhere by hand: not ours to judge
        yield finding(
            "CLI_ELSEWHERE", f"{account.name} has no Docker context and no DOCKER_HOST", user=account.name, own=own
        )
        return
    folder = f"{account.home}/.docker/contexts/meta/{hashlib.sha256(context.encode()).hexdigest()}"
    meta = facts.json_file(host, f"{folder}/meta.json") or {}
    target = facts.dict_of(facts.dict_of(meta.get("Endpoints")).get("docker")).get("Host", "")
    if target != own:
        seen = f"the Docker context of {account.name} is {context} ({target or 'undefined'})"
        yield finding("CLI_ELSEWHERE", seen, user=account.name, own=own)


def left_over(host: HostView) -> Seen:
    """Nobody has an engine of this collection's who is not in the inventory any more."""
    named = facts.dict_of(host.settings.get("gpulab_users"))
    for name in host.names("/var/lib/systemd/linger") if named else []:
        account = None if name in named else host.account(name)
        path = f"{account.home}/.config/systemd/user/docker.service" if account else ""
        # A home that may not be looked into is no reason to doubt the host.
        with contextlib.suppress(Unreadable):
            if account and (host.read(path) or "").startswith(MARK):
                yield finding("USER_LEFT_OVER", path, user=name)


CHECKS = (
    Check("accounts", accounts, ("USER_IS_SYSTEM", "USER_IN_DOCKER_GROUP"), preflight=True),
    Check("homes", homes, ("HOME_UNUSABLE",), preflight=True),
    Check("limits", limits, ("LIMIT_UNENFORCEABLE",), preflight=True),
    Check("left_over", left_over, ("USER_LEFT_OVER",), preflight=True),
    Check("subordinate_ids", subordinate_ids, ("SUBID_OVERLAP", "SUBID_FILE_INVALID"), preflight=True),
    Check("enough_ids", enough_ids, ("SUBID_MISSING",)),
    Check("lingering", lingering, ("LINGER_OFF", "USER_BUS_MISSING")),
    Check("command_line", command_line, ("CLI_ELSEWHERE",)),
)
