"""nvidia-ctk cdi generate."""

import sys
from pathlib import Path, PurePosixPath

from . import host, settings, spec
from .cli import Flag, Values
from .discover import Options
from .log import LOG, Failure
from .version import at_least

MODES = ("auto", "csv", "gdrcopy", "gds", "imex", "management", "mofed", "nvml", "nvswitch", "wsl")
STRATEGIES = ("index", "uuid", "type-index")
E = "NVIDIA_CTK_CDI_GENERATE_"

FLAGS = [
    Flag("config-search-path", "list", env=E + "CONFIG_SEARCH_PATHS", usage="where to look for configuration files"),
    Flag("output", env="NVIDIA_CTK_CDI_OUTPUT_FILE_PATH", usage="the file to write; '' is stdout"),
    Flag("format", env=E + "OUTPUT_FORMAT", usage="json or yaml; the output's extension decides otherwise"),
    Flag("mode discovery-mode", default="auto", env=E + "MODE", usage="one of " + " | ".join(MODES)),
    Flag("dev-root", env="NVIDIA_CTK_DEV_ROOT", usage="the root where /dev is"),
    Flag("device-name-strategy", "list", ["index", "uuid"], E + "DEVICE_NAME_STRATEGIES", "how devices are named"),
    Flag("driver-root", env="NVIDIA_CTK_DRIVER_ROOT", usage="the root of the driver's installation"),
    Flag("library-search-path", "list", env=E + "LIBRARY_SEARCH_PATHS", usage="for the csv mode"),
    Flag("nvidia-cdi-hook-path nvidia-ctk-path", env="NVIDIA_CTK_CDI_HOOK_PATH", usage="the hook program in the spec"),
    Flag("ldconfig-path", env=E + "LDCONFIG_PATH", usage="the ldconfig that the hook is told to run"),
    Flag("vendor cdi-vendor", default="nvidia.com", env=E + "VENDOR", usage="the vendor in the kind"),
    Flag("class cdi-class", default="gpu", env=E + "CLASS", usage="the class in the kind"),
    Flag("csv.file", "list", env=E + "CSV_FILES", usage="for the csv mode"),
    Flag("csv.ignore-pattern", "list", env=E + "CSV_IGNORE_PATTERNS", usage="for the csv mode"),
    Flag("csv.compat-container-root", env=E + "CSV_CONTAINER_COMPAT_ROOT", usage="for the csv mode"),
    Flag("disable-hook disable-hooks", "list", env=E + "DISABLED_HOOKS", usage="leave a hook out, or all"),
    Flag("enable-hook enable-hooks", "list", env=E + "ENABLED_HOOKS", usage="keep a hook that was left out"),
    Flag("feature-flag feature-flags", "list", env=E + "FEATURE_FLAGS", usage="switches of the generation"),
    Flag("no-all-device", "bool", env=E + "NO_ALL_DEVICE", usage="leave the device all out"),
    Flag("device-id device-ids device devices", "list", ["all"], E + "DEVICE_IDS", "only these devices"),
]


def _hook_path(wanted: str) -> str:
    """A name is looked for on the usual paths; what is not found is still written, with a warning."""
    name = wanted or "nvidia-cdi-hook"
    if "/" in name:
        return name
    found = host.program(name)
    if not found:
        LOG.warning(f"Failed to locate {name}: {name}: not found")
    return found or f"/usr/bin/{name}"


def _form(output: str, wanted: str) -> tuple[str, str]:
    """The output's path, with an extension, and its format: the extension wins over the flag."""
    extension = PurePosixPath(output).suffix
    implied = {".json": "json", ".yaml": "yaml"}.get(extension, "")
    if implied and wanted and implied != wanted:
        LOG.warning(
            f'Requested output format "{wanted}" does not match format implied by output file name: "{implied}"'
        )
    form = implied or wanted or "yaml"
    return (f"{output}.{form}" if output and not implied else output), form


def run(values: Values) -> None:
    if values["format"] not in ("", "json", "yaml"):
        raise Failure(f"invalid output format: {values['format']}")
    if values["mode"] not in MODES:
        raise Failure(f"invalid discovery mode: {values['mode']}")
    for strategy in values["device-name-strategy"]:
        if strategy not in STRATEGIES:
            raise Failure(f"invalid device name strategy: {strategy}")
    spec.check_kind(values["vendor"], values["class"])
    output, form = _form(values["output"], values["format"])
    driver_root = values["driver-root"] or settings.load().get("nvidia-container-cli", {}).get("root", "")
    if driver_root not in ("", "/"):
        raise Failure("the stand-in knows no driver root but /")  # honest: not simulated
    disabled = [name for name in values["disable-hook"] if name not in values["enable-hook"]]
    dev_root = values["dev-root"] if values["dev-root"] != "/" else ""
    options = Options(
        _hook_path(values["nvidia-cdi-hook-path"]), values["ldconfig-path"], disabled, dev_root, values["feature-flag"]
    )
    kind = f"{values['vendor']}/{values['class']}"
    mode = values["mode"]
    if mode == "auto":
        mode = "nvml"
        LOG.info("Auto-detected mode as 'nvml'")
    if mode == "nvml":
        made = spec.generate(
            values["device-id"], values["device-name-strategy"], not values["no-all-device"], kind, options
        )
    elif mode == "management":
        made = spec.management(kind, options)
    else:
        made = spec.empty(kind)
    told = made["cdiVersion"] if at_least("1.19.0") else "1.1.0"  # older releases tell their library's newest
    LOG.info(f"Generated CDI spec with version {told}")
    spec.check(made)
    coherent = "enable-coherent-annotations" in options.feature_flags
    documents = _annotated(made) if coherent else [("", made)]
    for suffix, document in documents:
        if not output:
            sys.stdout.write(spec.text(document, form))
        else:
            target = Path(output).absolute()
            spec.write(document, target.with_name(f"{target.stem}{suffix}{target.suffix}"), form)


def _annotated(made: spec.Spec) -> list[tuple[str, spec.Spec]]:
    """With coherence annotations there are two files: the second says the same of memory that is not coherent."""
    note = "gpu.nvidia.com/coherent"
    main = {**made, "annotations": {note: "true"}}
    other = {**made, "kind": made["kind"] + ".noncoherent", "annotations": {note: "false"}}
    order = ("cdiVersion", "kind", "annotations", "devices", "containerEdits")
    files = []
    for suffix, document in (("", main), (".noncoherent", other)):
        document["cdiVersion"] = spec.minimum_version(document)
        files.append((suffix, {key: document[key] for key in order}))
    return files
