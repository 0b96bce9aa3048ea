"""Bars are drawn on a terminal only; what is piped gets lines, or nothing."""

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios

import pytest

LINES = """
from sdk.progress import Console, Step
with Console() as report:
    report("merge ...")
    for done in (1, 2, 3):
        report(Step(f"  weights: {25 * done} %", done, 4, "weights"))
    report("sealed")
"""
BAR = """
from sdk.progress import progress_bar
import time
with progress_bar("face") as progress:
    for done in range(3):
        time.sleep(0.6)
        progress(done, 3)
"""


def piped(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == ""
    return done.stderr


def on_a_terminal(code):
    """What a terminal gets from stderr."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", 24, 80, 0, 0))
    process = subprocess.Popen([sys.executable, "-c", code], stderr=theirs)
    os.close(theirs)
    found = b""
    while True:
        try:
            piece = os.read(ours, 4096)
        except OSError:  # the process ended
            break
        found += piece
    os.close(ours)
    assert process.wait() == 0
    return found.decode()


def test_a_long_command_prints_lines_into_a_pipe():
    lines = ["merge ...", *(f"  weights: {25 * done} %" for done in (1, 2, 3)), "sealed"]
    assert piped(LINES).splitlines() == lines


def test_a_long_command_moves_a_bar_on_a_terminal():
    shown = on_a_terminal(LINES)
    assert "weights:  75%" in shown
    assert "3/4" in shown
    assert "0/4" not in shown, "one bar moves, so that it knows the speed; none begins again"
    assert "25 %" not in shown, "the bar stands in place of the lines"
    assert shown.endswith("sealed\r\n"), "the bar is removed before the next line"


@pytest.mark.parametrize("stream", ["piped", "terminal"])
def test_a_bar(stream):
    if stream == "piped":
        assert piped(BAR) == ""
    else:
        assert "face/s" in on_a_terminal(BAR)
