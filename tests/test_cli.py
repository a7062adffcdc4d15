"""The command line: files in, files out, the bits of the whole call, and nothing left behind."""

import errno
import math
import os
import signal
import struct
import subprocess
import sys
import time
import wave
from types import SimpleNamespace

import ml_dtypes
import numpy as np
import pytest

import mlxconv
from mlxconv.cli import main, output
from mlxconv.cli.blocks import LEAST_POSITIONS, blocks_of, span_of
from mlxconv.parameters import Parameters
from mlxconv.problem import problem_of
from tests.helpers import KERNELS

linux = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc, or mounts")
RNG = np.random.default_rng(7)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Each test in a folder of its own, and the variable that main sets put back."""
    monkeypatch.setenv("OMP_WAIT_POLICY", "passive")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def normal(shape, dtype="f4"):
    """Normal numbers; a complex type gets them in both parts."""
    a = RNG.standard_normal(shape)
    return (a + 1j * RNG.standard_normal(shape) if np.dtype(dtype).kind == "c" else a).astype(dtype)


def saved(x, w):
    np.save("x.npy", x)
    np.save("w.npy", w)


def convolve(*arguments):
    """Exit code of `mlxconv conv1d x.npy w.npy -o y.npy ...`."""
    return main(["conv1d", "x.npy", "w.npy", "-o", "y.npy", *map(str, arguments)])


def run(line):
    """Exit code of `mlxconv` with the words of `line`."""
    return main(line.split())


def failure(capsys, *arguments):
    """The one line of an error, after checking that it is one and exit code 2, leaving nothing."""
    before = sorted(os.listdir())
    try:
        code = main(list(map(str, arguments)))
    except SystemExit as end:  # argparse's own
        code = end.code
    shown = capsys.readouterr()
    assert code == 2 and shown.out == "" and shown.err.count("\n") == 1
    assert sorted(os.listdir()) == before
    return shown.err


def assert_same_bits(name, expected):
    y = np.load(name)
    assert y.flags.c_contiguous and y.shape == expected.shape
    assert y.dtype == ("V2" if expected.dtype == ml_dtypes.bfloat16 else expected.dtype)
    assert y.tobytes() == expected.tobytes()


CALLS = [
    ((3, 700, 8), (6, 5, 8), dict(stride=2, padding=(7, 3), dilation=3)),
    ((1, 500, 4), (5, 7, 4), dict(padding="same")),
    ((2, 501, 3), (4, 6, 3), dict(padding="same", stride=3)),
    ((2, 400, 4), (4, 4, 4), dict(padding="causal", dilation=9)),
    ((1, 300, 6), (6, 3, 2), dict(groups=3, padding=1)),
    ((2, 400, 40), (40, 4, 1), dict(groups=40, padding=(3, 0))),
    ((1, 900, 2), (3, 3, 2), dict(stride=7)),
    ((1, 200, 3), (4, 5, 3), dict(padding=300)),  # blocks that lie in the padding altogether
    ((1, 60, 2), (3, 4, 2), dict(padding=(150, 90), dilation=40)),  # windows around the input
    ((2, 400, 3), (4, 3, 3), dict(padding=(-30, -61))),
    ((2, 400, 3), (4, 3, 3), dict(padding=(-30, 61), stride=2)),
    ((300, 9, 5), (4, 3, 5), dict(padding=2)),  # blocks of several images
    ((200, 5, 5), (4, 5, 5), dict()),  # one output each
    ((1, 300, 4), (700, 3, 4), dict()),
    ((1, 2000, 1), (1, 901, 1), dict(padding=450)),  # a window longer than a block
    ((0, 50, 4), (5, 3, 4), dict()),
    ((2, 50, 4), (0, 3, 4), dict()),
    ((2, 50, 0), (3, 3, 0), dict(padding=1)),
    ((2, 0, 4), (3, 3, 4), dict(padding=4)),
]


def flags(stride=1, padding=0, dilation=1, groups=1):
    text = ",".join(map(str, padding)) if isinstance(padding, tuple) else padding
    return [
        f"--stride={stride}",
        f"--padding={text}",
        f"--dilation={dilation}",
        f"--groups={groups}",
    ]


@pytest.mark.parametrize("x_shape, w_shape, call", CALLS)
@pytest.mark.parametrize("mb", [0.001, 0.01, 64])
def test_blocks_have_the_bits_of_the_whole(x_shape, w_shape, call, mb):
    x, w = normal(x_shape), normal(w_shape)
    saved(x, w)
    assert convolve(*flags(**call), f"--block-mb={mb}") == 0
    assert_same_bits("y.npy", mlxconv.conv1d(x, w, **call))
    assert sorted(os.listdir()) == ["w.npy", "x.npy", "y.npy"]


@pytest.mark.parametrize("dtype", ["f2", "f8", "c8", "c16", ">f4", ">f8"])
def test_types(dtype):
    x, w = normal((2, 300, 3), dtype), normal((4, 5, 3), dtype)
    saved(x, w)
    assert convolve("--padding=4,0", "--block-mb=0.004") == 0
    assert_same_bits("y.npy", mlxconv.conv1d(x, w, padding=(4, 0)))


def test_integer_weights():
    x, w = normal((2, 300, 3), "f2"), RNG.integers(-3, 4, (4, 5, 3))
    saved(x, w)
    assert convolve("--block-mb=0.002") == 0
    assert_same_bits("y.npy", mlxconv.conv1d(x, w))


def test_bfloat16_needs_its_name(capsys):
    x, w = normal((2, 300, 3), ml_dtypes.bfloat16), normal((4, 5, 3), ml_dtypes.bfloat16)
    saved(x, w)
    assert "--bfloat16" in failure(capsys, "conv1d", "x.npy", "w.npy", "-o", "y.npy")
    assert convolve("--bfloat16", "--block-mb=0.002") == 0
    assert_same_bits("y.npy", mlxconv.conv1d(x, w))


@pytest.mark.parametrize("mb", [0.002, 64])
def test_fortran_order(mb):
    x, w = normal((3, 300, 4)), normal((4, 5, 4))
    saved(np.asfortranarray(x), np.asfortranarray(w))
    assert convolve("--stride=2", f"--block-mb={mb}") == 0
    assert_same_bits("y.npy", mlxconv.conv1d(x, w, 2))


def test_nan_and_infinite_weights_stay_where_they_meet_the_input():
    x, w = normal((1, 300, 3)), normal((4, 5, 3))
    x[0, 40, 1], w[2, 0, 0] = np.nan, np.inf
    saved(x, w)
    assert convolve("--padding=80", "--block-mb=0.001") == 0
    assert_same_bits("y.npy", mlxconv.conv1d(x, w, padding=80))


@pytest.mark.parametrize("variant", ["direct", "reference"])
@pytest.mark.parametrize("threads", [1, 2])
def test_variant_and_threads(variant, threads):
    x, w = normal((1, 400, 8)), normal((8, 3, 8))
    saved(x, w)
    assert convolve("--variant", variant, "--threads", threads, "--block-mb=0.01") == 0
    assert_same_bits("y.npy", mlxconv.conv1d(x, w, variant=variant))


def test_flat_filter_goes_on_every_channel(capsys):
    x, w = normal((2, 300, 3)), normal(7)
    saved(x, w)
    expected = mlxconv.conv1d(x, np.tile(w[None, :, None], (3, 1, 1)), padding=3, groups=3)
    for more in ([], ["--groups=3"]):
        assert convolve("--padding=same", "--block-mb=0.002", *more) == 0
        assert_same_bits("y.npy", expected)
    os.remove("y.npy")
    error = failure(capsys, "conv1d", "x.npy", "w.npy", "-o", "y.npy", "--groups", "1")
    assert "each of the 3 channels" in error


@pytest.mark.parametrize("x_shape, w_shape, call", CALLS)
@pytest.mark.parametrize("size", [1, 3000, 10**9])
def test_blocks_cover_the_output_once_in_the_order_of_the_file(x_shape, w_shape, call, size):
    call = dict(stride=1, padding=0, dilation=1, groups=1) | call
    q = Parameters(
        "conv1d", call["stride"], call["padding"], call["dilation"], 1, call["groups"], False
    )
    p = problem_of(q, x_shape, np.dtype("f4"), w_shape, np.dtype("f4"))
    at, L_out = 0, p.output_L[0]
    for n0, n1, l0, l1 in blocks_of(p, 4, 4, size):
        assert n0 * L_out + l0 == at
        assert l1 - l0 >= min(L_out, LEAST_POSITIONS // 2)
        assert n1 - n0 == 1 or (l0, l1) == (0, L_out)
        span = span_of(p, l0, l1)
        if span.first < span.last:
            rows = span.last - span.first + span.lo + span.hi
            assert (rows - p.window[0]) // p.stride[0] + 1 == l1 - l0
            assert min(span.lo, span.hi, span.first) >= 0 and span.last <= p.L[0]
        at += (n1 - n0) * (l1 - l0)
    assert at == (p.N * L_out if p.O else 0)


# --- wav -----------------------------------------------------------------------------------------


def write_wav(name, samples, width):
    """PCM by the standard library; `samples` (frames, channels) are ints."""
    with wave.open(name, "wb") as file:
        file.setnchannels(samples.shape[1])
        file.setsampwidth(width)
        file.setframerate(8000)
        unsigned = samples + 128 if width == 1 else samples
        raw = np.ascontiguousarray(unsigned.astype("<i8")).view(np.uint8).reshape(-1, 8)
        file.writeframes(raw[:, :width].tobytes())


def riff(format, width, channels, samples, extensible=False, size=None, magic=b"RIFF", more=b""):
    """The bytes of a WAVE file, chunk by chunk."""
    tag = 0xFFFE if extensible else format
    head = struct.pack("<HHIIHH", tag, channels, 8000, 0, width * channels, 8 * width)
    if extensible:
        tail = bytes.fromhex("000000001000800000aa00389b71")
        head += struct.pack("<HHIH", 22, 8 * width, 0, format) + tail
    odd = b"LIST" + struct.pack("<I", 3) + b"abc\0"
    size = len(samples) if size is None else size
    chunks = more + odd + b"fmt " + struct.pack("<I", len(head)) + head
    chunks += b"data" + struct.pack("<I", size) + samples
    return magic + struct.pack("<I", 0xFFFFFFFF) + b"WAVE" + chunks


@pytest.mark.parametrize("width", [1, 2, 3, 4])
@pytest.mark.parametrize("channels", [1, 2])
def test_pcm(width, channels):
    half = 2 ** (8 * width - 1)
    samples = RNG.integers(-half, half, (900, channels))
    samples[0], samples[1] = -half, half - 1
    write_wav("x.wav", samples, width)
    w = normal((3, 9, channels))
    np.save("w.npy", w)
    x = np.minimum((samples / half).astype("f4"), np.nextafter(np.float32(1), np.float32(0)))
    assert x.min() == -1 and x.max() < 1
    assert run("conv1d x.wav w.npy -o y.npy --padding same --block-mb 0.004") == 0
    assert_same_bits("y.npy", mlxconv.conv1d(x[None], w, padding="same"))


@pytest.mark.parametrize("form", ["plain", "extensible", "pipe", "rf64"])
@pytest.mark.parametrize("dtype", ["<f4", "<f8", "<i2"])
def test_wav_forms(dtype, form, folder):
    samples = (normal((400, 2), "f8") * 1000).astype(dtype)
    how = dict(extensible=form == "extensible")
    if form in ("pipe", "rf64"):
        how |= dict(size=0xFFFFFFFF)
    if form == "rf64":
        ds64 = struct.pack("<IQQQI", 28, 0, samples.nbytes, 0, 0)
        how |= dict(magic=b"RF64", more=b"ds64" + ds64)
    format = 3 if samples.dtype.kind == "f" else 1
    trailer = b"" if form == "pipe" else b"LIST\4\0\0\0tail"
    blob = riff(format, samples.itemsize, 2, samples.tobytes(), **how)
    (folder / "x.wav").write_bytes(blob + trailer)
    w = normal((3, 9, 2))
    np.save("w.npy", w)
    x = samples if format == 3 else samples.astype("f4") / 32768
    assert run("conv1d x.wav w.npy -o y.npy --block-mb 0.004") == 0
    assert_same_bits("y.npy", mlxconv.conv1d(x[None], w))


@pytest.mark.parametrize(
    "blob, message",
    [
        (riff(6, 1, 1, b"abcd"), "format 6"),
        (riff(1, 5, 1, b"abcde"), "5 bytes"),
        (riff(1, 2, 0, b""), "0 channels"),
        (riff(1, 2, 1, b"abcd", size=100), "cut short"),
        (riff(1, 2, 1, b"abcd")[:30], "not a .wav file that can be read"),
        (riff(1, 2, 1, b"abcd")[:8] + b"AVI ", "not a .wav"),
        (b"RIFF", "not a .wav"),
        (b"RIFF\0\0\0\0WAVEdata\4\0\0\0abcd", "no format"),
    ],
)
def test_bad_wav(capsys, folder, blob, message):
    (folder / "x.wav").write_bytes(blob)
    np.save("w.npy", normal((3, 9, 2)))
    assert message in failure(capsys, "conv1d", "x.wav", "w.npy", "-o", "y.npy")


# --- errors --------------------------------------------------------------------------------------


def blob_of(a, **how):
    np.save("blob.npy", a, **how)
    with open("blob.npy", "rb") as file:
        return file.read()


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: b"no array at all", "neither a .npy nor a .wav"),
        (lambda: b"", "neither a .npy nor a .wav"),
        (lambda: b"PK\3\4", ".npz"),
        (lambda: b"\x93NUMPY\1\0\x10\0{'descr': 1}", "not a .npy file that can be read"),
        (lambda: b"\x93NUMPY\7\0", "not a .npy file that can be read"),
        (lambda: blob_of(np.array([{}], object), allow_pickle=True), "pickled"),
        (lambda: blob_of(np.zeros((2, 9, 3), "f4"))[:-1], "cut short"),
        (lambda: blob_of(np.zeros((2, 9, 3), [("a", "f4")])), "records"),
        (lambda: blob_of(np.zeros((2, 9, 3), "V3")), "not numbers"),
        (lambda: blob_of(np.zeros((2, 9, 3), "i4")), "Invalid input array with type int32"),
        (lambda: blob_of(np.zeros((2, 9, 3), "U4")), "Invalid input array"),
        (lambda: blob_of(np.zeros((9, 3), "f4")), "[N, L, C_in]"),
        (lambda: blob_of(np.zeros(9, "f4")), "[N, L, C_in]"),
    ],
)
def test_bad_input_files(capsys, folder, make, message):
    saved(np.zeros(1), normal((4, 5, 3)))
    (folder / "x.npy").write_bytes(make())
    assert message in failure(capsys, "conv1d", "x.npy", "w.npy", "-o", "y.npy")


@pytest.mark.parametrize(
    "arguments, message",
    [
        ("none.npy w.npy -o y.npy", "No such file"),
        ("x.npy none.npy -o y.npy", "No such file"),
        (". w.npy -o y.npy", "not a regular file"),
        ("x.npy w.npy -o x.npy", "overwrite an input"),
        ("x.npy w.npy -o link.npy", "overwrite an input"),
        ("x.npy w.npy -o nowhere/y.npy", "no folder"),
        ("x.npy w.npy -o y.wav", "must be a .npy file"),
        ("x.npy w.npy -o folder.npy", "no regular file"),
        ("x.npy w.npy", "-o/--output"),
        ("x.npy w.npy -o y.npy --stride 0", "Stride sizes must be positive. Got strides (0)."),
        ("x.npy w.npy -o y.npy --dilation=-1", "Kernel dilation sizes must be positive"),
        ("x.npy w.npy -o y.npy --groups 2", "divisible by the number of groups"),
        ("x.npy w.npy -o y.npy --groups 0", "groups must be positive"),
        ("x.npy w.npy -o y.npy --dilation 99", "cannot be smaller than weight"),
        ("x.npy w.npy -o y.npy --padding=-40", "crops more than"),
        ("x.npy w.npy -o y.npy --padding 4611686018427387904", "larger than any memory"),
        ("x.npy w.npy -o y.npy --padding wide", "same, valid or causal"),
        ("x.npy w.npy -o y.npy --padding 1,2,3", "same, valid or causal"),
        ("x.npy w.npy -o y.npy --threads 0", "no positive int"),
        ("x.npy w.npy -o y.npy --block-mb nan", "no positive number"),
        ("x.npy w.npy -o y.npy --variant fastest", "variant takes one of"),
        ("x.npy w.npy -o y.npy --variant depthwise", "cannot compute this problem"),
        ("w.npy x.npy -o y.npy", "[conv]"),
    ],
)
def test_bad_arguments(capsys, arguments, message):
    saved(normal((2, 20, 3)), normal((4, 5, 3)))
    os.symlink("x.npy", "link.npy")
    os.mkdir("folder.npy")
    assert message in failure(capsys, "conv1d", *arguments.split())


def test_commands_are_required(capsys):
    assert "command" in failure(capsys)
    assert "invalid choice" in failure(capsys, "conv9d")


def test_an_existing_output_is_replaced_and_links_are_followed(folder):
    saved(normal((2, 20, 3)), normal((4, 5, 3)))
    os.mkdir("elsewhere")
    (folder / "elsewhere" / "real.npy").write_bytes(b"old")
    os.symlink("elsewhere/real.npy", "y.npy")
    assert convolve() == 0
    assert os.path.islink("y.npy") and os.listdir("elsewhere") == ["real.npy"]
    assert_same_bits("elsewhere/real.npy", mlxconv.conv1d(np.load("x.npy"), np.load("w.npy")))


# --- failures at work ----------------------------------------------------------------------------


def assert_fails_cleanly(capsys, message, code=1):
    """conv1d fails with `message`, and an older output is still what it was."""
    saved(normal((2, 300, 3)), normal((4, 5, 3)))
    with open("y.npy", "wb") as file:
        file.write(b"old")
    assert convolve("--block-mb=0.001") == code
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert sorted(os.listdir()) == ["w.npy", "x.npy", "y.npy"]
    with open("y.npy", "rb") as file:
        assert file.read() == b"old"


def test_too_little_room(capsys, monkeypatch):
    monkeypatch.setattr(output.shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    assert_fails_cleanly(capsys, "its disk has 0.0 MB left")


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="not on this system")
def test_no_room_when_it_is_reserved(capsys, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    assert_fails_cleanly(capsys, "No space left on device; it needs")


@pytest.mark.parametrize(
    "error, message, code",
    [
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device; it needs", 1),
        (OSError(errno.EIO, "Input/output error"), "Input/output error", 1),
        (MemoryError(), "out of memory", 1),
        (KeyboardInterrupt(), "interrupted", 130),
    ],
)
def test_errors_after_some_blocks(capsys, monkeypatch, error, message, code):
    from mlxconv.cli import conv1d

    write, calls = conv1d.write, []

    def failing(file, y):
        calls.append(y.shape)
        if len(calls) == 3:
            raise error
        return write(file, y)

    monkeypatch.setattr(conv1d, "write", failing)
    monkeypatch.delattr(os, "posix_fallocate", raising=False)
    assert_fails_cleanly(capsys, message, code)
    assert len(calls) == 3


def test_an_input_that_shrinks(capsys, monkeypatch):
    from mlxconv.cli import conv1d

    write = conv1d.write

    def shrinking(file, y):
        os.truncate("x.npy", 400)
        return write(file, y)

    monkeypatch.setattr(conv1d, "write", shrinking)
    assert_fails_cleanly(capsys, "became shorter")


@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written(capsys):
    saved(normal((2, 20, 3)), normal((4, 5, 3)))
    os.mkdir("closed", mode=0o500)
    assert "cannot write" in failure(capsys, "conv1d", "x.npy", "w.npy", "-o", "closed/y.npy")


@linux
@pytest.mark.parametrize("checked_first", [True, False])
def test_a_disk_that_is_really_full(capsys, monkeypatch, folder, checked_first):
    os.mkdir("disk")
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", "disk"], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("may not mount")
    try:
        saved(normal((2, 9000, 3)), normal((4, 5, 3)))
        if not checked_first:  # let the writes meet the end of the disk
            monkeypatch.setattr(output.shutil, "disk_usage", lambda path: SimpleNamespace(free=1e9))
            monkeypatch.delattr(os, "posix_fallocate")
        assert run("conv1d x.npy w.npy -o disk/y.npy --block-mb 0.01") == 1
        assert capsys.readouterr().err.count("\n") == 1
        assert os.listdir("disk") == []
    finally:
        subprocess.run(["umount", "disk"], check=True)


# --- whole processes -----------------------------------------------------------------------------

START = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
START += "from mlxconv.cli import main; "


def sparse_npy(name, shape):
    """A .npy file of zeros that takes no room on the disk."""
    header = output.npy_header(shape, np.dtype("f4"))
    with open(name, "wb") as file:
        file.write(header)
        file.truncate(len(header) + 4 * math.prod(shape))


@pytest.mark.skipif(os.name != "posix", reason="signals")
@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_leave_nothing(number, code):
    sparse_npy("x.npy", (1, 1 << 21, 32))
    np.save("w.npy", normal((32, 64, 32)))
    command = "conv1d x.npy w.npy -o y.npy --variant reference --threads 1 --block-mb 1"
    process = subprocess.Popen(
        [sys.executable, "-c", f"{START} sys.exit(main({command!r}.split()))"],
        stderr=subprocess.PIPE,
    )
    deadline = time.monotonic() + 30
    while not any(name.endswith(".part") for name in os.listdir()):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    time.sleep(0.2)
    process.send_signal(number)
    error = process.communicate(timeout=30)[1]
    assert process.returncode == code
    assert error == (b"mlxconv: interrupted\n" if number == signal.SIGINT else b"")
    assert sorted(os.listdir()) == ["w.npy", "x.npy"]


def seconds_to_stop(options, after):
    """From Ctrl-C, so many seconds `after` a long convolution began, to the process's end."""
    command = f"conv1d x.npy w.npy -o y.npy {options}"
    process = subprocess.Popen(
        [sys.executable, "-c", f"{START} sys.exit(main({command!r}.split()))"],
        stderr=subprocess.PIPE,
    )
    deadline = time.monotonic() + 60
    while not any(name.endswith(".part") for name in os.listdir()):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    time.sleep(after)
    start = time.perf_counter()
    process.send_signal(signal.SIGINT)
    error = process.communicate(timeout=30)[1]
    seconds = time.perf_counter() - start
    assert (process.returncode, error) == (130, b"mlxconv: interrupted\n")
    assert sorted(os.listdir()) == ["w.npy", "x.npy"]
    return seconds


@pytest.mark.skipif(os.name != "posix", reason="signals")
@pytest.mark.parametrize("options", ["--block-mb 1000 --threads 1", "--block-mb 1000", ""])
def test_ctrl_c_ends_it_at_once(options):
    """Within one call and between blocks; tried again, later, where the machine was too busy to
    tell, or compiled: LLVM is not interrupted."""
    sparse_npy("x.npy", (1, 1 << 19, 64))
    np.save("w.npy", np.ones((64, 2048, 64), "f4"))  # 9 TFLOP
    mlxconv.conv1d(np.ones((1, 5000, 64), "f4"), np.load("w.npy"))  # little is left to compile
    assert any(seconds_to_stop(options, after) < 0.5 for after in (1, 4, 16))


@linux
def test_memory_is_bounded_by_the_block_not_the_file():
    sparse_npy("x.npy", (1, 1 << 24, 16))  # 1 GiB
    np.save("w.npy", np.ones((1, 64, 16), "f4"))
    command = "conv1d x.npy w.npy -o y.npy --stride 64 --block-mb 16 --threads 1"
    peak = "print(next(l for l in open('/proc/self/status') if l.startswith('VmHWM')).split()[1])"
    code = f"{START} assert main({command!r}.split()) == 0; {peak}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert int(done.stdout) < 400 << 10  # KiB, of which 200 MiB are Python, NumPy and Numba
    assert np.load("y.npy").shape == (1, 1 << 18, 1)


@pytest.mark.skipif(os.name != "posix", reason="pseudo-terminals")
@pytest.mark.parametrize("more, quiet", [([], False), (["--quiet"], True)])
def test_a_terminal_sees_progress(more, quiet):
    import pty

    saved(normal((1, 3000, 8)), normal((8, 3, 8)))
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "mlxconv", "conv1d", "x.npy", "w.npy", "-o", "y.npy"]
    done = subprocess.run([*command, "--block-mb", "0.01", *more], stderr=theirs)
    os.close(theirs)
    try:
        seen = os.read(ours, 100_000)
    except OSError:  # nothing was written
        seen = b""
    os.close(ours)
    assert done.returncode == 0
    assert seen == b"" if quiet else b"y.npy: (1, 2998, 8) float32" in seen


def test_progress_without_rich(monkeypatch, capsys):
    saved(normal((1, 300, 3)), normal((4, 5, 3)))
    monkeypatch.setitem(sys.modules, "rich", None)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert convolve() == 0
    assert "y.npy: (1, 296, 4) float32" in capsys.readouterr().err


# ---------------------------------------------------------------- warmup


def test_warmup_compiles_ahead(tmp_path):
    """What it compiled, no later process compiles: a second warmup writes nothing."""

    def warmup(*arguments):
        program = [sys.executable, "-m", "mlxconv", "warmup", *arguments]
        env = {**os.environ, "MLXCONV_CACHE_DIR": str(tmp_path / "kernels")}
        done = subprocess.run(
            program, env=env, capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout, {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.kernel")}

    text, first = warmup("--dtype", "float32")
    assert text.startswith(f"{len(KERNELS)} combinations") and first
    assert warmup()[1] == first


def test_warmup_of_an_unknown_type(capsys):
    assert "invalid choice: 'int8'" in failure(capsys, "warmup", "--dtype", "int8")
