"""`emola completion bash|zsh|fish`: print a script that completes commands, options and their choices."""

import argparse
import importlib
import shlex
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Option:
    """An option, or the values of a positional argument.

    Attributes:
        flags: e.g. ("-n", "--calibration-records"); empty for a positional argument.
        summary: its help.
        choices: the values that it takes; empty if they are free.
        takes_value: a value follows the flag.
    """

    flags: tuple[str, ...]
    summary: str
    choices: tuple[str, ...]
    takes_value: bool


Summaries = Mapping[str, str]  # of the commands, by their names
Options = dict[str, list[Option]]  # of a command by its name, and of an action of a command as "data check"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", choices=tuple(_SCRIPTS), help="the shell that the script is for")
    parser.epilog = 'bash: add `eval "$(emola completion bash)"` to ~/.bashrc; the page quick-start names the others.'


def run(args: argparse.Namespace) -> None:
    summaries = {name: command.summary for name, command in args.commands.items()}
    print("\n".join(_SCRIPTS[args.shell](summaries, _options(args.commands))))


def _bash(summaries: Summaries, options: Options) -> Iterator[str]:
    words, values = {" ": " ".join(summaries), " -": "--help --version"}, dict[str, str]()
    for name, listed in options.items():
        words[f"{name} "] = " ".join(choice for option in listed if not option.flags for choice in option.choices)
        words[f"{name} -"] = " ".join(flag for option in listed for flag in option.flags)
        valued = ((flag, option) for option in listed if option.takes_value for flag in option.flags)
        values |= {f"{name} {flag}": " ".join(option.choices) for flag, option in valued}
    yield "_emola() {"
    yield "  local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} name= words="
    yield "  ((COMP_CWORD > 1)) && name=${COMP_WORDS[1]}"
    yield f'  case $name in {_groups(options)}) ((COMP_CWORD > 2)) && name="$name ${{COMP_WORDS[2]}}" ;; esac'
    yield '  case "$name $prev" in'
    yield from (f"    {shlex.quote(key)}) words={shlex.quote(found)} ;;" for key, found in values.items())
    yield "    *) [[ $cur == -* ]] && prev=- || prev="
    yield '      case "$name $prev" in'
    yield from (f"      {shlex.quote(key)}) words={shlex.quote(found)} ;;" for key, found in words.items())
    yield "    esac ;;"
    yield "  esac"
    yield '  COMPREPLY=($(compgen -W "$words" -- "$cur"))'
    yield "}"
    yield "complete -o default -F _emola emola"


def _zsh(summaries: Summaries, options: Options) -> Iterator[str]:
    yield "#compdef emola"
    yield "_emola() {"
    yield "  local name=$words[2]"
    yield f'  case $name in {_groups(options)}) ((CURRENT > 3)) && name="$name $words[3]" ;; esac'
    yield "  if ((CURRENT == 2)); then"
    yield from _described("command", summaries, "    ")
    yield "    return"
    yield "  fi"
    yield "  case $name in"
    for name, listed in options.items():
        yield f"    {shlex.quote(name)})"
        yield f"      _arguments -s {' '.join(map(shlex.quote, _arguments(listed)))} ;;"
    yield "  esac"
    yield "}"
    yield 'if [[ $funcstack[1] == _emola ]]; then _emola "$@"; else compdef _emola emola; fi'


def _fish(summaries: Summaries, options: Options) -> Iterator[str]:
    for name, summary in summaries.items():
        yield f"complete -c emola -n __fish_use_subcommand -f -a {name} -d {_quoted_for_fish(summary)}"
    for name, listed in options.items():
        inside = " ".join(f"; and __fish_seen_subcommand_from {word}" for word in name.split()).removeprefix("; and ")
        for option in listed:
            yield " ".join(["complete -c emola -n", _quoted_for_fish(inside), *_fish_words(option)])


def _fish_words(option: Option) -> Iterator[str]:
    for flag in option.flags:
        yield f"-l {flag[2:]}" if flag.startswith("--") else f"-s {flag[1:]}"
    if option.choices:
        yield f"{'-x ' if option.takes_value else ''}-a {_quoted_for_fish(' '.join(option.choices))}"
    elif option.takes_value:
        yield "-r"
    yield f"-d {_quoted_for_fish(option.summary)}"


def _quoted_for_fish(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def _groups(options: Options) -> str:
    """The commands that have actions, as a pattern of the shells."""
    return "|".join(dict.fromkeys(name.split()[0] for name in options if " " in name))


def _described(what: str, summaries: Mapping[str, str], indent: str) -> Iterator[str]:
    pairs = (shlex.quote(f"{name}:{summary.replace(':', chr(92) + ':')}") for name, summary in summaries.items())
    yield f"{indent}local -a found=({' '.join(pairs)})"
    yield f"{indent}_describe {what} found"


def _arguments(options: list[Option]) -> Iterator[str]:
    """The specifications of `_arguments`: the command itself is a word of the line, so a rule skips it."""
    yield "1: :"
    for option in options:
        values = f"({' '.join(option.choices)})" if option.choices else "_files"
        if not option.flags:
            yield f"*: :{values}"
            continue
        summary = "".join(f"\\{letter}" if letter in "[]:\\" else letter for letter in option.summary)
        for flag in option.flags:
            yield f"*{flag}[{summary}]" + (f": :{values}" if option.takes_value else "")
    if all(option.flags for option in options):
        yield "*: :_files"


def _options(commands: Mapping[str, Any]) -> Options:
    found: Options = {}
    for name, command in commands.items():
        parser = argparse.ArgumentParser()
        with suppress(ModuleNotFoundError):  # a command whose extra is missing is completed without its options
            importlib.import_module(command.module).add_arguments(parser)
        found |= _of_parser(name, parser)
    return found


def _of_parser(name: str, parser: argparse.ArgumentParser) -> Options:
    found: Options = {name: []}
    for action in parser._actions:  # argparse has no public way to list them
        summary = (action.help or "") % {**vars(action), "prog": "emola"}
        if isinstance(action, argparse._SubParsersAction):
            summary = ""
            for inner, subparser in action.choices.items():
                found |= _of_parser(f"{name} {inner}", subparser)
        choices = tuple(map(str, action.choices or ()))
        if action.option_strings or choices:
            found[name].append(Option(tuple(action.option_strings), summary, choices, action.nargs != 0))
    return found


_SCRIPTS = {"bash": _bash, "zsh": _zsh, "fish": _fish}
