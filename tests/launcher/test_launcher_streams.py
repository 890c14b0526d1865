"""Standard streams that are closed, lose their reader, lack characters or are full."""

import os
import subprocess
import sys
from pathlib import Path

PROTECTED = "import os, sys\nfrom msrun_launcher.streams import protect\nprotect()\nprotect()\n"


def run(code: str, redirection: str = "", **environment: str) -> subprocess.CompletedProcess[bytes]:
    """What a protected Python prints, started by a shell."""
    command = [sys.executable, "-c", PROTECTED + code]
    line = f'"$@" {redirection}'
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", line, "bash", *command], capture_output=True, env=os.environ | environment
    )


def test_a_reader_that_leaves_ends_nothing() -> None:
    code = "for n in range(100_000): print(n)\nsys.stdout.flush()\nos.system('echo more')\n"
    code += "print(sys.stdout.reader_left, file=sys.stderr)"
    ended = run(code, "| head -1")
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, b"0\n", b"True\n")


def test_what_is_left_in_the_buffer_at_the_end_is_dropped_silently() -> None:
    ended = run("print('x' * 100)", "| true")
    assert (ended.returncode, ended.stderr) == (0, b"")


def test_what_is_printed_to_a_closed_stream_is_not_written_into_a_file(tmp_path: Path) -> None:
    file = tmp_path / "file"
    code = f"file = open({str(file)!r}, 'w')\nprint('a')\nos.system('echo b')\nfile.write('whole')\nfile.close()"
    for closed in (">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"):
        ended = run(code, closed)
        assert (ended.returncode, ended.stderr, file.read_text()) == (0, b"", "whole")


def test_characters_that_the_encoding_lacks_are_replaced() -> None:
    ended = run(r"print('数据 \udcff é')", PYTHONIOENCODING="latin-1")
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "?? ? é\n".encode("latin-1"), b"")
    assert run(r"print('数据\udcff')", PYTHONIOENCODING="utf-8:strict").stdout == "数据?\n".encode()
    assert run(r"print('é')", PYTHONIOENCODING="ascii:xmlcharrefreplace").stdout == b"&#233;\n"  # the user's own choice


def test_a_full_disk_is_told_once() -> None:
    code = "try:\n    print('x' * 10_000_000)\nexcept OSError as error:\n    print(error, file=sys.stderr)"
    ended = run(code, ">/dev/full")
    assert (ended.returncode, ended.stderr) == (0, b"[Errno 28] No space left on device: '<stdout>'\n")
