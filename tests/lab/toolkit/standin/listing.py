"""nvidia-ctk cdi list: the devices that the spec folders offer."""

from pathlib import PurePosixPath

from . import host, plainyaml
from .cli import Flag, Values
from .log import LOG

FLAGS = [
    Flag("spec-dir", "list", ["/etc/cdi", "/var/run/cdi"], "NVIDIA_CTK_CDI_SPEC_DIRS", "folders with specifications")
]


def _read(path: str, errors: list[str]) -> list[str]:
    """The qualified names in one file."""
    try:
        with host.at(path).open() as file:
            document = plainyaml.load(file.read())
        names = [f"{document['kind']}={device['name']}" for device in document["devices"]]
        if not document["cdiVersion"]:
            raise plainyaml.YamlError("no cdiVersion")
        return names
    except (OSError, plainyaml.YamlError, KeyError, TypeError) as error:
        errors.append(f'{path}: [failed to load CDI Spec failed to parse CDI Spec "{path}": {error}]')
        return []


def devices(folders: list[str]) -> tuple[dict[str, str], list[str]]:
    """Every device's file, a later folder before an earlier one; and what is wrong with the files."""
    found: dict[str, str] = {}
    errors: list[str] = []
    for folder in folders:
        here: dict[str, str] = {}
        conflicts: set[str] = set()
        for name in host.listing(folder):
            if PurePosixPath(name).suffix not in (".yaml", ".json"):
                continue
            path = f"{folder.rstrip('/')}/{name}"
            for device in _read(path, errors):
                if device in here and here[device] != path:
                    conflicts.add(device)
                    errors.append(f'{path}: [conflicting device "{device}" (specs "{path}", "{here[device]}")]')
                here[device] = path
        found.update(here)
        for device in conflicts:
            found.pop(device, None)
    return found, errors


def run(values: Values) -> None:
    found, errors = devices(values["spec-dir"])
    if errors:
        LOG.warning("The following registry errors were reported:")
        for error in errors:
            LOG.warning(error)
    LOG.info(f"Found {len(found)} CDI devices")
    for name in sorted(found):
        print(name)
