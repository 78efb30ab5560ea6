# Copyright: gpulab.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The GPU probe: computes on one GPU and says what else it can see. One JSON line, never a hang.

It runs as a program, inside a container that holds little more than a Python and on the host alike,
so it needs the standard library only and imports nothing of this collection:

    python3 _cuda.py '{"gpu": "GPU-…", "look": true, "forbidden": [{"path": "/dev/nvidia1", "major": 195, "minor": 1}]}'

gpu        UUID of the GPU (or MIG instance) to compute on; null: only look
look       try to open each GPU node there is and list what CUDA sees (left out on the host, where
           every GPU can be seen and none but the asked one is to be touched)
forbidden  nodes that must not be reachable: opening them, and making them anew, is tried
timeout    seconds after which the probe gives up and says at which step (20)

What it does with the GPU: cuInit, device by UUID, context, memory, copy there and back compared byte
by byte and by checksum, a kernel of its own (PTX) whose every result is compared with the same sum
done by the CPU, and the speed of copies in both directions.
"""

from __future__ import annotations

import _thread
import array
import binascii
import contextlib
import ctypes
import errno
import json
import os
import stat
import sys
import time
import zlib
from typing import Any

FORMAT = 1
# A prime number of words: no page, block or warp boundary repeats at the same place in the data.
WORDS = 16381
GUARD_WORDS = 3
GUARD = 0xC0FFEE00
BLOCK = 256
COPY_BYTES = 1 << 20
BANDWIDTH_BYTES = 16 << 20
BANDWIDTH_ROUNDS = 5
MASK = 0xFFFFFFFF

# What every output word must be: mix(input word, its index, seed), see mix(). Loads on compute
# capability 5.2 and everything newer (the driver compiles it for the GPU at hand).
KERNEL = b"gpulab_mix"
PTX = b"""
.version 6.0
.target sm_52
.address_size 64

.visible .entry gpulab_mix(
    .param .u64 source,
    .param .u64 target,
    .param .u32 words,
    .param .u32 seed)
{
    .reg .pred %p1;
    .reg .b32 %r<16>;
    .reg .b64 %rd<8>;

    ld.param.u64 %rd1, [source];
    ld.param.u64 %rd2, [target];
    ld.param.u32 %r1, [words];
    ld.param.u32 %r2, [seed];
    mov.u32 %r3, %ctaid.x;
    mov.u32 %r4, %ntid.x;
    mov.u32 %r5, %tid.x;
    mad.lo.u32 %r6, %r3, %r4, %r5;
    setp.ge.u32 %p1, %r6, %r1;
    @%p1 bra DONE;
    cvta.to.global.u64 %rd3, %rd1;
    cvta.to.global.u64 %rd4, %rd2;
    mul.wide.u32 %rd5, %r6, 4;
    add.u64 %rd6, %rd3, %rd5;
    add.u64 %rd7, %rd4, %rd5;
    ld.global.u32 %r7, [%rd6];
    mad.lo.u32 %r8, %r7, 1664525, %r2;
    xor.b32 %r9, %r8, %r6;
    shr.u32 %r10, %r9, 15;
    xor.b32 %r11, %r9, %r10;
    mul.lo.u32 %r12, %r11, -2048144777;
    shr.u32 %r13, %r12, 13;
    xor.b32 %r14, %r12, %r13;
    st.global.u32 [%rd7], %r14;
DONE:
    ret;
}
"""


def mix(word: int, index: int, seed: int) -> int:
    """What the kernel computes, done by the CPU."""
    x = ((word * 1664525 + seed) & MASK) ^ index
    x = ((x ^ (x >> 15)) * 2246822519) & MASK
    return x ^ (x >> 13)


def pseudo_random_words(seed: int, count: int = WORDS) -> array.array[int]:
    """The same data for the same seed, different for every seed."""
    words = array.array("I", bytes(4 * count))
    x = (seed or 1) & MASK
    for i in range(count):
        x = (x * 1664525 + 1013904223) & MASK
        words[i] = x ^ (x >> 16)
    return words


class ProbeError(Exception):
    """A step that did not do what it must."""

    def __init__(self, call: str, code: int | None, name: str, text: str) -> None:
        super().__init__(f"{call}: {name} ({code}): {text}" if code is not None else f"{call}: {text}")
        self.call, self.code, self.name, self.text = call, code, name, text


class Cuda:
    """The few driver functions that the probe uses; every result but 0 is a ProbeError."""

    def __init__(self) -> None:
        self.library = ctypes.CDLL("libcuda.so.1")

    def __call__(self, function: str, *arguments: Any) -> None:
        try:
            call = getattr(self.library, function)
        except AttributeError:
            raise ProbeError(function, None, "SYMBOL_MISSING", "the driver library has no such function") from None
        code = call(*arguments)
        if code:
            raise ProbeError(function, code, *self.describe(code))

    def describe(self, code: int) -> tuple[str, str]:
        said = []
        for function in ("cuGetErrorName", "cuGetErrorString"):
            text = ctypes.c_char_p()
            with contextlib.suppress(AttributeError):
                getattr(self.library, function)(ctypes.c_int(code), ctypes.byref(text))
            said.append((text.value or b"").decode(errors="replace"))
        return said[0] or f"CUDA_ERROR_{code}", said[1] or "no description"

    def uuid(self, device: ctypes.c_int) -> str:
        """The bare identity, without the GPU- or MIG- in front."""
        raw = (ctypes.c_ubyte * 16)()
        function = "cuDeviceGetUuid_v2" if hasattr(self.library, "cuDeviceGetUuid_v2") else "cuDeviceGetUuid"
        self(function, ctypes.byref(raw), device)
        text = binascii.hexlify(bytes(raw)).decode()
        return "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))

    def devices(self) -> dict[str, ctypes.c_int]:
        count = ctypes.c_int()
        self("cuDeviceGetCount", ctypes.byref(count))
        found = {}
        for ordinal in range(count.value):
            device = ctypes.c_int()
            self("cuDeviceGet", ctypes.byref(device), ctypes.c_int(ordinal))
            found[self.uuid(device)] = device
        return found

    def attribute(self, device: ctypes.c_int, number: int) -> int:
        value = ctypes.c_int()
        self("cuDeviceGetAttribute", ctypes.byref(value), ctypes.c_int(number), device)
        return value.value


def bare(uuid: str) -> str:
    return uuid.lower().removeprefix("gpu-").removeprefix("mig-")


def reason(error: OSError) -> str:
    return errno.errorcode.get(error.errno or 0, str(error.errno))


def try_open(path: str, folder: int | None = None) -> str:
    """ok, or the name of the error."""
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CLOEXEC, dir_fd=folder))
    except OSError as error:
        return reason(error)
    return "ok"


def try_make(major: int, minor: int) -> dict[str, str]:
    """Whether a node for this device can be made here, and then opened."""
    for path in ("/dev/shm", "/dev", "/tmp"):
        try:
            folder = os.open(path, os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError:
            continue
        name = f"gpulab-probe-{major}-{minor}"
        try:
            os.mknod(name, stat.S_IFCHR | 0o600, os.makedev(major, minor), dir_fd=folder)
        except OSError as error:
            if error.errno in (errno.EROFS, errno.EACCES):
                continue
            return {"make": reason(error)}
        else:
            answer = try_open(name, folder)
            os.unlink(name, dir_fd=folder)
            return {"make": "ok", "open_made": answer}
        finally:
            os.close(folder)
    return {"make": "no writable folder"}


def device_files() -> list[str]:
    """The driver's files in /dev: GPUs (nvidia0, nvidia1, …) and what belongs to all of them."""
    with os.scandir("/dev") as entries:
        names = [entry.name for entry in entries if not entry.is_dir()]
    return sorted(f"/dev/{name}" for name in names if name.startswith("nvidia"))


def is_gpu(path: str) -> bool:
    return path.removeprefix("/dev/nvidia").isdigit()


class Probe:
    """The steps in order, each timed; what was learned so far survives a failure."""

    def __init__(self, request: dict[str, Any]) -> None:
        self.request = request
        self.cuda: Cuda | None = None
        self.step = "start"
        self.result: dict[str, Any] = {"probe": FORMAT, "ok": False, "steps": [], "error": None}

    def run(self) -> dict[str, Any]:
        self.timed("nodes", self.look_at_nodes)
        self.timed("library", self.load)
        if self.result["error"] is None:
            self.timed("cuInit", self.initialise)
        if self.result["error"] is None:
            self.timed("devices", self.look_at_devices)
        if self.request.get("gpu") and self.result["error"] is None:
            with_gpu = Computation(self)
            for name in ("device", "context", "memory", "copy", "kernel", "bandwidth"):
                if self.result["error"] is None:
                    self.timed(name, getattr(with_gpu, name))
            if self.result["error"] is None:
                self.timed("release", with_gpu.release)
        self.result["ok"] = self.result["error"] is None
        return self.result

    def timed(self, name: str, action: Any) -> None:
        self.step = name
        entry = {"name": name, "ok": False, "seconds": 0.0}
        started = time.perf_counter()
        try:
            action()
            entry["ok"] = True
        except ProbeError as error:
            self.result["error"] = {
                "step": name,
                "call": error.call,
                "code": error.code,
                "name": error.name,
                "text": error.text,
            }
        except (OSError, MemoryError, ValueError) as error:
            self.result["error"] = {
                "step": name,
                "call": name,
                "code": None,
                "name": type(error).__name__,
                "text": str(error),
            }
        entry["seconds"] = round(time.perf_counter() - started, 4)
        self.result["steps"].append(entry)

    def look_at_nodes(self) -> None:
        look = bool(self.request.get("look"))
        files = {path: try_open(path) if look else "not tried" for path in device_files()}
        self.result["nodes"] = {path: answer for path, answer in files.items() if is_gpu(path)}
        self.result["control_nodes"] = {path: answer for path, answer in files.items() if not is_gpu(path)}
        self.result["forbidden"] = {
            node["path"]: {"open": try_open(node["path"]), **try_make(node["major"], node["minor"])}
            for node in self.request.get("forbidden") or []
        }

    def load(self) -> None:
        self.result["library"] = False
        try:
            self.cuda = Cuda()
        except OSError as error:
            raise ProbeError("dlopen", None, "LIBRARY_NOT_FOUND", str(error)) from None
        self.result["library"] = True

    def initialise(self) -> None:
        assert self.cuda
        version = ctypes.c_int()
        self.cuda("cuDriverGetVersion", ctypes.byref(version))
        self.result["cuda_driver_version"] = version.value
        self.cuda("cuInit", ctypes.c_uint(0))

    def look_at_devices(self) -> None:
        assert self.cuda
        self.devices = self.cuda.devices()
        self.result["uuids"] = sorted(self.devices)


class Computation:
    """One GPU: context, memory, copies, a kernel."""

    def __init__(self, probe: Probe) -> None:
        assert probe.cuda
        self.cuda, self.probe, self.result = probe.cuda, probe, probe.result
        self.seed = int(probe.request.get("seed") or 0) or (int(time.time()) & MASK) | 1
        self.source, self.target = ctypes.c_uint64(), ctypes.c_uint64()

    def device(self) -> None:
        wanted = bare(self.probe.request["gpu"])
        if wanted not in self.probe.devices:
            seen = ", ".join(sorted(self.probe.devices)) or "none"
            raise ProbeError("cuDeviceGet", None, "UUID_NOT_VISIBLE", f"{wanted} is not among the GPUs seen: {seen}")
        self.handle = self.probe.devices[wanted]
        name = ctypes.create_string_buffer(96)
        memory = ctypes.c_size_t()
        self.cuda("cuDeviceGetName", name, ctypes.c_int(len(name)), self.handle)
        self.cuda("cuDeviceTotalMem_v2", ctypes.byref(memory), self.handle)
        self.result["device"] = {
            "uuid": wanted,
            "name": name.value.decode(errors="replace"),
            "memory_bytes": memory.value,
            "compute_capability": f"{self.cuda.attribute(self.handle, 75)}.{self.cuda.attribute(self.handle, 76)}",
        }

    def context(self) -> None:
        context = ctypes.c_void_p()
        self.cuda("cuDevicePrimaryCtxRetain", ctypes.byref(context), self.handle)
        self.cuda("cuCtxSetCurrent", context)

    def memory(self) -> None:
        self.cuda("cuMemAlloc_v2", ctypes.byref(self.source), ctypes.c_size_t(BANDWIDTH_BYTES))
        self.cuda("cuMemAlloc_v2", ctypes.byref(self.target), ctypes.c_size_t(COPY_BYTES))

    def to_device(self, address: ctypes.c_uint64, data: Any, size: int) -> None:
        self.cuda("cuMemcpyHtoD_v2", address, ctypes.c_void_p(data), ctypes.c_size_t(size))

    def to_host(self, data: Any, address: ctypes.c_uint64, size: int) -> None:
        self.cuda("cuMemcpyDtoH_v2", ctypes.c_void_p(data), address, ctypes.c_size_t(size))

    def copy(self) -> None:
        """A mebibyte there and back into other memory: same bytes, same checksum."""
        self.words = pseudo_random_words(self.seed)
        tile = self.words.tobytes()
        sent = (tile * (COPY_BYTES // len(tile) + 1))[:COPY_BYTES]
        out, back = ctypes.create_string_buffer(sent, COPY_BYTES), ctypes.create_string_buffer(COPY_BYTES)
        self.to_device(self.source, ctypes.addressof(out), COPY_BYTES)
        self.to_host(ctypes.addressof(back), self.source, COPY_BYTES)
        checksums = zlib.crc32(sent), zlib.crc32(back.raw)
        self.result["copy"] = {"bytes": COPY_BYTES, "sent_crc32": checksums[0], "received_crc32": checksums[1]}
        if checksums[0] != checksums[1] or back.raw != sent:
            raise ProbeError("cuMemcpyDtoH_v2", None, "COPY_DIFFERS", f"{COPY_BYTES} bytes came back changed")

    def kernel(self) -> None:
        """Every word the kernel wrote equals the CPU's, and it wrote not one word too many."""
        module, function = ctypes.c_void_p(), ctypes.c_void_p()
        self.load_module(module)
        self.cuda("cuModuleGetFunction", ctypes.byref(function), module, ctypes.c_char_p(KERNEL))
        guarded = WORDS + GUARD_WORDS
        before = (ctypes.c_uint32 * guarded)(*([GUARD] * guarded))
        self.to_device(self.target, ctypes.addressof(before), 4 * guarded)
        values = (self.source, self.target, ctypes.c_uint32(WORDS), ctypes.c_uint32(self.seed & MASK))
        pointers = (ctypes.c_void_p * len(values))(*(ctypes.addressof(value) for value in values))
        blocks = (WORDS + BLOCK - 1) // BLOCK
        size = [ctypes.c_uint(n) for n in (blocks, 1, 1, BLOCK, 1, 1, 0)]
        self.cuda("cuLaunchKernel", function, *size, ctypes.c_void_p(), pointers, ctypes.c_void_p())
        self.cuda("cuCtxSynchronize")
        after = (ctypes.c_uint32 * guarded)()
        self.to_host(ctypes.addressof(after), self.target, 4 * guarded)
        got = list(after)
        expected = [mix(word, i, self.seed) for i, word in enumerate(self.words)] + [GUARD] * GUARD_WORDS
        wrong = [i for i, (a, b) in enumerate(zip(got, expected, strict=True)) if a != b]
        self.result["kernel"] = {"words": WORDS, "wrong": len(wrong)}
        if wrong:
            i = wrong[0]
            text = f"{len(wrong)} of {guarded} words are wrong; word {i} is {got[i]:#010x}, not {expected[i]:#010x}"
            raise ProbeError("cuLaunchKernel", None, "RESULT_WRONG", text)
        self.cuda("cuModuleUnload", module)

    def load_module(self, module: ctypes.c_void_p) -> None:
        """PTX, compiled by the driver; what its compiler says goes into the error."""
        log = ctypes.create_string_buffer(4096)
        # CU_JIT_ERROR_LOG_BUFFER = 5, CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES = 6
        options = (ctypes.c_int * 2)(5, 6)
        values = (ctypes.c_void_p * 2)(ctypes.addressof(log), len(log))
        try:
            self.cuda(
                "cuModuleLoadDataEx", ctypes.byref(module), ctypes.c_char_p(PTX), ctypes.c_uint(2), options, values
            )
        except ProbeError as error:
            said = log.value.decode(errors="replace").strip()
            error.text = f"{error.text}; {said}" if said else error.text
            raise

    def bandwidth(self) -> None:
        """Speed of each direction, from page-locked memory where the driver gives it.

        The fastest round counts: other work on the machine makes copies slower, nothing makes them faster.
        """
        pinned = ctypes.c_void_p()
        plain = None
        try:
            self.cuda("cuMemHostAlloc", ctypes.byref(pinned), ctypes.c_size_t(BANDWIDTH_BYTES), ctypes.c_uint(0))
            address = pinned.value
        except ProbeError:
            plain = ctypes.create_string_buffer(BANDWIDTH_BYTES)
            address = ctypes.addressof(plain)
        # Slow links get less to copy, so that the whole measurement stays short.
        self.to_device(self.source, address, COPY_BYTES)
        started = time.perf_counter()
        self.to_device(self.source, address, COPY_BYTES)
        rate = COPY_BYTES / max(time.perf_counter() - started, 1e-9)
        size = int(min(max(rate * 0.005, COPY_BYTES), BANDWIDTH_BYTES))
        measured = {"bytes": size, "pinned": plain is None}
        directions = {
            "host_to_device": lambda: self.to_device(self.source, address, size),
            "device_to_host": lambda: self.to_host(address, self.source, size),
        }
        for name, copy in directions.items():
            times = []
            for _round in range(BANDWIDTH_ROUNDS):
                started = time.perf_counter()
                copy()
                times.append(time.perf_counter() - started)
            measured[f"{name}_bytes_per_second"] = int(size / max(min(times), 1e-9))
        self.result["bandwidth"] = measured
        if plain is None:
            self.cuda("cuMemFreeHost", pinned)

    def release(self) -> None:
        self.cuda("cuMemFree_v2", self.source)
        self.cuda("cuMemFree_v2", self.target)
        self.cuda("cuDevicePrimaryCtxRelease_v2", self.handle)


def say(result: dict[str, Any]) -> None:
    """One line in one write, so that it is there whole or not at all."""
    sys.stdout.flush()
    line = (json.dumps(result, sort_keys=True) + "\n").encode()
    while line:
        line = line[os.write(1, line) :]


def watch(probe: Probe, seconds: float) -> None:
    """Gives up in a thread of its own: a driver call that hangs cannot be interrupted, only left."""
    time.sleep(seconds)
    text = f"no answer within {seconds:g} s"
    error = {"step": probe.step, "call": probe.step, "code": None, "name": "TIMEOUT", "text": text}
    say({**probe.result, "ok": False, "error": error})
    os._exit(3)


def main(arguments: list[str]) -> int:
    request = json.loads(arguments[0]) if arguments else {}
    probe = Probe(request)
    _thread.start_new_thread(watch, (probe, float(request.get("timeout") or 20)))
    say(probe.run())
    return 0 if probe.result["ok"] else 1


if __name__ == "__main__":
    # Nothing here is worth an orderly end of the interpreter, and a broken driver can hang in it.
    os._exit(main(sys.argv[1:]))
