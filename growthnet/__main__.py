"""The command line: `python -m growthnet`."""

import argparse
import importlib.util
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

import growthnet


class _Parser(argparse.ArgumentParser):
    """Says in one line what is wrong, and how to learn more."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


def _whole_number(least: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = None
        if number is None or number < least:
            raise argparse.ArgumentTypeError(
                f"{text!r} is not a whole number from {least} up"
            )
        return number

    return read


def _parser() -> _Parser:
    parser = _Parser(
        prog="growthnet", description="Grow and shrink JAX networks while they train."
    )
    version = f"growthnet {growthnet.__version__}"
    parser.add_argument("--version", action="version", version=version)
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    demo = commands.add_parser(
        "demo",
        help="watch a network grow on handwritten digits (under a minute)",
        description="Trains a multilayer perceptron on scikit-learn's digits while its "
        "hidden layer grows (or shrinks) under a size weight, then a static network of "
        "the final size and one of the starting size. Prints the growth events and the "
        "test results, and draws a picture.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = demo.add_argument
    add("--data", choices=["digits"], default="digits", help="the data set")
    add("--start", type=_whole_number(1), default=4, help="hidden units at first")
    add("--target", type=_whole_number(1), default=24, help="size to grow or shrink to")
    add("--steps", type=_whole_number(1), default=1000, help="training steps")
    add("--seed", type=_whole_number(0), default=0, help="seed of all random numbers")
    add("--out", type=Path, default="growthnet-demo", help="folder for the picture")
    inspect = commands.add_parser(
        "inspect",
        help="what a saved run is: architecture, sizes over time, events",
        description="Prints what is in a file of `gn.save` or a folder of checkpoints, "
        "without the code of the model, and verifies all of it.",
    )
    inspect.add_argument("path", type=Path, help="the file, or the folder")
    inspect.add_argument("--json", action="store_true", help="the record, as JSON")
    return parser


def _missing() -> list[str]:
    """Packages that the demo needs and that aren't there."""
    needed = {
        "growthnet_policies": "growthnet_policies",
        "matplotlib": "matplotlib",
        "sklearn": "scikit-learn",
    }
    return [needed[name] for name in needed if importlib.util.find_spec(name) is None]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command. **Arguments:** those of the command line, by default the
    process's. **Returns:** the exit status."""
    parser = _parser()
    parsed = parser.parse_args(arguments)
    return (_inspect if parsed.command == "inspect" else _demo)(parser, parsed)


def _inspect(parser: _Parser, parsed: argparse.Namespace) -> int:
    del parser
    from ._checkpoints.inspect import inspected

    try:
        text = inspected(parsed.path, record=parsed.json)
    except (growthnet.CheckpointError, OSError) as error:
        print(f"growthnet inspect: error: {error}", file=sys.stderr)
        return 1
    print(text)
    return 0


def _demo(parser: _Parser, parsed: argparse.Namespace) -> int:
    missing = _missing()
    if missing:
        print(
            f"growthnet demo: error: {' and '.join(missing)} not found; get what the "
            'demo needs by: pip install "growthnet[examples]"',
            file=sys.stderr,
        )
        return 1
    try:
        parsed.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        parser.error(f"argument --out: {error.strerror}: '{parsed.out}'")
    from ._demo import main as demo

    demo(parsed)
    return 0


if __name__ == "__main__":
    sys.exit(main())
