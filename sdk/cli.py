"""The command `emola`. Results go to stdout, everything else to stderr; exit 0 done, 1 failed, 2 wrong usage."""

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from sdk.errors import SdkError, UsageError


@dataclass(frozen=True)
class Command:
    """A subcommand: the module that has it, one line about it, and the extra that brings what it needs."""

    module: str
    summary: str
    extra: str | None = None


COMMANDS = {
    "demo": Command("sdk.commands.demo", "the embedded model on a photograph and a rendered face", "cpu,faces"),
    "analyze": Command("sdk.commands.analyze", "explain the faces of photographs", "cpu,faces"),
    "video": Command("sdk.commands.video", "explain the faces of a video or a camera", "cpu,faces,video"),
    "info": Command("sdk.commands.info", "show what a bundle is: model, licence, intended use, figures"),
    "verify": Command("sdk.commands.verify", "check a bundle: hashes, and parity with the torch model here", "cpu"),
    "bench": Command("sdk.commands.bench", "time every stage here, against this machine's ceilings", "cpu,faces"),
    "rege": Command("sdk.commands.rege", "score predictions against annotations with REGE"),
    "pretrain": Command("trainer.commands.pretrain", "make a small base model from rendered faces", "train,synthetic"),
    "train": Command("trainer.commands.train", "fine-tune EmoLA with LoRA as in the paper", "train"),
    "evaluate": Command("trainer.commands.evaluate", "answer and score an evaluation set", "train"),
    "data": Command(
        "trainer.commands.data", "make, check and describe training sets", "train,synthetic,faces,video,cpu"
    ),
    "export": Command("export.commands.export", "turn a checkpoint into a bundle", "export"),
    "plan": Command("export.commands.plan", "does it fit a machine, and how fast will it be? On paper, before you buy"),
    "engines": Command("export.commands.engines", "build TensorRT engines of a bundle on the target", "tensorrt"),
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
        if unknown:  # the parser of the command knows its options, the main one would list the commands
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
        return _fail(f"{error.name} is not installed; install it with: pip install {package}")
    except Exception as error:
        if os.environ.get("EMOLA_DEBUG"):
            raise
        return _fail(f"unexpected {type(error).__name__}: {error} (EMOLA_DEBUG=1 shows where; please report it)")


def _parser(name: str | None) -> argparse.ArgumentParser:
    """A parser that knows every subcommand by name, and the arguments of the one that is called."""
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
