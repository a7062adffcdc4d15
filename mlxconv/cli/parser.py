"""The arguments of all commands, and their help."""

import argparse
from collections.abc import Callable
from importlib import import_module
from typing import Any, NoReturn

from mlxconv import __version__
from mlxconv.arrays import FLOATING as DTYPES

DESCRIPTION = """\
The convolutions of MLX for NumPy arrays, on any CPU.

  mlxconv demo                             filter a real recorded signal, and check the result
  mlxconv conv1d x.npy w.npy -o y.npy      convolve a file, also one larger than memory
  mlxconv warmup                           compile ahead, so that no first call waits
  mlxconv bench                            measure it beside other libraries
  mlxconv info                             what this machine and this installation are"""

ENVIRONMENT = """\
environment:
  MLXCONV_NUM_THREADS    threads to use (default: every core this process may use)
  MLXCONV_CACHE_DIR      where compiled kernels are kept; empty: nowhere
  MLXCONV_QUIET          1: no line on the terminal when compiling takes more than a second
  OMP_WAIT_POLICY        these commands set it to "passive" unless it is set, so that idle threads
                         sleep; the library itself sets no variable"""

CONV1D = """\
Convolve a file along its middle axis, block by block, so that the file may be larger than memory.
The result is the same, bit for bit, as that of mlxconv.conv1d on the whole array.

  input    .npy of shape (N, L, C_in), floating or complex, or
           .wav, read as (1, frames, channels): PCM of 8, 16, 24 or 32 bits as float32 in [-1, 1),
           float of 32 bits as float32 and of 64 bits as float64
  weight   .npy of shape (C_out, K, C_in / groups), or of shape (K,): that filter on every channel
  output   .npy of shape (N, L_out, C_out); it appears when it is whole, or not at all"""

CONV1D_EXAMPLES = """\
examples:
  mlxconv conv1d x.npy w.npy -o y.npy --stride 2 --padding 1
  mlxconv conv1d x.npy w.npy -o y.npy --padding 4,0 --dilation 2 --groups 8
  mlxconv conv1d x.npy w.npy -o y.npy --padding=-3,2        (crop: negative values need the "=")
  mlxconv conv1d song.wav fir.npy -o filtered.npy --padding same
  mlxconv conv1d big.npy w.npy -o y.npy --block-mb 256 --threads 4"""

DEMO = """\
Filter 44 years of weekly carbon dioxide at Mauna Loa with a bank of four filters in one call:
trend, seasonal cycle, week-to-week change and growth.  The result is checked against NumPy."""

DEMO_EXAMPLES = """\
examples:
  mlxconv demo
  mlxconv demo --plot co2.png              (needs matplotlib: pip install "mlxconv[cli]")
  mlxconv demo --photograph hopper.png     (eight filters over a photograph)"""


BENCH = """\
Measure convolutions of real models beside the other libraries that are installed, each in a process
of its own, in turns, in its best layout.  Outputs are compared before anything is timed."""

BENCH_EXAMPLES = """\
examples:
  mlxconv bench
  mlxconv bench --only whisper_conv1,mamba_dw4 --against torch,onnxruntime --threads 1
  mlxconv bench --only conv2d,conv3d,'conv_transpose*' --against torch
  mlxconv bench --only 'resnet50*_n8'
  mlxconv bench --gradient weight --against torch
  mlxconv bench --plot roofline.png --json figures.json
  mlxconv bench --against none             (percent of the machine's peak only)
  mlxconv bench --shapes mine.json         ({"name": [N, L, C_in, C_out, K, stride, padding,
                                             dilation, groups]}, the last four optional;
                                             L and K of conv2d are lists, [H, W] and [KH, KW])"""


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def parser() -> Parser:
    """The parser of the command line; what it returns has the command to run as `run`."""
    top = Parser(
        prog="mlxconv",
        description=DESCRIPTION,
        epilog=ENVIRONMENT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"mlxconv {__version__}")
    commands = top.add_subparsers(metavar="command", required=True)
    _add_demo(commands)
    _add_conv1d(commands)
    _add_warmup(commands)
    _add_bench(commands)
    _add_info(commands)
    return top


def _add_demo(commands: Any) -> None:
    demo = _command(commands, "demo", "filter a real recorded signal", DEMO, DEMO_EXAMPLES)
    demo.add_argument("--plot", metavar="FILE", help="draw a picture: .png, .pdf or .svg")
    what = "filter a photograph by conv2d as well, and draw it"
    demo.add_argument("--photograph", metavar="FILE", help=what)
    _add_threads(demo)


def _add_conv1d(commands: Any) -> None:
    conv1d = _command(commands, "conv1d", "convolve a file", CONV1D, CONV1D_EXAMPLES)
    conv1d.add_argument("input", help=".npy or .wav file")
    conv1d.add_argument("weight", help=".npy file")
    conv1d.add_argument("-o", "--output", required=True, metavar="FILE", help=".npy file")
    what = conv1d.add_argument_group("convolution")
    what.add_argument("--stride", type=int, default=1, metavar="INT")
    what.add_argument(
        "--padding",
        type=padding,
        default=0,
        metavar="PAD",
        help='rows added at both ends, an int or "lo,hi", or same, valid or causal',
    )
    what.add_argument("--dilation", type=int, default=1, metavar="INT")
    what.add_argument("--groups", type=int, metavar="INT", help="default 1")
    what.add_argument(
        "--bfloat16",
        action="store_true",
        help="take two-byte elements without a name for bfloat16; NumPy saves them so",
    )
    how = conv1d.add_argument_group("computation")
    _add_threads(how)
    how.add_argument("--variant", metavar="NAME", help="the kernel (see mlxconv info)")
    how.add_argument(
        "--block-mb",
        type=positive_number,
        default=64.0,
        metavar="MB",
        help="input and output held in memory at a time (default 64); one window at the least",
    )
    how.add_argument("--quiet", action="store_true", help="no progress bar, errors only")


def _add_warmup(commands: Any) -> None:
    text = "Compile kernels ahead and keep them on disk, so that no first call waits for it."
    warmup = _command(commands, "warmup", "compile kernels ahead", text, "")
    types = warmup.add_mutually_exclusive_group()
    types.add_argument("--all", action="store_true", help="every type, not only float32")
    types.add_argument("--dtype", action="append", choices=DTYPES, help="this type; repeatable")
    warmup.add_argument("--quiet", action="store_true", help="no progress bar")


def _add_bench(commands: Any) -> None:
    bench = _command(commands, "bench", "measure beside other libraries", BENCH, BENCH_EXAMPLES)
    bench.set_defaults(waits_passively=False)
    what = bench.add_argument_group("what is measured")
    what.add_argument("--shapes", metavar="FILE", help=".json file of shapes")
    which = "these shapes, or all of a function (default: of conv1d)"
    what.add_argument("--only", metavar="A,B", help=which)
    what.add_argument("--against", metavar="A,B", help="these libraries; none: ours alone")
    what.add_argument("--dtype", choices=("float16", "float32", "float64"), default="float32")
    what.add_argument(
        "--gradient", choices=("input", "weight"), help="not the convolution but its gradient by it"
    )
    _add_threads(what)
    what.add_argument(
        "--seconds", type=positive_number, default=2.0, metavar="S", help="per shape (default 2)"
    )
    how = bench.add_argument_group("what is written")
    how.add_argument("--json", metavar="FILE", help="every round, for programs to read")
    how.add_argument("--plot", metavar="FILE", help="the roofline: .png, .pdf or .svg")
    how.add_argument("--markdown", action="store_true", help="print the table as Markdown")
    how.add_argument("--write-readme", metavar="FILE", help="replace the table in this .md file")
    how.add_argument("--quiet", action="store_true", help="no progress bar")


def _add_info(commands: Any) -> None:
    text = "Print versions, the processor and its caches, threads, and the cache of kernels."
    info = _command(commands, "info", "describe this installation", text, "")
    info.add_argument("--json", action="store_true", help="for programs to read")


def _command(
    commands: Any, name: str, summary: str, description: str, epilog: str
) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(
        name,
        help=summary,
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.set_defaults(run=_run_of(name))
    return command


def _run_of(name: str) -> Callable[[argparse.Namespace], None]:
    """The `run` of the command's module, imported when it is called."""

    def run(options: argparse.Namespace) -> None:
        import_module(f"mlxconv.cli.{name}").run(options)

    return run


def _add_threads(command: Any) -> None:
    command.add_argument(
        "--threads", type=positive, metavar="INT", help="default: every core of this process"
    )


def padding(text: str) -> int | tuple[int, int] | str:
    """`--padding`: "same", "3" or "3,0"."""
    if text in ("same", "valid", "causal"):
        return text
    try:
        values = [int(part) for part in text.split(",")]
    except ValueError:
        values = []
    if len(values) == 1:
        return values[0]
    if len(values) == 2:
        return values[0], values[1]
    raise argparse.ArgumentTypeError(f"{text!r} is no int, lo,hi, same, valid or causal")


def positive(text: str) -> int:
    """An int of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no positive int")
    return int(text)


def positive_number(text: str) -> float:
    """A positive number, not so large that its bytes, or nanoseconds, overflow."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1e12:
        raise argparse.ArgumentTypeError(f"{text!r} is no positive number")
    return value
