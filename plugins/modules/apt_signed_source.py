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
  - Other sources for the same repository, in files of any name and of both forms, are switched off where they stand
    (C(# Taken over by gpulab.fleet)), because apt refuses every command when two of them name different keys. The files
    as they were are kept in the host's journal.
  - What shares its stanza with other addresses is not touched; where its key differs, nothing is written at all.
  - The package index is not refreshed; that is for the task that installs something.
extends_documentation_fragment: [gpulab.fleet.proxy, gpulab.fleet.platform]
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
  replaces:
    description:
      - Addresses whose sources this one takes the place of, with all that lies below them, in any suite. What names the
        repository itself is taken over in any case.
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
    description: V(absent) removes the two files if this module wrote them, and switches on again what it had taken over.
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
taken_over:
  description: Files in which another source for this repository was switched off.
  type: list
  elements: str
  returned: success
  sample: [/etc/apt/sources.list.d/docker.list]
finding:
  description: >-
    Code, cause and remedy of a failure. Codes are APT_SOURCE_CONFLICT, KEY_UNREACHABLE, KEY_INVALID and
    KEY_FINGERPRINT_MISMATCH.
  type: dict
  returned: failure
"""

import os
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.urls import fetch_url
from ansible_collections.gpulab.fleet.plugins.module_utils._apt_takeover import Entry, Wanted, entries, give_back, take
from ansible_collections.gpulab.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.gpulab.fleet.plugins.module_utils._files import read_text
from ansible_collections.gpulab.fleet.plugins.module_utils._findings import from_error, message
from ansible_collections.gpulab.fleet.plugins.module_utils._journal import Journal
from ansible_collections.gpulab.fleet.plugins.module_utils._openpgp import armor, dearmor, fingerprints, normalize
from ansible_collections.gpulab.fleet.plugins.module_utils._proxy import OPTION, environment, keep_secret, proxy_from

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


def conflict(entry: Entry, wanted: Wanted, key: str) -> bool:
    """Whether apt would refuse this entry beside ours: one address and suite, two keys."""
    # An entry without a key of its own only makes apt warn of a duplicate.
    return (
        bool(entry.signed_by) and entry.signed_by != key and wanted._replace(components=(), replaces=()).is_same(entry)
    )


class Source:
    """Reads the two files, compares, writes what differs."""

    def __init__(self, module: AnsibleModule, root: str = "/etc/apt") -> None:
        self.module = module
        self.p: dict[str, Any] = module.params
        self.root = Path(root)
        self.journal = Journal(module.check_mode)
        self.keyring = self.root / "keyrings" / f"{self.p['name']}.asc"
        self.sources = self.root / "sources.list.d" / f"{self.p['name']}.sources"
        self.before = {"source": read_text(self.sources), "key": self.present_key()}

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
        text = render(
            self.p["uris"],
            self.p["suites"],
            self.p["components"],
            self.p["architectures"] or [self.architecture()],
            str(self.keyring),
        )
        taken = self.take_over()
        after = {"source": text, "key": wanted_key}
        changed = after != self.before
        if not self.module.check_mode:
            for path, (_, switched_off) in taken.items():
                self.journal.write(path, switched_off.encode(), path.stat().st_mode & 0o777)
        if changed and not self.module.check_mode:
            # The key first: a source whose key is missing breaks apt, a key without a source does nothing.
            if after["key"] != self.before["key"]:
                self.journal.write(self.keyring, self.fetch_key(wanted_key), 0o644)
            self.journal.write(self.sources, text.encode(), 0o644)
        return self.result(changed, after, wanted_key, taken)

    def absent(self) -> dict[str, Any]:
        # Only what this module wrote: a person's own docker.sources is not ours to remove.
        ours = self.before["source"].startswith(HEADER)
        after = {"source": "", "key": ""} if ours else self.before
        back = self.give_back() if ours else {}
        if ours and not self.module.check_mode:
            for path, (_, switched_on) in back.items():
                self.journal.write(path, switched_on.encode(), path.stat().st_mode & 0o777)
            self.sources.unlink()
            self.keyring.unlink(missing_ok=True)
        return self.result(ours, after, "", back)

    def other_files(self) -> dict[Path, str]:
        """The sources that are not this module's, with their text."""
        paths = [self.root / "sources.list", *sorted((self.root / "sources.list.d").glob("*"))]
        return {p: read_text(p) for p in paths if p != self.sources and p.suffix in (".list", ".sources")}

    def wanted(self) -> Wanted:
        return Wanted(
            tuple(self.p["uris"] or []),
            tuple(self.p["suites"] or []),
            tuple(self.p["components"]),
            tuple(self.p["replaces"]),
            self.architecture(),
        )

    def give_back(self) -> dict[Path, tuple[str, str]]:
        """Text before and after of files in which this source had switched others off."""
        wanted = self.wanted()
        files = {path: (text, give_back(str(path), text, wanted.is_same)) for path, text in self.other_files().items()}
        return {path: (before, after) for path, (before, after) in files.items() if before != after}

    def take_over(self) -> dict[Path, tuple[str, str]]:
        """Text before and after of files that name this repository too; refuses what cannot be switched off."""
        wanted = self.wanted()
        changes = {}
        for path, text in self.other_files().items():
            taken = take(str(path), text, wanted.is_same)
            for entry in entries(str(path), taken.text):
                if conflict(entry, wanted, str(self.keyring)):
                    key = entry.signed_by.strip().splitlines()[0]
                    error = FleetError("APT_SOURCE_CONFLICT", f"{path}: {entry.uri} {entry.suite} is Signed-By {key}")
                    found = from_error(error, path=path, own=str(self.sources))
                    self.module.fail_json(msg=message(found), finding=found)
            if taken.entries:
                changes[path] = (text, taken.text)
        return changes

    def fetch_key(self, wanted: str) -> bytes:
        url = self.p["key_url"]
        proxy = proxy_from(self.p["proxy"])
        os.environ.update(environment(proxy))  # which fetch_url reads; apt has settings of its own
        response, info = fetch_url(self.module, url, timeout=30)
        if info["status"] != 200 and not (response and url.startswith("file:")):
            raise FleetError("KEY_UNREACHABLE", f"{url}: {info['msg']}")
        data = response.read()
        found = fingerprints(data)
        if found != [wanted]:
            raise FleetError("KEY_FINGERPRINT_MISMATCH", f"{url} holds {', '.join(found)}; expected {wanted}")
        return armor(dearmor(data))

    def result(
        self,
        changed: bool,
        after: dict[str, str],
        fingerprint: str,
        taken: dict[Path, tuple[str, str]] | None = None,
    ) -> dict[str, Any]:
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
        diff += [
            {"before_header": str(path), "after_header": str(path), "before": before, "after": changed_to}
            for path, (before, changed_to) in (taken or {}).items()
        ]
        return {
            "changed": changed or bool(taken),
            "diff": diff,
            "fingerprint": fingerprint,
            "files": files,
            "taken_over": [str(path) for path in taken or {}],
        }


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "uris": {"type": "list", "elements": "str"},
            "suites": {"type": "list", "elements": "str"},
            "components": {"type": "list", "elements": "str", "default": []},
            "architectures": {"type": "list", "elements": "str", "default": []},
            "replaces": {"type": "list", "elements": "str", "default": []},
            "proxy": OPTION,
            "key_url": {"type": "str", "no_log": False},
            "key_fingerprint": {"type": "str", "no_log": False},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
        },
        required_if=[("state", "present", ["uris", "suites", "key_url", "key_fingerprint"])],
        supports_check_mode=True,
    )
    keep_secret(module)
    try:
        source = Source(module)
        result = source.present() if module.params["state"] == "present" else source.absent()
    except FleetError as error:
        found = from_error(error, url=module.params["key_url"])
        module.fail_json(msg=message(found), finding=found)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
