"""The command `emola`. Results go to stdout, everything else to stderr. Exit codes: 0 done, 1 failed, 2 wrong usage."""

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from sdk.errors import SdkError, UsageError


@dataclass(frozen=True)
class Command:
    """A subcommand: its module, its summary in one line, and the extra that installs its dependencies."""

    module: str
    summary: str
    extra: str | None = None


COMMANDS = {
    "demo": Command("sdk.commands.demo", "run the embedded model on a photograph and a rendered face", "cpu,faces"),
    "analyze": Command("sdk.commands.analyze", "explain the faces in photographs", "cpu,faces"),
    "video": Command("sdk.commands.video", "explain the faces in a video or from a camera", "cpu,faces,video"),
    "info": Command("sdk.commands.info", "describe a bundle: model, licence, intended use, measured figures"),
    "verify": Command("sdk.commands.verify", "check the hashes of a bundle and its parity with the torch model", "cpu"),
    "bench": Command(
        "sdk.commands.bench", "time every stage and compare it with the limits of this machine", "cpu,faces"
    ),
    "rege": Command("sdk.commands.rege", "score predictions against annotations with REGE"),
    "pretrain": Command("trainer.commands.pretrain", "train a small base model on rendered faces", "train,synthetic"),
    "train": Command("trainer.commands.train", "fine-tune EmoLA with LoRA as in the paper", "train"),
    "evaluate": Command("trainer.commands.evaluate", "answer an evaluation set and score the answers", "train"),
    "data": Command(
        "trainer.commands.data", "make, check and describe training sets", "train,synthetic,faces,video,cpu"
    ),
    "export": Command("export.commands.export", "turn a checkpoint into a bundle", "export"),
    "plan": Command("export.commands.plan", "estimate memory and speed on a target machine"),
    "check": Command(
        "export.commands.check", "check a bundle on the machine that will run it: parity, REGE, latency", "cpu"
    ),
    "engines": Command(
        "export.commands.engines", "build the TensorRT engines of a bundle on the target machine", "tensorrt"
    ),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    name = next((word for word in arguments if not word.startswith("-")), None)
    try:
        parser = _parser(name)
        if not arguments:
            parser.print_help(sys.stderr)
            return 2
        args, unknown = parser.parse_known_args(arguments)
        if unknown:  # the command's own parser prints the command's usage
            args.parser.error(f"unrecognized arguments: {' '.join(unknown)}")
        args.run(args)
        return 0
    except SystemExit as stop:
        return int(stop.code or 0)
    except KeyboardInterrupt:
        return _fail("interrupted", 130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except UsageError as error:
        return _fail(f"{error} (emola {name} --help)", 2)
    except SdkError as error:
        return _fail(str(error))
    except ModuleNotFoundError as error:
        extra = COMMANDS[name].extra if name in COMMANDS else None
        package = f"'emola-edge[{extra}]'" if extra else "emola-edge"
        return _fail(f"{_missing(error)} is not installed; install it with: pip install {package}")
    except Exception as error:
        if os.environ.get("EMOLA_DEBUG"):
            raise
        return _fail(f"unexpected {type(error).__name__}: {error} (set EMOLA_DEBUG=1 for details; please report it)")


def _parser(name: str | None) -> argparse.ArgumentParser:
    """A parser with all subcommands; only the called one gets its arguments, because that imports its module."""
    from sdk import __version__

    parser = argparse.ArgumentParser(prog="emola", description="Explained facial affect on your own machine.")
    parser.add_argument("--version", action="version", version=f"emola-edge {__version__}")
    subparsers = parser.add_subparsers(metavar="COMMAND", required=True)
    for command_name, command in COMMANDS.items():
        subparser = subparsers.add_parser(command_name, help=command.summary, description=command.summary)
        if command_name == name:
            module = importlib.import_module(command.module)
            module.add_arguments(subparser)
            subparser.set_defaults(run=module.run, parser=subparser)
    return parser


def _fail(message: str, code: int = 1) -> int:
    print(f"emola: error: {message}", file=sys.stderr)
    return code


def _missing(error: BaseException | None) -> str:
    """The package that is missing; transformers reports its own modules instead and names the package as the cause."""
    while error:
        if isinstance(error, ModuleNotFoundError) and error.name:
            return error.name
        error = error.__cause__ or error.__context__
    return "a package"
