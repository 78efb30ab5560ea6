#!/usr/bin/python
# Copyright: gpulab.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A package repository whose key is verified before apt ever trusts it."""

from __future__ import annotations

DOCUMENTATION = r"""
module: apt_signed_source
short_description: An apt repository with a key of a known fingerprint
version_added: 0.1.0
description:
  - Fetches the repository's signing key on the target, compares the fingerprint of every key in it with the one that is
    expected, and writes C(/etc/apt/keyrings/NAME.asc) and the deb822 file C(/etc/apt/sources.list.d/NAME.sources).
  - The key is fetched only when the keyring is missing or holds another key. Needs neither gpg nor python3-debian.
  - Nothing is written when another source names the same repository with another key, because apt would refuse every
    command from then on.
  - The package index is not refreshed; that is for the task that installs something.
options:
  name:
    description: Name of the two files, without folder and suffix.
    type: str
    required: true
  uris:
    description: Addresses of the repository. C($(ARCH\)) stands for the architecture, as everywhere in apt.
    type: list
    elements: str
  suites:
    description: Suites; one that ends in a slash makes the repository flat, and it then has no components.
    type: list
    elements: str
  components:
    description: Components, empty for a flat repository.
    type: list
    elements: str
    default: []
  architectures:
    description: Architectures; the host's own when empty.
    type: list
    elements: str
    default: []
  key_url:
    description: Address of the signing key, armored or binary.
    type: str
  key_fingerprint:
    description: Fingerprint of the one key that may sign (40 hexadecimal digits, spaces allowed).
    type: str
  state:
    description: V(absent) removes the two files if this module wrote them.
    type: str
    choices: [present, absent]
    default: present
attributes:
  check_mode:
    description: Predicts without changing; the key is not fetched, so its fingerprint is not verified.
    support: full
  diff_mode:
    description: Shows the source file and the key's fingerprint.
    support: full
  platform:
    description: Debian and Ubuntu.
    support: full
    platforms: debian
author:
  - gpulab.fleet contributors
"""

EXAMPLES = r"""
- name: Trust the vendor's repository
  gpulab.fleet.apt_signed_source:
    name: docker
    uris: [https://download.docker.com/linux/ubuntu]
    suites: [jammy]
    components: [stable]
    key_url: https://download.docker.com/linux/ubuntu/gpg
    key_fingerprint: 9DC8 5822 9FC7 DD38 854A  E2D8 8D81 803C 0EBF CD88
"""

RETURN = r"""
fingerprint:
  description: The verified fingerprint, when the source is present.
  type: str
  returned: success
  sample: 9DC858229FC7DD38854AE2D88D81803C0EBFCD88
files:
  description: The two files that this module keeps.
  type: list
  elements: str
  returned: success
  sample: [/etc/apt/keyrings/docker.asc, /etc/apt/sources.list.d/docker.sources]
finding:
  description: >-
    Code, cause and remedy of a failure. Codes are APT_SOURCE_CONFLICT, KEY_UNREACHABLE, KEY_INVALID and
    KEY_FINGERPRINT_MISMATCH.
  type: dict
  returned: failure
"""

import contextlib
import re
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.urls import fetch_url
from ansible_collections.gpulab.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.gpulab.fleet.plugins.module_utils._findings import from_error, message
from ansible_collections.gpulab.fleet.plugins.module_utils._journal import Journal
from ansible_collections.gpulab.fleet.plugins.module_utils._openpgp import armor, dearmor, fingerprints, normalize

HEADER = "# Kept by gpulab.fleet (apt_signed_source); changes made here are overwritten."


def render(uris: list[str], suites: list[str], components: list[str], architectures: list[str], key: str) -> str:
    """The deb822 text of a source."""
    fields = {
        "Types": "deb",
        "URIs": " ".join(uris),
        "Suites": " ".join(suites),
        "Components": " ".join(components),
        "Architectures": " ".join(architectures),
        "Signed-By": key,
    }
    return "\n".join([HEADER, *(f"{name}: {value}" for name, value in fields.items() if value), ""])


def one_line_sources(text: str) -> list[tuple[str, str, str]]:
    """(uri, suite, signed-by) of every active line of a .list file."""
    found = []
    for line in text.splitlines():
        match = re.match(r"\s*deb(?:-src)?\s+(?:\[(?P<options>[^\]]*)\]\s*)?(?P<uri>\S+)\s+(?P<suite>\S+)", line)
        if match:
            signed = re.search(r"(?i)\bsigned-by=(\S+)", match["options"] or "")
            found.append((match["uri"], match["suite"], signed[1] if signed else ""))
    return found


def deb822_sources(text: str) -> list[tuple[str, str, str]]:
    """(uri, suite, signed-by) of every active pair in a .sources file."""
    found = []
    for stanza in re.split(r"\n\s*\n", text):
        fields: dict[str, str] = {}
        name = ""
        for line in stanza.splitlines():
            if line.startswith("#"):
                continue
            if line[:1] in (" ", "\t") and name:
                fields[name] += "\n" + line.strip()
            elif ":" in line:
                name, _, value = line.partition(":")
                name = name.strip().lower()
                fields[name] = value.strip()
        if fields.get("enabled", "yes").lower() in ("no", "false", "0", "off", "disable", "without"):
            continue
        signed = fields.get("signed-by", "")
        found += [
            (uri, suite, signed) for uri in fields.get("uris", "").split() for suite in fields.get("suites", "").split()
        ]
    return found


def same_repository(uri: str, suite: str, architecture: str) -> tuple[str, str]:
    """What apt keeps a source's options under: the address without its last slash, and the suite."""
    return uri.replace("$(ARCH)", architecture).rstrip("/"), suite.replace("$(ARCH)", architecture).rstrip("/")


def conflicts(
    files: dict[str, str], wanted: set[tuple[str, str]], key: str, architecture: str
) -> list[tuple[str, str]]:
    """(path, what it says) of each file that gives a wanted repository another key."""
    found = []
    for path, text in files.items():
        pairs = deb822_sources(text) if path.endswith(".sources") else one_line_sources(text)
        for uri, suite, signed in pairs:
            # An entry without a key of its own only makes apt warn of a duplicate.
            if signed and signed != key and same_repository(uri, suite, architecture) in wanted:
                found.append((path, f"{uri} {suite} is Signed-By {signed.splitlines()[0] or 'a key inside the file'}"))
    return found


class Source:
    """Reads the two files, compares, writes what differs."""

    def __init__(self, module: AnsibleModule, root: str = "/etc/apt") -> None:
        self.module = module
        self.p: dict[str, Any] = module.params
        self.root = Path(root)
        self.journal = Journal(module.check_mode)
        self.keyring = self.root / "keyrings" / f"{self.p['name']}.asc"
        self.sources = self.root / "sources.list.d" / f"{self.p['name']}.sources"
        self.before = {"source": self.read(self.sources), "key": self.present_key()}

    def read(self, path: Path) -> str:
        with contextlib.suppress(FileNotFoundError):
            return path.read_text(encoding="utf-8", errors="replace")
        return ""

    def present_key(self) -> str:
        """What the keyring holds now: fingerprints, or a word that says why apt cannot use it."""
        try:
            if not self.keyring.stat().st_mode & 0o004:
                return "unreadable"  # apt reads keys as the user _apt
            return " ".join(fingerprints(self.keyring.read_bytes()))
        except FileNotFoundError:
            return ""
        except FleetError:
            return "unreadable"

    def architecture(self) -> str:
        return str(self.module.run_command(["dpkg", "--print-architecture"], check_rc=True)[1]).strip()

    def present(self) -> dict[str, Any]:
        wanted_key = normalize(self.p["key_fingerprint"])
        architecture = self.architecture()
        text = render(
            self.p["uris"],
            self.p["suites"],
            self.p["components"],
            self.p["architectures"] or [architecture],
            str(self.keyring),
        )
        self.refuse_conflicts(architecture)
        after = {"source": text, "key": wanted_key}
        changed = after != self.before
        if changed and not self.module.check_mode:
            # The key first: a source whose key is missing breaks apt, a key without a source does nothing.
            if after["key"] != self.before["key"]:
                self.journal.write(self.keyring, self.fetch_key(wanted_key), 0o644)
            self.journal.write(self.sources, text.encode(), 0o644)
        return self.result(changed, after, wanted_key)

    def absent(self) -> dict[str, Any]:
        # Only what this module wrote: a person's own docker.sources is not ours to remove.
        ours = self.before["source"].startswith(HEADER)
        after = {"source": "", "key": ""} if ours else self.before
        if ours and not self.module.check_mode:
            self.sources.unlink()
            self.keyring.unlink(missing_ok=True)
        return self.result(ours, after, "")

    def refuse_conflicts(self, architecture: str) -> None:
        paths = [self.root / "sources.list", *sorted((self.root / "sources.list.d").glob("*"))]
        files = {str(p): self.read(p) for p in paths if p != self.sources and p.suffix in (".list", ".sources")}
        wanted = {same_repository(u, s, architecture) for u in self.p["uris"] for s in self.p["suites"]}
        for path, said in conflicts(files, wanted, str(self.keyring), architecture):
            error = FleetError("APT_SOURCE_CONFLICT", f"{path}: {said}")
            found = from_error(error, path=path, own=str(self.sources))
            self.module.fail_json(msg=message(found), finding=found)

    def fetch_key(self, wanted: str) -> bytes:
        url = self.p["key_url"]
        response, info = fetch_url(self.module, url, timeout=30)
        if info["status"] != 200 and not (response and url.startswith("file:")):
            raise FleetError("KEY_UNREACHABLE", f"{url}: {info['msg']}")
        data = response.read()
        found = fingerprints(data)
        if found != [wanted]:
            raise FleetError("KEY_FINGERPRINT_MISMATCH", f"{url} holds {', '.join(found)}; expected {wanted}")
        return armor(dearmor(data))

    def result(self, changed: bool, after: dict[str, str], fingerprint: str) -> dict[str, Any]:
        diff = [
            {
                "before_header": str(path),
                "after_header": str(path),
                "before": self.before[what] + ending,
                "after": after[what] + ending,
            }
            for what, path, ending in (("source", self.sources, ""), ("key", self.keyring, "\n"))
            if self.before[what] != after[what]
        ]
        files = [str(self.keyring), str(self.sources)]
        return {"changed": changed, "diff": diff, "fingerprint": fingerprint, "files": files}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "uris": {"type": "list", "elements": "str"},
            "suites": {"type": "list", "elements": "str"},
            "components": {"type": "list", "elements": "str", "default": []},
            "architectures": {"type": "list", "elements": "str", "default": []},
            "key_url": {"type": "str", "no_log": False},
            "key_fingerprint": {"type": "str", "no_log": False},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
        },
        required_if=[("state", "present", ["uris", "suites", "key_url", "key_fingerprint"])],
        supports_check_mode=True,
    )
    try:
        source = Source(module)
        result = source.present() if module.params["state"] == "present" else source.absent()
    except FleetError as error:
        found = from_error(error, url=module.params["key_url"])
        module.fail_json(msg=message(found), finding=found)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
