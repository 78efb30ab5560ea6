"""./bootstrap on one workstation, as its user, with sudo asking for a password."""

from __future__ import annotations

import json
import subprocess

from .conftest import Hosts
from .site import ROOT, lab


def test_bootstrap_ends_with_the_proof(hosts: Hosts) -> None:
    site = hosts.site("scn-boot")
    tree = subprocess.run(
        ["git", "-C", str(ROOT), "archive", "--format=tar", "HEAD"], check=True, capture_output=True
    ).stdout
    lab_ssh = [str(ROOT / "tests/lab/lab"), "ssh", "scn-boot"]
    site.login("trainer", "mkdir fleet")
    subprocess.run([*lab_ssh, "su - trainer -c 'tar -xf - -C fleet'"], input=tree, check=True)
    variables = {
        k: v
        for k, v in json.loads(
            subprocess.run(
                ["ansible-inventory", "-i", str(site.inventory), "--host", "scn-boot"],
                check=True, capture_output=True, text=True, env=site.environment(),
            ).stdout
        ).items()
        if k.startswith(("rootless_docker_repository", "nvidia_container_toolkit_repository"))
    }  # fmt: skip
    assert variables, "the lab's inventory names its mirror"
    packed = json.dumps(variables)
    site.ssh(f"cat > /home/trainer/site.json <<'E'\n{packed}\nE")
    out = site.login("trainer", "cd fleet && ./bootstrap -e @$HOME/site.json 2>&1")
    assert "failed=0" in out
    assert "pass" in site.ssh("cat /var/lib/gpulab/proof.json")
    assert lab("list").count("scn-boot") == 1
    again = site.login("trainer", "cd fleet && ./bootstrap -e @$HOME/site.json 2>&1")
    assert "changed=0" in again
