"""`emola completion`: three real shells complete commands, options and choices from the printed script."""

import shutil
import subprocess
from contextlib import redirect_stdout
from functools import cache
from io import StringIO

import pytest

from sdk.cli import COMMANDS, main


@cache
def printed(shell):
    with redirect_stdout(StringIO()) as out:
        assert main(["completion", shell]) == 0
    return out.getvalue()


@pytest.fixture
def script(tmp_path):
    def write(shell):
        path = tmp_path / f"emola.{shell}"
        path.write_text(printed(shell))
        if not shutil.which(shell):
            pytest.skip(f"{shell} is not installed")
        return path

    return write


def run(*command):
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\n")


CASES = [
    ([""], set(COMMANDS)),
    (["an"], {"analyze"}),
    (["analyze", "--task", ""], {"emotion", "action_units", "labels"}),
    (["analyze", "--abst"], {"--abstain-below"}),
    (["data", ""], {"prepare", "landmarks", "check", "annotate", "revise", "synthesize", "stats"}),
    (["data", "prepare", "--fo"], {"--fold"}),
    (["data", "prepare", "--fold", ""], {"1", "2", "3"}),
]
IDS = [" ".join(words) or "nothing" for words, _ in CASES]


@pytest.mark.parametrize(("words", "expected"), CASES, ids=IDS)
def test_bash(script, words, expected):
    line = " ".join(f"'{word}'" for word in ["emola", *words])
    call = f"COMP_WORDS=({line}); COMP_CWORD={len(words)}; _emola; printf '%s\\n' ${{COMPREPLY[@]}}"
    code = f"source {script('bash')}; {call}"
    assert {*run("bash", "-c", code)} - {""} == expected


@pytest.mark.parametrize(("words", "expected"), CASES, ids=IDS)
def test_fish(script, words, expected):
    """Fish marks what it completes with a description after a tab."""
    line = " ".join(["emola", *words])
    found = {
        row.split("\t")[0] for row in run("fish", "--no-config", "-c", f"source {script('fish')}; complete -C '{line}'")
    }
    assert found - {""} == expected


@pytest.mark.parametrize(("words", "expected"), CASES, ids=IDS)
def test_zsh(script, words, expected, tmp_path):
    """In a terminal of its own, where a tab lists the words: what the completion adds is noted."""
    driver, found, end = (tmp_path / name for name in ("driver.zsh", "found", "end"))
    driver.write_text(
        f"autoload -Uz compinit && compinit -D -u -d {tmp_path}/dump\nsource {script('zsh')}\n"
        f'compadd() {{ local -a a; builtin compadd -A a "$@"; print -l -- $a >> {found}; builtin compadd "$@" }}\n'
        f"finish() {{ _main_complete; touch {end} }}\nzle -C noted list-choices finish\nbindkey '^I' noted\n"
    )
    code = [
        "zmodload zsh/zpty",
        "zpty z zsh -f -i",
        f"zpty -w z 'source {driver}'",
        f"zpty -w -n z '{' '.join(['emola', *words])}'$'\\t'",
        f"while zpty -t z && [[ ! -e {end} ]]; do sleep 0.1; done",
        "zpty -d z",
    ]
    run("zsh", "-f", "-c", "\n".join(code))
    assert expected <= set(found.read_text().splitlines())


def test_a_file_name_is_left_to_the_shell(script):
    code = f"source {script('bash')}; COMP_WORDS=(emola analyze ''); COMP_CWORD=2; _emola; echo ${{#COMPREPLY[@]}}"
    assert run("bash", "-c", code)[0] == "0"
