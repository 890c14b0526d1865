"""predict.interactive: a transcript from a pipe; in a terminal Ctrl-C stops an answer, not the program."""

import json
import os
import pty
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from predict_support import Predict, read
from tasks_support import Workspace

BRIEF = "predict.max_new_tokens=6"


def test_a_conversation_from_a_pipe(predict: Predict) -> None:
    """It reads like one in a terminal, without control codes, and each answer is what the messages so far get."""
    asked = "hello\n\nand then?\n/save c.jsonl\n/reset\nhello\n"
    code, out, err = predict("predict.interactive=true", BRIEF, stdin=asked.encode())
    assert code == 0, err
    first = predict("predict.prompt=hello", BRIEF)[1].removesuffix("\n")
    (saved,) = read(Path("c.jsonl"))
    second = saved["messages"][-1]["content"]
    assert out == (f"> hello\n{first}\n\n> \n> and then?\n{second}\n\n> /save c.jsonl\n> /reset\n> hello\n{first}\n\n")
    assert "\x1b" not in out + err
    assert [message["role"] for message in saved["messages"]] == ["user", "assistant"] * 2
    Path("p.jsonl").write_text(json.dumps({"messages": saved["messages"][:-1]}))
    assert predict.answered(BRIEF)[0]["text"] == second


def test_commands(predict: Predict) -> None:
    Path("there").write_text("mine")
    asked = '/what\n/save x\n"""two\nlines"""\n/save\n/save there\n/save no/such/place\n /save c\n/quit\nnever read\n'
    code, out, err = predict("predict.interactive=true", BRIEF, stdin=asked.encode())
    assert code == 0, err
    assert "no such command: /what; /reset begins anew" in err
    assert "nothing to write yet" in err
    assert "\n/save FILE\n" in err
    assert "there can't be written: it exists already" in err
    assert "no/such/place can't be written: No such file or directory" in err
    assert "written: c" in err
    assert Path("there").read_text() == "mine"
    assert read(Path("c"))[0]["messages"][0]["content"] == "two\nlines"
    assert "never read" not in out


def test_a_full_context_ends_no_conversation(predict: Predict) -> None:
    context = "model.max_position_embeddings=24"
    code, out, err = predict(
        "predict.interactive=true", BRIEF, context, stdin=b"hello\n" + b"word " * 40 + b"\n/quit\n"
    )
    assert code == 0, err
    assert "tokens fill the model's context; /reset begins a new one" in err
    assert out.endswith("> /quit\n")


def test_stdin_that_isnt_utf8(predict: Predict) -> None:
    code, out, err = predict("predict.interactive=true", BRIEF, stdin=b"a\xe9\n")
    assert code == 0, err
    assert out.startswith("> a\ufffd\n")


@pytest.mark.slow
def test_ctrl_c_in_a_terminal_stops_the_answer(workspace: Workspace) -> None:
    """And at the prompt it leaves a hint; /quit leaves."""
    main, terminal = pty.openpty()
    asked = ["task=predict", "model=tiny", "tracking=off", "predict.interactive=true", "predict.max_new_tokens=3500"]
    home = {"HOME": str(workspace.home), "XDG_CACHE_HOME": str(workspace.home / "cache"), "TERM": "dumb"}
    process = subprocess.Popen(
        [sys.executable, "-m", "dscoder_exp", *asked],
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        cwd=workspace.directory,
        env=os.environ | home,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        start_new_session=True,
    )
    os.close(terminal)
    shown = ""

    def until(text: str, after: int = 0) -> int:
        """Read until `text` is shown after the first `after` characters; returns where it ends."""
        nonlocal shown
        while (found := shown.find(text, after)) < 0:
            assert select.select([main], [], [], 120)[0], shown
            shown += os.read(main, 4096).decode(errors="replace")
        return found + len(text)

    try:
        at = until("> ", until("/reset begins anew"))
        os.write(main, b"hello\n")
        at = until("hello\r\n", at)
        while len(shown) < at + 100:
            assert select.select([main], [], [], 120)[0], shown
            shown += os.read(main, 4096).decode(errors="replace")
        process.send_signal(signal.SIGINT)
        at = until("> ", until("stopped\r\n", at))
        hint = "Ctrl-C stops an answer; /quit, or Ctrl-D, leaves"
        while hint not in shown[at:]:  # a Ctrl-C between the prompt's print and readline's select() waits for a key
            process.send_signal(signal.SIGINT)
            if select.select([main], [], [], 1)[0]:
                shown += os.read(main, 4096).decode(errors="replace")
        until("> ", until(hint, at))
        os.write(main, b"/quit\n")
        assert process.wait(60) == 0
    finally:
        process.kill()
        os.close(main)
