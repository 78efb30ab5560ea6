"""The questions to libnvidia-ml that a spec needs."""

import ctypes

from . import host


class NvmlError(Exception):
    """What the library says of its code, or that there is no library."""


class Gpu:
    def __init__(self, index: int, uuid: str, minor: int, bus: str, migs: "list[Mig] | None") -> None:
        self.index = index
        self.uuid = uuid
        self.minor = minor
        self.bus = bus
        self.migs = migs  # None: MIG is off


class Mig:
    def __init__(self, uuid: str, instance: int, compute: int) -> None:
        self.uuid = uuid
        self.instance = instance
        self.compute = compute


class _Pci(ctypes.Structure):
    _fields_ = [("legacy", ctypes.c_char * 16), ("numbers", ctypes.c_uint * 5), ("bus", ctypes.c_char * 32)]


class Nvml:
    def __init__(self) -> None:
        name = "libnvidia-ml.so.1"
        try:
            self.library = ctypes.CDLL(str(host.at(host.library(name))) if host.ROOT else name)
        except OSError:
            raise NvmlError("ERROR_LIBRARY_NOT_FOUND") from None
        self.library.nvmlErrorString.restype = ctypes.c_char_p

    def __enter__(self) -> "Nvml":
        self.call("nvmlInit_v2")
        return self

    def __exit__(self, *_: object) -> None:
        self.library.nvmlShutdown()

    def call(self, name: str, *arguments: object) -> None:
        code = getattr(self.library, name)(*arguments)
        if code != 0:
            raise NvmlError(self.library.nvmlErrorString(code).decode())

    def text(self, name: str, *arguments: object) -> str:
        buffer = ctypes.create_string_buffer(96)
        self.call(name, *arguments, buffer, 96)
        return buffer.value.decode()

    def number(self, name: str, *arguments: object) -> int:
        value = ctypes.c_uint()
        self.call(name, *arguments, ctypes.byref(value))
        return value.value

    def driver_version(self) -> str:
        return self.text("nvmlSystemGetDriverVersion")

    def cuda_version(self) -> int:
        return self.number("nvmlSystemGetCudaDriverVersion_v2")

    def count(self) -> int:
        return self.number("nvmlDeviceGetCount_v2")

    def gpu(self, index: int) -> Gpu:
        handle, pci = ctypes.c_void_p(), _Pci()
        self.call("nvmlDeviceGetHandleByIndex_v2", index, ctypes.byref(handle))
        self.call("nvmlDeviceGetPciInfo_v3", handle, ctypes.byref(pci))
        uuid, minor = self.text("nvmlDeviceGetUUID", handle), self.number("nvmlDeviceGetMinorNumber", handle)
        bus = pci.bus.decode().lower()[-12:]
        return Gpu(index, uuid, minor, bus, self._migs(handle))

    def _migs(self, handle: ctypes.c_void_p) -> "list[Mig] | None":
        mode, pending = ctypes.c_uint(), ctypes.c_uint()
        try:
            self.call("nvmlDeviceGetMigMode", handle, ctypes.byref(mode), ctypes.byref(pending))
        except NvmlError:
            return None
        if not mode.value:
            return None
        found = []
        for index in range(self.number("nvmlDeviceGetMaxMigDeviceCount", handle)):
            mig = ctypes.c_void_p()
            try:
                self.call("nvmlDeviceGetMigDeviceHandleByIndex", handle, index, ctypes.byref(mig))
            except NvmlError:
                continue
            instance = self.number("nvmlDeviceGetGpuInstanceId", mig)
            compute = self.number("nvmlDeviceGetComputeInstanceId", mig)
            found.append(Mig(self.text("nvmlDeviceGetUUID", mig), instance, compute))
        return found


def capability_minors() -> dict[str, int]:
    """The numbers of the nodes below /dev/nvidia-caps, by the capability's name, "gpu0/gi1/access"."""
    path = host.at("/proc/driver/nvidia-caps/mig-minors")
    if not path.exists():
        return {}
    with path.open() as file:
        return {words[0]: int(words[1]) for line in file if len(words := line.split()) == 2}
