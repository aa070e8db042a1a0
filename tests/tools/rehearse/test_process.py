"""A stage is measured with its children, and its output says what the table and the last line show."""

import os
import sys

from tools.rehearse.process import run_measured

PARENT = """
import subprocess, sys, warnings
warnings.warn("one is old", FutureWarning)
print("50%\\r100%")
child = "held = bytearray(200 * 2**20); import time; time.sleep(2)"
subprocess.run([sys.executable, "-c", child], check=True)
"""
FAILING = "print('loading'); print('error: row 7 is wrong'); import sys; sys.exit(3)"


def test_children_and_warnings_are_counted(tmp_path):
    measured = run_measured([sys.executable, "-c", PARENT], tmp_path, tmp_path / "log.txt", os.environ)
    assert measured.status == 0 and measured.seconds > 2 and measured.cpu_seconds > 0
    assert 200 * 2**20 < measured.peak_bytes < measured.peak_bytes_together < 600 * 2**20
    assert len(measured.warnings) == 1 and "FutureWarning: one is old" in measured.warnings[0]


def test_an_error_is_the_line_that_names_it(tmp_path):
    measured = run_measured([sys.executable, "-c", FAILING], tmp_path, tmp_path / "log.txt", os.environ)
    assert measured.status == 3 and measured.errors == ["error: row 7 is wrong"]
    raised = run_measured([sys.executable, "-c", "{}['a']"], tmp_path, tmp_path / "log.txt", os.environ)
    assert raised.status == 1 and raised.errors == ["KeyError: 'a'"]
