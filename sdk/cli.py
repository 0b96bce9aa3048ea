"""The command `emola`. Results go to stdout, everything else to stderr. Exit codes: 0 done, 1 failed, 2 wrong usage."""

import argparse
import errno
import importlib
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TextIO

from sdk.errors import QuestionWarning, SdkError, UsageError
from sdk.printable import printable
from sdk.streams import discard_stdout, prepare_streams


@dataclass(frozen=True)
class Command:
    """A subcommand: its module, its summary in one line, and the extra that installs its dependencies."""

    module: str
    summary: str
    extra: str | None = None


COMMANDS = {
    "demo": Command("sdk.commands.demo", "run the embedded model on a photograph and a rendered face", "cpu,faces"),
    "analyze": Command("sdk.commands.analyze", "explain the faces in photographs", "cpu,faces"),
    "batch": Command(
        "sdk.commands.batch", "explain the faces in many pictures and videos, on Ray too", "cpu,faces,batch"
    ),
    "video": Command("sdk.commands.video", "explain the faces in a video or from a camera", "cpu,faces,video"),
    "ask": Command("sdk.commands.ask", "ask a question of your own about a face", "cpu,faces"),
    "serve": Command("sdk.commands.serve", "answer over HTTP, with OpenAI's chat completions", "cpu,faces,serve"),
    "info": Command("sdk.commands.info", "describe a bundle: model, licence, intended use, measured figures"),
    "verify": Command("sdk.commands.verify", "check the hashes of a bundle and its parity with the torch model", "cpu"),
    "completion": Command("sdk.commands.completion", "print a script that completes command lines: bash, zsh, fish"),
    "doctor": Command("sdk.commands.doctor", "say what works on this machine, and how to mend what does not"),
    "bench": Command(
        "sdk.commands.bench", "time every stage and compare it with the limits of this machine", "cpu,faces"
    ),
    "rege": Command("sdk.commands.rege", "score predictions against annotations with REGE"),
    "pretrain": Command("trainer.commands.pretrain", "train a small base model on rendered faces", "train,synthetic"),
    "pretrain-detector": Command(
        "trainer.commands.pretrain_detector", "train a small face detector on rendered heads", "train,synthetic"
    ),
    "train": Command("trainer.commands.train", "fine-tune EmoLA with LoRA as in the paper", "train"),
    "evaluate": Command("trainer.commands.evaluate", "answer an evaluation set and score the answers", "train"),
    "push": Command(
        "trainer.commands.push", "upload a checkpoint or a bundle with a model card to the hub", "train,hub"
    ),
    "paper": Command(
        "trainer.commands.paper", "run the tables of the paper, beside the published figures", "train,faces,video,cpu"
    ),
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


_STATES_OF_THE_MACHINE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.EMFILE)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code."""
    prepare_streams()
    with _stopped_by_signals(), _warnings_in_lines():
        code = _run(list(sys.argv[1:] if argv is None else argv))
    try:
        sys.stdout.flush()
    except OSError as error:
        discard_stdout()
        is_closed = isinstance(error, BrokenPipeError)
        return code or (1 if is_closed else _fail(f"the results cannot be written: {error.strerror}; check the disk"))
    return code


class _Terminated(KeyboardInterrupt):
    """SIGTERM or SIGHUP: a command ends as after Ctrl-C, keeps its results so far and removes temporary files."""


@contextmanager
def _stopped_by_signals() -> Iterator[None]:
    def stop(*_: object) -> None:
        raise _Terminated

    names = [name for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]  # Windows has no SIGHUP
    signals = [getattr(signal, name) for name in names if threading.current_thread() is threading.main_thread()]
    changed = [number for number in signals if signal.getsignal(number) is signal.SIG_DFL]  # nohup ignores SIGHUP
    for number in changed:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number in changed:
            signal.signal(number, signal.SIG_DFL)


@contextmanager
def _warnings_in_lines() -> Iterator[None]:
    """Show a warning of this project as one line, without the line of code that Python adds."""
    show = warnings.showwarning

    def show_line(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        if issubclass(category, QuestionWarning):
            print(f"warning: {printable(str(message))}", file=sys.stderr)
        else:
            show(message, category, filename, lineno, file, line)

    warnings.showwarning = show_line
    try:
        yield
    finally:
        warnings.showwarning = show


def _run(arguments: list[str]) -> int:
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
    except _Terminated:
        return _fail("terminated", 143)
    except KeyboardInterrupt:
        return _fail("interrupted", 130)
    except BrokenPipeError:
        return 1
    except UsageError as error:
        return _fail(f"{error} (emola {name} --help)", 2)
    except SdkError as error:
        return _fail(str(error))
    except ModuleNotFoundError as error:
        missing = _missing(error)
        return _fail(f"{missing} is not installed; install it with: {_advice(missing, name)}")
    except Exception as error:
        if os.environ.get("EMOLA_DEBUG"):
            raise
        if isinstance(error, OSError) and error.errno in _STATES_OF_THE_MACHINE:
            return _fail(f"{error.filename or 'the results cannot be written'}: {error.strerror}; check the disk")
        return _fail(f"unexpected {type(error).__name__}: {error} (set EMOLA_DEBUG=1 for details; please report it)")


def _parser(name: str | None) -> argparse.ArgumentParser:
    """A parser with all subcommands; only the called one gets its arguments, because that imports its module."""
    from sdk import __version__

    parser = argparse.ArgumentParser(prog="emola", description="Explained facial affect on your own machine.")
    parser.epilog = "`emola COMMAND --help` explains the options of a command. `emola demo` is the place to start."
    parser.add_argument("--version", action="version", version=f"emola-edge {__version__}")
    subparsers = parser.add_subparsers(metavar="COMMAND", required=True)
    for command_name, command in COMMANDS.items():
        subparser = subparsers.add_parser(command_name, help=command.summary, description=command.summary)
        if command_name == name:
            module = importlib.import_module(command.module)
            module.add_arguments(subparser)
            subparser.set_defaults(run=module.run, parser=subparser, commands=COMMANDS)
    return parser


def _fail(message: str, code: int = 1) -> int:
    print(f"emola: error: {printable(message)}", file=sys.stderr)
    return code


def _advice(missing: str, name: str | None) -> str:
    """The command that installs a missing package: by the one extra of this command that has it, if there is one."""
    extra = COMMANDS[name].extra if name in COMMANDS else None
    with suppress(ModuleNotFoundError):  # packaging itself may be missing
        from sdk.extras import extra_with

        extra = extra_with(missing, (extra or "").split(",")) or extra
    return f"pip install 'emola-edge[{extra}]'" if extra else "pip install emola-edge"


def _missing(error: BaseException | None) -> str:
    """The package that is missing; transformers reports its own modules instead and names the package as the cause."""
    while error:
        if isinstance(error, ModuleNotFoundError) and error.name:
            return error.name
        error = error.__cause__ or error.__context__
    return "a package"
