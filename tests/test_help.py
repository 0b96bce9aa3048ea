"""`--help` of every command explains every option, with its default."""

import argparse
import importlib

import pytest

from sdk.cli import COMMANDS


def parsers(name, parser):
    """A parser and those of its actions, by their command lines."""
    yield name, parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for inner, subparser in action.choices.items():
                yield from parsers(f"{name} {inner}", subparser)


@pytest.fixture(scope="module", params=COMMANDS)
def options(request):
    """The options of a command, each with the command line that has it."""
    parser = argparse.ArgumentParser()
    importlib.import_module(COMMANDS[request.param].module).add_arguments(parser)
    return [
        (f"emola {name} {'/'.join(action.option_strings) or action.dest}", action, inner)
        for name, inner in parsers(request.param, parser)
        for action in inner._actions
        if not isinstance(action, (argparse._HelpAction, argparse._SubParsersAction))
    ]


def test_every_option_is_explained(options):
    assert not [line for line, action, _ in options if len((action.help or "").split()) < 2]


def test_every_default_is_shown(options):
    """In words, or as the value; a flag that is off and an option that is left out have none."""
    hidden = []
    for line, action, parser in options:
        default, text = action.default, parser._get_formatter()._expand_help(action)
        if default not in (None, False, "", []) and not isinstance(default, tuple):
            shown = f"{default:g}" if isinstance(default, float) else str(default)
            if "default" not in text and shown not in text:
                hidden.append(line)
    assert not hidden
