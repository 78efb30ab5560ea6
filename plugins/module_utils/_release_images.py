# Copyright: gpulab.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The images of a release: which are here already, which are built or fetched, and the tags that keep them here."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ansible_collections.gpulab.fleet.plugins.module_utils import _stack_images as archives
from ansible_collections.gpulab.fleet.plugins.module_utils._compose import (
    PROJECT,
    Project,
    classify,
    sorted_streams,
    sync,
    tail,
)
from ansible_collections.gpulab.fleet.plugins.module_utils._compose_gpus import environment
from ansible_collections.gpulab.fleet.plugins.module_utils._disk_room import room
from ansible_collections.gpulab.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.gpulab.fleet.plugins.module_utils._image_integrity import mend, record_synced
from ansible_collections.gpulab.fleet.plugins.module_utils._release import Release, Store
from ansible_collections.gpulab.fleet.plugins.module_utils._release_refuse import machine

TO_BUILD, TO_FETCH = "to-be-built", "to-be-fetched"

Compose = Callable[..., Any]


def tag_of(stack: str, service: str, image_id: str) -> str:
    """The tag that keeps an image for as long as a release needs it: by content, the same for releases that share it."""
    return f"{_repository(f'{stack}-{service.lower()}')}:{image_id.rpartition(':')[2][:12]}"


def _repository(name: str) -> str:
    """A name that an image may have: it knows one mark between letters and digits at a time, and none at the end."""
    return "gpulab/" + re.sub(r"[^a-z0-9]+", "-", name).strip("-")


@dataclass
class Images:
    """Finds or makes the image of every service; `found` has (id, what it was built from) by service."""

    project: Project
    stack: str
    check: bool
    compose: Compose
    found: dict[str, tuple[str, str]] = field(default_factory=dict)
    actions: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.here = self.project.images()

    def ids(self) -> set[str]:
        return set(self.here.values())

    # --- archives ----------------------------------------------------------------------------------------

    def bring_in(self, wanted: list[dict[str, Any]], files: Mapping[str, int]) -> None:
        absent, misnamed = archives.absent(self.here, wanted), archives.misnamed(self.here, wanted)
        if absent:
            self._refuse_full_disk(sum(os.fstat(files[archive["name"]]).st_size for archive in absent if files))
        began = time.monotonic()
        # A run that was cut off may have left one under its name alone, and loading does not mend what is there.
        left = [self.here[name] for each in absent if (name := archives.reference(each["name"])) in self.here]
        self.actions += mend(self.project, left, self.check)
        for archive in absent:
            self.actions.append(f"import image {archive['name']}")
            if not self.check:
                archives.bring_in(self.project, archive, files[archive["name"]])
        for archive in misnamed:
            self.actions.append(f"tag image {archive['name']}")
            if not self.check:
                archives.name_it(self.project, archives.guard(archive["sha256"]), archive["name"])
        if (absent or misnamed) and not self.check:
            self.seconds["import"] = time.monotonic() - began
            self._look_again()

    def _look_again(self) -> None:
        """Puts what was made on disk, because a power cut would leave layers that end half-way, and asks again."""
        before = self.ids()
        self.here = self.project.images()
        sync(self._data_root())
        record_synced(self.project, self.ids() - before)

    def _data_root(self) -> str:
        return str(self.project.api("/info")["DockerRootDir"])

    def _refuse_full_disk(self, need: int = 0) -> None:
        room(Path(self._data_root()), need)

    def _mend(self, images: Iterable[str]) -> None:
        """Takes away images that a power cut has left half-written, so that they are brought in again."""
        done = mend(self.project, [image for image in images if image], self.check)
        self.actions += done
        if done and not self.check:
            self.here = self.project.images()

    # --- one for each service ----------------------------------------------------------------------------

    def find(self, services: Mapping[str, Any], builds: Mapping[str, str], known: Iterable[Release]) -> None:
        """builds has, for each service that is built, what it is built from; known are the releases that are kept."""
        here = self.ids()
        made = {
            service.build: service.image_id
            for release in known
            for service in release.services.values()
            if service.build and service.image_id in here
        }
        to_build = [name for name, source in builds.items() if not source or source not in made]
        self.found = {name: (made[source], source) for name, source in builds.items() if name not in to_build}
        self._build(services, to_build, builds)
        self._fetch({name: service for name, service in services.items() if name not in builds})

    def _build(self, services: Mapping[str, Any], names: list[str], builds: Mapping[str, str]) -> None:
        if not names:
            return
        self.actions += [f"build {name}" for name in names]
        if self.check:
            self.found.update(dict.fromkeys(names, (TO_BUILD, "")))
            return
        called = {name: archives.reference(services[name].get("image") or f"{self.stack}-{name}") for name in names}
        before = {self.here[image] for image in called.values() if image in self.here}
        self._bring("build", names, ", ".join(names), "STACK_BUILD_FAILED", 30)
        # What a deploy that was cut off had built has now lost the only name that it had.
        for image in sorted(before - self.ids()):
            self.project.docker("rmi", image)
        for name in names:
            self.found[name] = (self.here[called[name]], builds[name])

    def _fetch(self, services: Mapping[str, Any]) -> None:
        self._mend(self._here(each["image"]) for each in services.values())
        missing = [name for name, each in services.items() if not self._here(each["image"])]
        self.actions += [f"pull {services[name]['image']}" for name in missing]
        if missing and not self.check:
            what = ", ".join(f"{name}: {services[name]['image']}" for name in missing)
            self._bring("pull", missing, what, "STACK_IMAGE_MISSING", 10)
        for name, service in services.items():
            image = self._here(service["image"])
            if not image and not self.check:
                raise FleetError("STACK_IMAGE_MISSING", f"{name}: {service['image']} is not here after the pull")
            self.found[name] = (image or TO_FETCH, "")

    def _bring(self, verb: str, services: list[str], what: str, code: str, lines: int) -> None:
        """Has Compose build or pull; the error is `code`, or what its last lines say more exactly."""
        self._refuse_full_disk()
        began = time.monotonic()
        done = self.compose("--progress", "plain", verb, *services)
        if done.returncode != 0:
            said = "".join(sorted_streams(done))
            raise FleetError(classify(said, code), f"docker compose {verb} ({what}):\n{tail(said, lines)}")
        self._look_again()
        self.seconds[verb] = time.monotonic() - began

    def _here(self, name: str) -> str:
        """The id of an image by its tag or digest, empty where it is not here."""
        return self.here.get(archives.reference(name)) or self.here.get(name) or ""

    # --- what they are -----------------------------------------------------------------------------------

    def inspect(self, image_id: str) -> dict[str, Any]:
        if image_id in (TO_BUILD, TO_FETCH):
            return {}
        found: dict[str, Any] = self.project.api(f"/images/{quote(image_id, safe=':')}/json")
        return found

    # --- tags --------------------------------------------------------------------------------------------

    def keep(self) -> dict[str, str]:
        """Tags every image, so that nobody's `docker image prune` takes what a rollback needs; returns the tags."""
        tags = {name: tag_of(self.stack, name, image) for name, (image, _source) in self.found.items()}
        for name, tag in tags.items():
            if not self.check and self.here.get(tag) != self.found[name][0]:
                archives.name_it(self.project, self.found[name][0], tag)
        return tags


def restore_tags(project: Project, release: Release) -> None:
    """Before a release runs again: each tag means the image that it meant; an error where an image is gone."""
    here = project.images()
    for name, service in release.services.items():
        if here.get(service.tag) == service.image_id:
            continue
        if service.image_id not in set(here.values()):
            raise FleetError("RELEASE_IMAGE_GONE", f"release {release.id}: {name} needs {service.image_id[:19]}")
        archives.name_it(project, service.image_id, service.tag)


def outdated_tags(store: Store, here: Mapping[str, str]) -> list[str]:
    """This stack's own tags that no kept release needs."""
    ours = re.compile(rf"{re.escape(_repository(store.name))}-[^:/]+:[0-9a-f]{{12}}")
    needed = {service.tag for release in store.all() for service in release.services.values()}
    others = {  # `a` has `a-b-c:…` of its stack `a-b` in its pattern, too
        service.tag
        for path in store.stacks.iterdir()
        if path.name != store.name and not path.name.startswith(".")
        for release in Store(store.root, path.name).all()
        for service in release.services.values()
    }
    return sorted(tag for tag in here if ours.fullmatch(tag) and tag not in needed | others)


def nameless(project: Project, store: Store) -> list[str]:
    """What builds of this stack have left without a name, when they or what came after them were cut off."""
    needed = {service.image_id for release in store.all() for service in release.services.values()}
    filters = quote(json.dumps({"dangling": ["true"], "label": [f"{PROJECT}={store.name}"]}))
    rows = project.api(f"/images/json?filters={filters}")
    return [row["Id"] for row in rows if not row.get("RepoTags") and row["Id"] not in needed]


# --- whether they fit this host ----------------------------------------------------------------------------


def refuse_unfit(name: str, service: Mapping[str, Any], image: Mapping[str, Any], with_gpu: bool, cuda: str) -> None:
    """An image for another processor, or with a newer CUDA than the driver knows, would fail only when it runs.

    cuda is the newest that the driver knows; a service that sets NVIDIA_DISABLE_REQUIRE says that it knows better.
    """
    if not image:
        return
    mine, where = machine(), f"services.{name}: the image {service.get('image') or 'that is built'}"
    if image.get("Architecture") not in (None, "", mine):
        raise FleetError("STACK_IMAGE_ARCHITECTURE", f"{where} is for {image['Architecture']}, this host is {mine}")
    wanted = cuda_of(image)
    waived = environment(service).get("NVIDIA_DISABLE_REQUIRE") or ""
    if with_gpu and wanted and cuda and _major(wanted) > _major(cuda) and waived.lower() not in ("1", "true"):
        raise FleetError("STACK_CUDA_TOO_NEW", f"{where} has CUDA {wanted}, the driver knows {cuda}")


def cuda_of(image: Mapping[str, Any]) -> str:
    """The CUDA version that an image says it has, empty where it says nothing."""
    variables = dict(each.partition("=")[::2] for each in (image.get("Config") or {}).get("Env") or [])
    found = re.search(r"cuda>=(\d+\.\d+)", variables.get("NVIDIA_REQUIRE_CUDA", ""))
    return found.group(1) if found else variables.get("CUDA_VERSION", "")


def _major(version: str) -> int:
    return int(re.sub(r"\D.*", "", version) or 0)
