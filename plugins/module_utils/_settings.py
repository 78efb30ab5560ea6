# Copyright: gpulab.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The collection's public variables held against themselves: types, spelling, and how they fit together.

Pure: takes the variables of one host and what is known of its accounts, gives findings. Every problem
is reported, not just the first.
"""

from __future__ import annotations

import difflib
import posixpath
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from ansible_collections.gpulab.fleet.plugins.module_utils._daemon_json import FLAG_SPELLINGS
from ansible_collections.gpulab.fleet.plugins.module_utils._findings import finding
from ansible_collections.gpulab.fleet.plugins.module_utils._floors import ENGINE_FLOOR, TOOLKIT_FLOOR, accepted, dotted

USER_NAME = r"[a-z_][a-z0-9_.-]*\$?"
STACK_NAME = r"[a-z0-9][a-z0-9_-]{0,62}"
UUID = r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
GPU_NAME = rf"\d+|\d+:\d+|(GPU|MIG)-{UUID}|MIG-GPU-{UUID}/\d+/\d+"
GPU_FORM = "an index such as 0, a UUID such as GPU-5f3c…, or a MIG instance's UUID"

# What an account's existence can be: there, not there, or not known.
Exists = Callable[[str], bool | None]


class Kind(NamedTuple):
    """The form of a value: what it is called, and whether a value has it."""

    words: str
    fits: Callable[[Any], bool]


def _is_int(value: Any) -> bool:
    return (isinstance(value, int) and not isinstance(value, bool)) or (
        isinstance(value, str) and value.isdecimal()  # -e name=2 gives a string
    )


def _is_number(value: Any) -> bool:
    try:
        return not isinstance(value, bool) and float(value) >= 0
    except (TypeError, ValueError):
        return False


def _one_of(*choices: str) -> Kind:
    return Kind(f"one of {', '.join(choices)}", lambda value: value in choices)


def _text_like(pattern: str, words: str) -> Kind:
    return Kind(words, lambda value: isinstance(value, str) and re.fullmatch(pattern, value) is not None)


ANY_TEXT = Kind("a text", lambda value: isinstance(value, str))
MAPPING = Kind("a mapping", lambda value: isinstance(value, dict))
WHOLE = Kind("a whole number", _is_int)
RATIO = Kind("a number from 0 to 1", lambda value: _is_number(value) and float(value) <= 1)
SWITCH = Kind(
    "true or false", lambda value: isinstance(value, bool) or str(value).lower() in ("true", "false", "yes", "no")
)
URL = _text_like(r"(https?|file)://\S+", "an address that begins with https:// or http://")
VERSION = _text_like(r"|latest|(\d+:)?\d+(\.\d+)*\S*", "a version such as 28.5.2, latest, or empty for any")
VERSIONS = Kind(
    'a list of versions in quotes, such as ["1.18.2"]',
    lambda value: isinstance(value, list) and all(isinstance(each, str) and re.match(r"\d", each) for each in value),
)
FINGERPRINT = _text_like(r"(?:[0-9A-Fa-f] ?){40}", "40 hexadecimal digits")
FOLDER = _text_like(r"|[/~].*", "an absolute path")
HOME = _text_like(r"/.*", "an absolute path")
GPUS = Kind(
    f"all, none or a list of GPUs ({GPU_FORM})",
    lambda value: value in ("all", "none") or (isinstance(value, list) and all(_is_gpu(each) for each in value)),
)
NAMES = Kind(
    "a list of names",
    lambda value: isinstance(value, list) and all(isinstance(each, str) for each in value),
)
LIST = Kind("a list", lambda value: isinstance(value, list))
RUNS = Kind(
    "a mapping from a service to what a run of it does, or a list of services",
    lambda value: isinstance(value, dict | list),
)
STACK_GPUS = Kind(
    f"a mapping from service to all, a number of GPUs, or a list of GPUs ({GPU_FORM})",
    lambda value: (
        isinstance(value, dict)
        and all(
            each == "all" or _is_int(each) or (isinstance(each, list) and all(_is_gpu(one) for one in each))
            for each in value.values()
        )
    ),
)
IMAGES = Kind(
    "a list of {name, archive}",
    lambda value: (
        isinstance(value, list) and all(isinstance(each, dict) and set(each) == {"name", "archive"} for each in value)
    ),
)
REGISTRIES = Kind(
    "a mapping from a registry's host (such as registry.example.org:5000) to username and password",
    lambda value: isinstance(value, dict) and all(_is_login(host, login) for host, login in value.items()),
)
LIMITS = Kind(
    "a mapping with cpus (a number such as 2.5), memory and disk (a size such as 64G)",
    lambda value: isinstance(value, dict) and all(key in LIMIT_FORMS and LIMIT_FORMS[key](value[key]) for key in value),
)
CONTAINER_IDS = Kind(
    "a list of user ids in containers, each from 1 to 65535",
    lambda value: isinstance(value, list) and all(_is_int(each) and 0 < int(each) < 65536 for each in value),
)
PLAIN_VALUES = Kind(
    "a mapping from name to a text, number or switch",
    lambda value: isinstance(value, dict) and all(isinstance(each, str | int | float) for each in value.values()),
)


def _is_login(host: Any, login: Any) -> bool:
    named = isinstance(host, str) and re.fullmatch(r"[A-Za-z0-9.-]+(:\d+)?(/v1/)?", host) is not None
    if not named or not isinstance(login, dict) or set(login) != {"username", "password"}:
        return False
    # The form that Docker keeps a login in ends the name at the first colon.
    return all(isinstance(each, str) and each for each in login.values()) and ":" not in login["username"]


def _is_size(value: Any) -> bool:
    return not isinstance(value, bool) and re.fullmatch(r"[1-9]\d*[KMGT]?", str(value)) is not None


LIMIT_FORMS: dict[str, Callable[[Any], bool]] = {
    "cpus": lambda value: _is_number(value) and float(value) >= 0.01,
    "memory": _is_size,
    "disk": _is_size,
}


def _is_pem(value: Any) -> bool:
    """Whether certificates can be read from a text."""
    import ssl  # slow to load, and only an inventory with a proxy's authority needs it

    try:
        ssl.create_default_context().load_verify_locations(cadata=value)
    except (TypeError, ValueError, OSError):
        return False
    return True


PROXY_ADDRESS = _text_like(r"|https?://[^\s/]+(:\d+)?/?", "an address such as http://proxy.example.org:3128")
NO_PROXY = Kind(
    "a list of names, addresses and networks, or one text with commas between them",
    lambda value: isinstance(value, str) or (isinstance(value, list) and all(isinstance(each, str) for each in value)),
)
CERTIFICATES = Kind(
    "certificates as PEM text, or the path of a file on the controller that holds them",
    lambda value: value == "" or _is_pem(value),
)


def _is_gpu(value: Any) -> bool:
    return not isinstance(value, bool) and re.fullmatch(GPU_NAME, str(value)) is not None


VARIABLES: dict[str, Kind] = {
    "gpulab_users": MAPPING,
    "gpulab_stacks": MAPPING,
    "gpulab_gpus_expected": WHOLE,
    "gpulab_stack": ANY_TEXT,
    "gpulab_release": ANY_TEXT,
    "gpulab_why": ANY_TEXT,
    "gpulab_copy": ANY_TEXT,
    "gpulab_purge": ANY_TEXT,
    "gpulab_gpu_shares": _one_of("cooperative", "enforced"),
    "gpulab_proxy": MAPPING,
    "gpulab_hold": SWITCH,
    "gpulab_accept_versions": VERSIONS,
    "gpulab_when_busy": _one_of("skip", "wait", "proceed"),
    "gpulab_busy_timeout": WHOLE,
    "gpulab_reset_purge_data": NAMES,
    "gpulab_reboot_allowed": SWITCH,
    "rootless_docker_source": _one_of("vendor", "distribution"),
    "rootless_docker_engine_version": VERSION,
    "rootless_docker_containerd_version": VERSION,
    "rootless_docker_compose_version": VERSION,
    "rootless_docker_buildx_version": VERSION,
    "rootless_docker_allow_downgrade": SWITCH,
    "rootless_docker_repository_url": URL,
    "rootless_docker_repository_key_url": URL,
    "rootless_docker_repository_key_fingerprint": FINGERPRINT,
    "rootless_docker_rootful": _one_of("refuse", "keep", "remove"),
    "rootless_docker_daemon": MAPPING,
    "rootless_docker_docker_host": SWITCH,
    "nvidia_container_toolkit_version": VERSION,
    "nvidia_container_toolkit_repository_url": URL,
    "nvidia_container_toolkit_repository_key_url": URL,
    "nvidia_container_toolkit_repository_key_fingerprint": FINGERPRINT,
    "nvidia_container_toolkit_persistence": SWITCH,
    "gpu_verify_bandwidth_ratio_min": RATIO,
    "gpu_verify_wheels_index": ANY_TEXT,
    "upgrade_healthy_within": WHOLE,
    "upgrade_reboot_timeout": WHOLE,
    "compose_stacks_root": FOLDER,
    "compose_stacks_wait_timeout": WHOLE,
}
USER_KEYS: dict[str, Kind] = {
    "gpus": GPUS,
    "create": SWITCH,
    "uid": WHOLE,
    "home": HOME,
    "state": _one_of("present", "absent"),
    "data": _one_of("keep", "remove"),
    "daemon": MAPPING,
    "system": SWITCH,
    "registries": REGISTRIES,
    "limits": LIMITS,
    "container_ids": CONTAINER_IDS,
}
PROXY_KEYS: dict[str, Kind] = {
    "http": PROXY_ADDRESS,
    "https": PROXY_ADDRESS,
    "no_proxy": NO_PROXY,
    "ca": CERTIFICATES,
}
STACK_KEYS: dict[str, Kind] = {
    "source": ANY_TEXT,
    "user": ANY_TEXT,
    "settings": PLAIN_VALUES,
    "gpus": STACK_GPUS,
    "images": IMAGES,
    "secrets": PLAIN_VALUES,
    "state": _one_of("present", "absent"),
    "profiles": NAMES,
    "gpu_sharing": _one_of("exclusive", "shared"),
    "snapshot": SWITCH,
    "publish": MAPPING,
    "checks": LIST,
    "runs": RUNS,
    "no_health": NAMES,
    "graphics": NAMES,
    "mounts": MAPPING,
    "keep": WHOLE,
}
SECRET_KEYS = ("secrets", "registries")
# Keys of daemon.json that are not the inventory's, and why.
OWNED_BY_ROLE = {
    "cdi-spec-dirs": "it holds the one folder with the GPUs that gpulab_users gives the user",
    "hosts": "the socket's place is what the user's Docker context and this collection's modules go by",
}


def problems(settings: Mapping[str, Any], exists: Exists, names: Iterable[str] = ()) -> list[dict[str, Any]]:
    """Everything that is wrong with one host's variables, as findings.

    names  further variables of the inventory, by name only: one may be a misspelled name of this collection's
    """
    found = _Problems(settings)
    found.variables()
    found.misspelled(names)
    found.versions()
    users = found.users(exists)
    found.stacks(users)
    found.expectations(users)
    return found.findings


def uid_problems(
    settings: Mapping[str, Any], uid_of: Callable[[str], int | None], owner_of: Callable[[int], str | None]
) -> Iterator[dict[str, Any]]:
    """The uids of gpulab_users that the host's accounts contradict.

    uid_of    the uid of an account, None where there is none
    owner_of  the account that has a uid, None where it is free
    """
    users = settings.get("gpulab_users")
    for name, user in (users if isinstance(users, Mapping) else {}).items():
        if not isinstance(user, Mapping) or not _is_int(user.get("uid")):
            continue  # told by problems()
        where, uid = f"gpulab_users.{name}.uid", int(user["uid"])
        has = uid_of(str(name))
        if has is not None and has != uid:
            seen = f"{where} = {uid}, the account {name} has {has}"
            yield finding("UID_DIFFERS", seen, setting=where, uid=uid, user=name, has=has)
        elif has is None and (owner := owner_of(uid)):
            yield finding("UID_TAKEN", f"{where} = {uid}, the uid of {owner}", setting=where, uid=uid, owner=owner)


class _Problems:
    """Collects findings while it walks the variables; what has the wrong form is not looked into further."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self.settings = settings
        self.findings: list[dict[str, Any]] = []

    def report(self, code: str, evidence: str, **data: Any) -> None:
        self.findings.append(finding(code, evidence, **data))

    def fits(self, where: str, value: Any, kind: Kind) -> bool:
        """Whether a value has its form; reports it when not."""
        if kind.fits(value):
            return True
        shown = "(secret)" if where.endswith(SECRET_KEYS) else _shown(value)
        self.report("SETTING_INVALID", f"{where} = {shown}", setting=where, wanted=kind.words)
        return False

    def variables(self) -> None:
        for name, value in self.settings.items():
            if name in VARIABLES:
                self.fits(name, value, VARIABLES[name])
        self.misspelled(self.settings)
        if isinstance(proxy := self.settings.get("gpulab_proxy"), dict):
            self.entry("gpulab_proxy", proxy, PROXY_KEYS)

    def misspelled(self, names: Iterable[str]) -> None:
        """Names that are almost one of ours: Ansible takes any, and such a setting would silently do nothing."""
        for name in names:
            if name not in VARIABLES and (close := difflib.get_close_matches(name, VARIABLES, 1, 0.9)):
                # Without the value: nobody knows what stands in a variable of an unknown name.
                self.report("SETTING_MISSPELLED", name, setting=name, known=close[0])

    def entry(self, where: str, entry: Any, keys: Mapping[str, Kind]) -> dict[str, Any]:
        """The well-formed keys of one user or stack."""
        if entry is None:
            return {}
        if not self.fits(where, entry, MAPPING):
            return {}
        good = {}
        for key, value in entry.items():
            if key not in keys:
                close = difflib.get_close_matches(str(key), keys, 1)
                hint = f"did you mean {close[0]}?" if close else f"known are {', '.join(keys)}."
                self.report("SETTING_UNKNOWN", f"{where}.{key}", setting=f"{where}.{key}", hint=hint)
            elif self.fits(f"{where}.{key}", value, keys[key]):
                good[key] = value
        return good

    def versions(self) -> None:
        engine = self.settings.get("rootless_docker_engine_version")
        source = self.settings.get("rootless_docker_source", "vendor")
        given = self.settings.get("gpulab_accept_versions")
        names: list[str] = given if isinstance(given, list) else []
        if source == "vendor" and _below(engine, ENGINE_FLOOR) and not accepted(str(engine), names):
            self.report("ENGINE_TOO_OLD", f"rootless_docker_engine_version = {engine}")
        toolkit = self.settings.get("nvidia_container_toolkit_version")
        if _below(toolkit, TOOLKIT_FLOOR) and not accepted(str(toolkit), names):
            seen = f"nvidia_container_toolkit_version = {toolkit}"
            self.report("TOOLKIT_VERSION_REFUSED", seen, floor=dotted(TOOLKIT_FLOOR))

    def users(self, exists: Exists) -> dict[str, dict[str, Any]]:
        """The users, with a finding for each that cannot be served."""
        users = self.settings.get("gpulab_users")
        if users == {}:
            self.report("USERS_NONE", "gpulab_users is empty")
        good: dict[str, dict[str, Any]] = {}
        uids: dict[str, str] = {}
        for name, entry in (users if isinstance(users, dict) else {}).items():
            where = f"gpulab_users.{name}"
            good[name] = user = self.entry(where, entry, USER_KEYS)
            if name == "root":
                self.report("USER_IS_ROOT", where)
            elif not re.fullmatch(USER_NAME, str(name)):
                wanted = "a user name: lower-case letters, digits, '.', '_' and '-'"
                self.report("SETTING_INVALID", f"gpulab_users has {name!r}", setting=where, wanted=wanted)
            elif (
                user.get("state") != "absent"
                and exists(name) is False
                and str(user.get("create", False)).lower() not in ("true", "yes")
            ):
                self.report("USER_MISSING", f"{where}: no such account on this host", user=name)
            if "uid" in user and uids.setdefault(str(user["uid"]), name) != name:
                seen = f"{where}.uid = {user['uid']}, as gpulab_users.{uids[str(user['uid'])]}"
                self.report("SETTING_INVALID", seen, setting=f"{where}.uid", wanted="a uid of its own")
            self.daemon(f"{where}.daemon", user.get("daemon"))
            if "data" in user and user.get("state") != "absent":
                seen = f"{where}.data = {user['data']} without {where}.state: absent"
                self.report("SETTING_INVALID", seen, setting=f"{where}.data", wanted="left away unless the user goes")
        self.daemon("rootless_docker_daemon", self.settings.get("rootless_docker_daemon"))
        self.data_roots(good)
        return good

    def data_roots(self, users: Mapping[str, dict[str, Any]]) -> None:
        """No two engines keep their data in, or below, one folder."""
        shared = self.settings.get("rootless_docker_daemon")
        shared = shared.get("data-root") if isinstance(shared, dict) else None
        roots: dict[str, str] = {}
        for name, user in users.items():
            root = user.get("daemon", {}).get("data-root", shared)
            where = f"gpulab_users.{name}.daemon.data-root"
            if root is None or user.get("state") == "absent" or not self.fits(where, root, HOME):
                continue
            root = posixpath.normpath(root)
            for other, taken in roots.items():
                if f"{root}/".startswith(f"{taken}/") or f"{taken}/".startswith(f"{root}/"):
                    seen = f"{where} = {root}, gpulab_users.{other}.daemon.data-root = {taken}"
                    self.report("DATA_ROOT_SHARED", seen, setting=where)
            roots[name] = root

    def daemon(self, where: str, daemon: Any) -> None:
        """Options that dockerd would accept and not use, and those that are not the inventory's to set."""
        if not isinstance(daemon, dict):
            return
        for wrong, right in FLAG_SPELLINGS.items():
            if wrong in daemon:
                self.report("DAEMON_JSON_TYPO", f"{where} has {wrong}", wrong=wrong, right=right)
        for key, why in OWNED_BY_ROLE.items():
            if key in daemon:
                seen = f"{where}.{key} = {_shown(daemon[key])}"
                self.report("DAEMON_KEY_OWNED", seen, setting=f"{where}.{key}", why=why)
        features = daemon.get("features")
        if isinstance(features, dict) and features.get("cdi", True) is not True:
            seen, where = f"{where}.features.cdi = {features['cdi']}", f"{where}.features.cdi"
            self.report("DAEMON_KEY_OWNED", seen, setting=where, why="without it no container gets a GPU")

    def stacks(self, users: Mapping[str, dict[str, Any]]) -> None:
        stacks = self.settings.get("gpulab_stacks")
        ports: dict[str, str] = {}
        for name, entry in (stacks if isinstance(stacks, dict) else {}).items():
            where = f"gpulab_stacks.{name}"
            stack = self.entry(where, entry, STACK_KEYS)
            if not re.fullmatch(STACK_NAME, str(name)):
                wanted = "a stack name: lower-case letters, digits, '_' and '-'"
                self.report("SETTING_INVALID", f"gpulab_stacks has {name!r}", setting=where, wanted=wanted)
            if stack.get("state") == "absent":
                continue
            self.stack_user(where, stack, users)
            for key, value in (stack.get("settings") or {}).items():
                if not re.fullmatch(r"(.*_)?PORT", key):
                    continue
                before = ports.setdefault(str(value), f"{where}.settings.{key}")
                if before != f"{where}.settings.{key}":
                    seen = f"{before} and {where}.settings.{key} are both {value}"
                    self.report("STACK_PORT_CLASH", seen, setting=f"{where}.settings.{key}")

    def stack_user(self, where: str, stack: Mapping[str, Any], users: Mapping[str, dict[str, Any]]) -> None:
        """A stack runs as one of the users and gets no GPU that its user does not have."""
        name = stack.get("user", "")
        known = ", ".join(users) or "none"
        if name not in users:
            seen = f"{where}.user = {name}" if name else f"{where} names no user"
            self.report("STACK_USER_UNKNOWN", f"{seen}; gpulab_users has {known}", stack=where, known=known)
            return
        if users[name].get("state") == "absent":
            return  # the stack goes with its user
        has = users[name].get("gpus", "none")
        for service, wants in (stack.get("gpus") or {}).items():
            if lacking := _lacking(wants, has):
                seen = f"{where}.gpus.{service} = {_shown(wants)}, gpulab_users.{name}.gpus = {_shown(has)}: {lacking}"
                self.report("STACK_GPU_NOT_GIVEN", seen, stack=where, user=name)

    def expectations(self, users: Mapping[str, dict[str, Any]]) -> None:
        """GPUs that are asked for by name or number can be there at all."""
        expected = self.settings.get("gpulab_gpus_expected")
        if expected is None or not _is_int(expected):
            return
        count = int(expected)
        asked: list[tuple[str, Any]] = [
            (f"gpulab_users.{name}.gpus", user.get("gpus"))
            for name, user in users.items()
            if user.get("state") != "absent"
        ]
        stacks = self.settings.get("gpulab_stacks")
        for name, stack in (stacks if isinstance(stacks, dict) else {}).items():
            if isinstance(stack, dict) and isinstance(stack.get("gpus"), dict) and stack.get("state") != "absent":
                asked += [(f"gpulab_stacks.{name}.gpus.{service}", gpus) for service, gpus in stack["gpus"].items()]
        for where, gpus in asked:
            if _least(gpus) > count or (count == 0 and where.startswith("gpulab_stacks.") and gpus == "all"):
                seen = f"{where} = {_shown(gpus)}, gpulab_gpus_expected = {count}"
                self.report("GPUS_MORE_THAN_EXPECTED", seen, setting=where)


def _least(gpus: Any) -> int:
    """How many GPUs a host must have for this to be possible."""
    if isinstance(gpus, list):
        indexes = [int(str(gpu)) + 1 for gpu in gpus if str(gpu).isdecimal()]
        physical = {str(gpu) for gpu in gpus if re.fullmatch(rf"\d+|GPU-{UUID}", str(gpu))}
        return max([len(physical), *indexes])
    return int(gpus) if _is_int(gpus) else 0


def _lacking(wants: Any, has: Any) -> str:
    """What a service asks for beyond what its user has, in words; empty when nothing.

    An index and a UUID may name the same GPU, so lists are compared only where both use one kind of name.
    """
    nothing = wants in (0, "0", [])
    if nothing or has == "all":
        return ""
    if has in ("none", []):
        return "the user has no GPU"
    if wants == "all":
        return ""  # all that the user has
    if _is_int(wants):
        return f"the user has {len(has)}" if int(wants) > len(has) else ""
    for pattern in (r"\d+", rf"GPU-{UUID}", r"MIG-.*"):
        if all(re.fullmatch(pattern, str(gpu)) for gpu in has):
            held = {str(gpu) for gpu in has}
            beyond = [str(gpu) for gpu in wants if re.fullmatch(pattern, str(gpu)) and str(gpu) not in held]
            return f"not the user's: {', '.join(beyond)}" if beyond else ""
    return ""


def _below(version: Any, floor: tuple[int, ...]) -> bool:
    found = re.match(r"(?:\d+:)?(\d+(?:\.\d+)*)", version) if isinstance(version, str) else None
    if not found:
        return False
    numbers = tuple(int(part) for part in found.group(1).split("."))
    return numbers < floor[: len(numbers)]


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
