"""libcuda: what a program that computes finds, and that kernels are computed from their text."""

import json
import struct
import subprocess
import sys
from collections.abc import Callable

import pytest

from .conftest import HERE, Make

HEAD = """
.version 6.0
.target sm_52
.address_size 64
.visible .entry kernel(.param .u64 source, .param .u64 target, .param .u32 length)
{
    .reg .pred %p<4>; .reg .b32 %r<16>; .reg .b64 %rd<8>; .reg .f32 %f<8>; .reg .f64 %d<4>;
    .shared .align 4 .b8 room[512];
    ld.param.u64 %rd1, [source]; ld.param.u64 %rd2, [target]; ld.param.u32 %r1, [length];
    mov.u32 %r2, %ctaid.x; mov.u32 %r3, %ntid.x; mov.u32 %r4, %tid.x;
    mad.lo.s32 %r5, %r2, %r3, %r4; // the element of this thread
    setp.ge.u32 %p1, %r5, %r1;
    @%p1 bra DONE;
    cvta.to.global.u64 %rd3, %rd1; cvta.to.global.u64 %rd4, %rd2;
    mul.wide.u32 %rd5, %r5, 4; add.s64 %rd6, %rd3, %rd5; add.s64 %rd7, %rd4, %rd5;
    ld.global.u32 %r6, [%rd6];
"""
TAIL = """
    st.global.u32 [%rd7], %r7;
DONE:
    ret;
}
"""
MASK = 0xFFFFFFFF


def signed(word: int) -> int:
    return word - (1 << 32) if word >> 31 else word


def as_float(word: int) -> float:
    return float(struct.unpack("<f", struct.pack("<I", word))[0])


def bits(value: float) -> int:
    return int(struct.unpack("<I", struct.pack("<f", value))[0])


WORDS = [(n * 2654435761 + 12345) & MASK for n in range(300)]

# PTX between HEAD and TAIL that makes %r7 of %r6 (and the element number %r5), and the same in Python.
OPERATIONS: list[tuple[str, Callable[[int, int], int]]] = [
    ("mul.lo.s32 %r8, %r6, 1664525; add.s32 %r7, %r8, 1013904223;", lambda x, i: x * 1664525 + 1013904223),
    ("mul.lo.s32 %r8, %r6, 1664526; add.s32 %r7, %r8, 1013904223;", lambda x, i: x * 1664526 + 1013904223),
    ("sub.u32 %r7, %r5, %r6;", lambda x, i: i - x),
    ("xor.b32 %r8, %r6, 0xdeadbeef; not.b32 %r7, %r8;", lambda x, i: ~(x ^ 0xDEADBEEF)),
    ("and.b32 %r8, %r6, 0xff00ff; or.b32 %r7, %r8, 3;", lambda x, i: (x & 0xFF00FF) | 3),
    ("shl.b32 %r8, %r6, 5; shr.u32 %r7, %r8, 3;", lambda x, i: ((x << 5) & MASK) >> 3),
    ("shr.s32 %r7, %r6, 4;", lambda x, i: signed(x) >> 4),
    ("shr.s32 %r7, %r6, 40;", lambda x, i: signed(x) >> 31),
    ("mul.hi.u32 %r7, %r6, %r6;", lambda x, i: (x * x) >> 32),
    ("mul.hi.s32 %r7, %r6, %r6;", lambda x, i: (signed(x) * signed(x)) >> 32),
    ("mad.wide.u32 %rd0, %r6, %r6, 7; shr.u64 %rd0, %rd0, 16; cvt.u32.u64 %r7, %rd0;", lambda x, i: (x * x + 7) >> 16),
    ("div.u32 %r7, %r6, 1000;", lambda x, i: x // 1000),
    ("div.s32 %r7, %r6, 1000;", lambda x, i: int(signed(x) / 1000)),
    ("rem.u32 %r7, %r6, 1000;", lambda x, i: x % 1000),
    ("min.s32 %r8, %r6, 1000; max.u32 %r7, %r8, 7;", lambda x, i: max(min(signed(x), 1000) & MASK, 7)),
    ("neg.s32 %r8, %r6; abs.s32 %r7, %r8;", lambda x, i: abs(signed(-x & MASK))),
    ("setp.lt.s32 %p2, %r6, 0; selp.b32 %r7, 1, 2, %p2;", lambda x, i: 1 if signed(x) < 0 else 2),
    ("setp.lo.u32 %p2, %r6, 100000; mov.u32 %r7, 5; @!%p2 mov.u32 %r7, 6;", lambda x, i: 5 if x < 100000 else 6),
    ("cvt.rn.f32.u32 %f1, %r5; fma.rn.f32 %f2, %f1, 0f40000000, 0f3F800000; mov.b32 %r7, %f2;",
     lambda x, i: bits(2.0 * i + 1)),
    ("cvt.rn.f32.s32 %f1, %r5; div.rn.f32 %f2, %f1, 0f40400000; cvt.rzi.s32.f32 %r7, %f2;", lambda x, i: i // 3),
    ("cvt.rn.f64.u32 %d1, %r6; sqrt.rn.f64 %d2, %d1; cvt.rzi.u32.f64 %r7, %d2;", lambda x, i: int(x**0.5)),
    ("cvt.u8.u32 %r8, %r6; cvt.s32.s8 %r7, %r8;", lambda x, i: (x & 0xFF) - 256 if x & 0x80 else x & 0xFF),
    # a loop: the sum of 0 to i
    ("mov.u32 %r7, 0; mov.u32 %r8, 0;\nAGAIN: setp.gt.u32 %p2, %r8, %r5; @%p2 bra OUT;\n"
     "add.u32 %r7, %r7, %r8; add.u32 %r8, %r8, 1; bra.uni AGAIN;\nOUT: add.u32 %r7, %r7, 0;", lambda x, i: i * (i + 1) // 2),
]  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), OPERATIONS, ids=[text[:40] for text, _ in OPERATIONS])
def test_kernels_compute_what_their_text_says(make: Make, text: str, expected: Callable[[int, int], int]) -> None:
    done = make().cuda(ptx=HEAD + text + TAIL, words=WORDS)
    assert done["words"] == [expected(word, index) & MASK for index, word in enumerate(WORDS)]


def test_a_block_waits_at_its_barrier(make: Make) -> None:
    """Each thread takes what its mirror image in the block put into shared memory."""
    text = """
        mov.u32 %r8, room; shl.b32 %r9, %r4, 2; add.u32 %r10, %r8, %r9; st.shared.u32 [%r10], %r6;
        bar.sync 0;
        sub.u32 %r11, %r3, %r4; sub.u32 %r11, %r11, 1; shl.b32 %r11, %r11, 2; add.u32 %r11, %r8, %r11;
        ld.shared.u32 %r7, [%r11];
    """
    done = make().cuda(ptx=HEAD + text + TAIL, words=list(range(512)), block=128)
    assert done["words"] == [block * 128 + 127 - n for block in range(4) for n in range(128)]


GOOD = "add.u32 %r7, %r6, 1;"


@pytest.mark.parametrize(
    ("ptx", "code", "log"),
    [
        (HEAD + "frob.lo.s32 %r7, %r6, 1;" + TAIL, 218, "unsupported instruction 'frob.lo.s32'"),
        (HEAD + "add.sat.s32 %r7, %r6, 1;" + TAIL, 218, "unsupported modifier in 'add.sat.s32'"),
        (HEAD + "add.rz.f32 %f1, %f1, %f1;" + TAIL, 218, "unsupported modifier"),
        (HEAD + "add.u32 %r99, %r6, 1;" + TAIL, 218, "unknown operand '%r99'"),
        (HEAD + "add.u32 %r7, %r6;" + TAIL, 218, "expected ','"),
        (HEAD + "bra NOWHERE;" + GOOD + TAIL, 218, "unknown label 'NOWHERE'"),
        (HEAD + GOOD + "st.global.u32 [%rd7], %r7;", 218, "unexpected end"),
        ((HEAD + GOOD + TAIL).replace("sm_52", "sm_90"), 218, "older than target 'sm_90'"),
        ((HEAD + GOOD + TAIL).replace(".version 6.0", ".version 8.7"), 222, "unsupported version '8.7'"),
        ("this is not PTX", 218, "expected '.version'"),
        ("\x7fELF machine code", 200, ""),
    ],
)
def test_what_is_not_understood_does_not_load(make: Make, ptx: str, code: int, log: str) -> None:
    done = make().cuda(ptx=ptx)
    assert (done["failed"], done["code"]) == ("cuModuleLoadDataEx", code)
    assert log in done["log"]


def test_memory_beyond_an_allocation_is_illegal(make: Make) -> None:
    text = "ld.global.u32 %r7, [%rd6+1048576];"
    done = make().cuda(ptx=HEAD + text + TAIL)
    assert (done["failed"], done["code"]) == ("cuCtxSynchronize", 700)


def test_more_memory_than_there_is(make: Make) -> None:
    done = make().cuda(bytes=41 << 30)
    assert (done["failed"], done["code"]) == ("cuMemAlloc_v2", 2)


@pytest.mark.parametrize(
    ("fault", "failed", "code"),
    [
        ("not-loaded", "cuInit", 100),
        ("no-devices", "cuInit", 100),
        ("control-missing", "cuInit", 100),
        ("uvm-missing", "cuInit", 999),
        ("unknown", "cuInit", 999),
        ("library-mismatch", "cuInit", 803),
        ("cuda-mismatch", "cuInit", 803),
        ("compat-unsupported", "cuInit", 804),
        ("fabric-not-ready", "cuInit", 802),
        ("prohibited:0", "cuCtxCreate_v2", 46),
        ("reset-required:0", "cuCtxCreate_v2", 46),
    ],
)
def test_faults(make: Make, fault: str, failed: str, code: int) -> None:
    done = make(fault).cuda()
    assert (done["failed"], done["code"]) == (failed, code)


def test_a_gpu_that_computes_wrongly(make: Make) -> None:
    rig = make("wrong-result:1")
    good, bad = (rig.cuda(ptx=HEAD + GOOD + TAIL, device=device)["words"] for device in (0, 1))
    assert good == [n + 1 for n in range(512)]
    assert 0 < sum(a != b for a, b in zip(good, bad, strict=True)) < 512


def test_a_copy_that_flips_a_bit(make: Make) -> None:
    rig = make("corrupt-copy:1")
    assert rig.cuda(device=0)["copied"] is True
    assert rig.cuda(device=1)["copied"] is False


def test_only_gpus_whose_node_opens_are_seen(make: Make) -> None:
    rig = make()
    (rig.dev / "nvidia0").unlink()
    done = rig.cuda()
    assert (done["count"], done["uuid"]) == (1, "12345678123412341234123456780001")
    (rig.dev / "nvidia1").unlink()
    assert rig.cuda()["code"] == 100


@pytest.mark.parametrize(
    ("value", "uuids"),
    [
        ("1", ["0001"]),
        ("1,0", ["0001", "0000"]),
        ("GPU-12345678-1234-1234-1234-123456780001", ["0001"]),
        ("0,9,1", ["0000"]),
        ("", []),
    ],
)
def test_cuda_visible_devices(make: Make, value: str, uuids: list[str]) -> None:
    rig = make()
    rig.environment["CUDA_VISIBLE_DEVICES"] = value
    seen = [rig.cuda(device=n) for n in range(max(1, len(uuids)))]
    assert [done["uuid"][-4:] for done in seen if "uuid" in done] == uuids
    if not uuids:
        assert seen[0]["code"] == 100


def test_exclusive_process_mode_lets_one_in(make: Make) -> None:
    rig = make("exclusive-process:0")
    command = [sys.executable, str(HERE / "cuda_program.py")]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=rig.environment
    ) as first:
        assert first.stdin is not None and first.stdout is not None
        print(json.dumps({"wait": True}), file=first.stdin, flush=True)
        assert "failed" not in json.loads(first.stdout.readline())
        assert rig.cuda()["code"] == 46
        assert "failed" not in rig.cuda(device=1)
        print(file=first.stdin, flush=True)
    assert "failed" not in rig.cuda()


def test_mig_shows_one_device(make: Make) -> None:
    done = make(settings=("gpu.0.mig=1g.5gb,1g.5gb",), gpus=1).cuda()
    assert (done["count"], done["total"]) == (1, 4864 << 20)


def test_functions_by_name(make: Make) -> None:
    program = """
import ctypes, json
cuda = ctypes.CDLL("libcuda.so.1")
def found(name):
    function = ctypes.c_void_p()
    return [cuda.cuGetProcAddress_v2(name, ctypes.byref(function), 12040, 0, None), bool(function.value)]
print(json.dumps([found(b"cuMemAlloc"), found(b"cuNothing"), hasattr(cuda, "cuMemAlloc_v2"), hasattr(cuda, "cuMemAlloc")]))
"""
    assert make().python(program) == [[0, True], [500, False], True, False]


def test_slow_copies_take_their_time(make: Make) -> None:
    """10 MiB at 200 MiB/s, there and back: a tenth of a second."""
    program = """
import ctypes, json, time
cuda = ctypes.CDLL("libcuda.so.1")
context, address, size = ctypes.c_void_p(), ctypes.c_uint64(), ctypes.c_size_t(10 << 20)
assert cuda.cuInit(0) == 0 and cuda.cuCtxCreate_v2(ctypes.byref(context), 0, 0) == 0
assert cuda.cuMemAlloc_v2(ctypes.byref(address), size) == 0
buffer = ctypes.create_string_buffer(size.value)
started = time.monotonic()
cuda.cuMemcpyHtoD_v2(address, buffer, size); cuda.cuMemcpyDtoH_v2(buffer, address, size)
print(json.dumps(time.monotonic() - started))
"""
    assert make("slow-copy").python(program) >= 0.1


def test_libraries_are_found_under_their_usual_names(make: Make) -> None:
    rig = make()
    folder = rig.root / "usr/lib/x86_64-linux-gnu"
    assert (folder / "libcuda.so").readlink().name == "libcuda.so.1"
    assert (folder / "libcuda.so.1").readlink().name == "libcuda.so.550.163.01"
