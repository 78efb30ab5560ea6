"""A stack of two small services on a host, and how a test deploys it again and again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from .conftest import ONE_USER
from .site import Result, Site, stack_in_lab

SOURCE = Path(__file__).parent / "stacks" / "small"
FOLDER = "gpulab/stacks/small"


class Small:
    """The stack `small` of user trainer."""

    def __init__(self, site: Site, folder: Path) -> None:
        self.site = site
        self.source = folder / "small"
        shutil.copytree(SOURCE, self.source)
        lab_form = stack_in_lab()
        self.entry: dict[str, Any] = {
            "user": "trainer",
            "source": str(self.source),
            "settings": {"BASE_IMAGE": lab_form["settings"]["BASE_IMAGE"]},
            "images": lab_form["images"],
        }

    def version(self, version: int) -> None:
        (self.source / "version").write_text(f"{version}\n", encoding="utf-8")

    def set(self, **entry: Any) -> None:
        """The stack's entry in the inventory; settings are added to those that are always needed."""
        settings = {**self.entry["settings"], **entry.pop("settings", {})}
        site_wide = entry.pop("site", {})
        whole = {**self.entry, **entry, "settings": settings}
        self.site.set({**ONE_USER, "compose_stacks_wait_timeout": 25, **site_wide, "gpulab_stacks": {"small": whole}})

    def deploy(self, *args: str, **entry: Any) -> Result:
        self.set(**entry)
        return self.site.run("playbooks/deploy.yml", *args)

    def result(self, run: Result) -> dict[str, Any]:
        """What the module said of the one stack."""
        task = next(each for each in reversed(run.tasks) if each["result"].get("results"))
        found: dict[str, Any] = task["result"]["results"][0]
        return found

    # --- what there is ----------------------------------------------------------------------------------

    def sh(self, command: str, check: bool = True) -> str:
        return self.site.login("trainer", command, check=check)

    def says(self, port: int = 8080) -> str:
        fetch = f"import urllib.request as u; print(u.urlopen('http://127.0.0.1:{port}/', timeout=3).read().decode())"
        return self.sh(f'python3 -c "{fetch}"', check=False).strip()

    def current(self) -> str:
        return self.sh(f"basename $(readlink {FOLDER}/current)", check=False).strip()

    def containers(self) -> dict[str, str]:
        """Container id by service, of those that run."""
        rows = self.sh("docker ps --filter label=com.docker.compose.project=small --format '{{json .}}'").splitlines()
        found = [json.loads(row) for row in rows if row.startswith("{")]
        return {row["Names"].split("-")[1]: row["ID"] for row in found}

    def releases(self) -> list[str]:
        return self.sh(f"ls {FOLDER}/releases").split()

    def history(self) -> list[str]:
        return self.sh(f"cat {FOLDER}/history").splitlines()
