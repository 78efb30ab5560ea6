# Copyright: gpulab.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Images that a site hands over as archives: brought in once, known again by the archive's checksum."""

from __future__ import annotations

import json
import lzma
import re
import tarfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ansible_collections.gpulab.fleet.plugins.module_utils._compose import Project, tail
from ansible_collections.gpulab.fleet.plugins.module_utils._errors import FleetError

GUARD = "gpulab/archive"
PATH_LINE = "ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# A name that an image may have; the engine would take one that begins with a dash for an option.
NAME = re.compile(r"[a-zA-Z0-9][\w.:/@-]*", re.ASCII)
# What `docker save` puts first: blobs/, an image's or layer's checksum, or one of its indexes.
SAVED = re.compile(r"(\./)?(blobs(/|$)|[0-9a-f]{64}([/.]|$)|manifest\.json$|index\.json$|oci-layout$|repositories$)")


def kind(archive: Path) -> str:
    """saved (docker save) or rootfs (a file system): told by the archive's first entry."""
    try:
        with tarfile.open(archive, mode="r:*") as tar:
            first = tar.next()
    except (tarfile.ReadError, EOFError, zlib.error, lzma.LZMAError):
        with archive.open("rb") as file:
            if file.read(4) == b"\x28\xb5\x2f\xfd":  # zstd, which only newer Pythons can look into
                return "saved"
        raise FleetError("STACK_ARCHIVE_INVALID", f"{archive} is not a tar archive") from None
    except OSError as error:
        raise FleetError("STACK_ARCHIVE_INVALID", f"{archive}: {error.strerror}") from error
    if first is None:
        raise FleetError("STACK_ARCHIVE_INVALID", f"{archive} is empty")
    return "saved" if SAVED.match(first.name) else "rootfs"


def architecture(archive: Path) -> str:
    """Which processor the image in an archive of `docker save` is for; empty where that cannot be told.

    One with several images is judged when they are here: only then it is known which of them is used.
    """
    try:
        with tarfile.open(archive, mode="r:") as tar:  # uncompressed ones only: the others would be read to their end
            manifest = json.loads(_member(tar, "manifest.json"))
            if len(manifest) != 1:
                return ""
            return str(json.loads(_member(tar, manifest[0]["Config"])).get("architecture", ""))
    except (OSError, tarfile.TarError, ValueError, KeyError, TypeError, AttributeError):
        return ""


def _member(tar: tarfile.TarFile, name: str) -> bytes:
    file = tar.extractfile(name)
    return file.read(1 << 24) if file else b""


def guard(checksum: str) -> str:
    """The tag that says: this image came out of that archive."""
    return f"{GUARD}:{checksum}"


def reference(name: str) -> str:
    """An image's name as the engine lists it."""
    return name if ":" in name.rpartition("/")[2] or "@" in name else f"{name}:latest"


def absent(images: Mapping[str, str], archives: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those archives that were never brought in here (or whose image has been removed)."""
    return [archive for archive in archives if guard(archive["sha256"]) not in images]


def misnamed(images: Mapping[str, str], archives: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those that are here, and whose name now means another image."""
    return [
        archive
        for archive in archives
        if guard(archive["sha256"]) in images
        and images.get(reference(archive["name"])) != images[guard(archive["sha256"])]
    ]


def bring_in(project: Project, archive: Mapping[str, Any], file: int) -> None:
    """Loads or imports an archive (an open file) and gives the image its name and its guard."""
    name, mark = reference(archive["name"]), guard(archive["sha256"])
    if archive["kind"] == "rootfs":
        done = project.docker("import", "--change", PATH_LINE, "--change", 'CMD ["/bin/sh"]', "-", mark, stdin=file)
        found = mark
    else:
        done = project.docker("load", stdin=file)
        loaded = re.findall(r"^Loaded image(?: ID)?: (\S+)", done.stdout, re.MULTILINE)
        found = name if name in [reference(each) for each in loaded] else (loaded[0] if len(loaded) == 1 else "")
    if done.returncode != 0:
        raise FleetError("STACK_ARCHIVE_INVALID", f"{archive['archive']}:\n{tail(done.stderr or done.stdout, 5)}")
    if not found:
        raise FleetError("STACK_ARCHIVE_INVALID", f"{archive['archive']} holds several images and none named {name}")
    for tag in (mark, name):
        name_it(project, found, tag)


def name_it(project: Project, image: str, tag: str) -> None:
    if image != tag:
        try:
            project.tag(image, tag)
        except OSError as error:
            raise FleetError("STACK_ARCHIVE_INVALID", f"naming {image} {tag}: {error}") from error
