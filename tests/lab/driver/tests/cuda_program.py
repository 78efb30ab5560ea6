"""A program that uses libcuda as others do: reads a wish (JSON) on stdin, tells on stdout how far it got."""

import ctypes
import json
import struct
import sys
from typing import Any

wish = json.loads(sys.stdin.readline())
library = ctypes.CDLL("libcuda.so.1")
answer: dict[str, Any] = {}


def call(name: str, *arguments: Any) -> None:
    code = getattr(library, name)(*arguments)
    if code != 0:
        text = ctypes.c_char_p()
        library.cuGetErrorName(code, ctypes.byref(text))
        print(json.dumps(answer | {"failed": name, "code": code, "error": (text.value or b"").decode()}))
        sys.exit(0)


count, device, uuid = ctypes.c_int(), ctypes.c_int(), (ctypes.c_ubyte * 16)()
call("cuInit", 0)
call("cuDeviceGetCount", ctypes.byref(count))
answer["count"] = count.value
call("cuDeviceGet", ctypes.byref(device), wish.get("device", 0))
call("cuDeviceGetUuid", uuid, device)
answer["uuid"] = bytes(uuid).hex()
context, total, free = ctypes.c_void_p(), ctypes.c_size_t(), ctypes.c_size_t()
call("cuCtxCreate_v2", ctypes.byref(context), 0, device)
call("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
answer["total"] = total.value

words = wish.get("words", list(range(512)))
size = ctypes.c_size_t(4 * len(words))
source, target = ctypes.c_uint64(), ctypes.c_uint64()
call("cuMemAlloc_v2", ctypes.byref(source), ctypes.c_size_t(wish.get("bytes", size.value)))
call("cuMemAlloc_v2", ctypes.byref(target), size)
call("cuMemcpyHtoD_v2", source, struct.pack(f"<{len(words)}I", *words), size)
back = ctypes.create_string_buffer(size.value)
call("cuMemcpyDtoH_v2", back, source, size)
answer["copied"] = list(struct.unpack(f"<{len(words)}I", back.raw)) == words

if "ptx" in wish:
    module, function, log = ctypes.c_void_p(), ctypes.c_void_p(), ctypes.create_string_buffer(512)
    options = (ctypes.c_int * 2)(5, 6)
    values = (ctypes.c_void_p * 2)(ctypes.cast(log, ctypes.c_void_p), 512)
    code = library.cuModuleLoadDataEx(ctypes.byref(module), wish["ptx"].encode(), 2, options, values)
    answer["log"] = log.value.decode()
    if code != 0:
        answer |= {"failed": "cuModuleLoadDataEx", "code": code}
        print(json.dumps(answer))
        sys.exit(0)
    call("cuModuleGetFunction", ctypes.byref(function), module, b"kernel")
    length = ctypes.c_uint32(len(words))
    arguments = (ctypes.c_void_p * 3)(*(ctypes.addressof(value) for value in (source, target, length)))
    block = wish.get("block", 128)
    call("cuLaunchKernel", function, -(-len(words) // block), 1, 1, block, 1, 1, 0, None, arguments, None)
    call("cuCtxSynchronize")
    call("cuMemcpyDtoH_v2", back, target, size)
    answer["words"] = list(struct.unpack(f"<{len(words)}I", back.raw))

if wish.get("wait"):  # keep the device until stdin's other end says so
    print(json.dumps(answer), flush=True)
    input()
else:
    print(json.dumps(answer))
