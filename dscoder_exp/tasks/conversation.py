"""predict.interactive: a conversation in the terminal, or with prompts from a pipe, a line each."""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from dscoder_exp.console import Screen
from dscoder_exp.data.chat_template import TemplateFailed
from dscoder_exp.generation.answers import Answer
from dscoder_exp.generation.chat import Chat

PROMPT = "> "
BLOCK = '"""'  # around a prompt of several lines, as in ollama
HELP = f"/reset begins anew, /save FILE writes the conversation, /quit leaves; {BLOCK} around a prompt of several lines"
HINT = "Ctrl-C stops an answer; /quit, or Ctrl-D, leaves"


def converse(chat: Chat, screen: Screen) -> list[tuple[str, Answer]]:
    """Answer prompts until /quit or the end of stdin; returns each prompt with its answer."""
    terminal = _Terminal(screen)
    screen.remark(HELP)
    turns: list[tuple[str, Answer]] = []
    with terminal.interrupts():
        for line in terminal.prompts():
            name, _, rest = line.strip().partition(" ")
            if name == "/quit":
                break
            if name == "/reset":
                chat.messages = []
                screen.remark("a new conversation")
            elif name == "/save":
                _save(chat, rest.strip(), screen)
            elif name.startswith("/") and name[1:].isalpha():
                screen.remark(f"no such command: {name}; {HELP}")
            else:
                turns += _turn(chat, line, terminal, screen)
            if not screen.is_read:
                break
    return turns


def _turn(chat: Chat, prompt: str, terminal: "_Terminal", screen: Screen) -> list[tuple[str, Answer]]:
    terminal.stopped = False
    try:
        answer = chat.ask(prompt, screen.write, lambda: terminal.stopped or not screen.is_read)
    except (TemplateFailed, ValueError) as error:
        screen.remark(str(error))
        return []
    screen.print("\n" if not terminal.is_terminal else "")
    if terminal.stopped:
        screen.remark("stopped")
    return [(prompt, answer)]


def _save(chat: Chat, path: str, screen: Screen) -> None:
    if not path or not chat.messages:
        screen.remark("/save FILE" if chat.messages else "nothing to write yet")
        return
    file = Path(path).expanduser()
    try:
        chat.save(file)
        screen.remark(f"written: {file}")
    except OSError as error:
        screen.remark(f"{file} can't be written: {error.strerror}")


class _Terminal:
    """Where prompts come from. What stands in a pipe is echoed, so that the output reads like a conversation.

    Attributes:
        stopped: Ctrl-C was pressed outside of a prompt.
    """

    def __init__(self, screen: Screen) -> None:
        self._screen = screen
        self.stopped = False
        self._reading = False
        self.is_terminal = sys.stdin is not None and sys.stdin.isatty()
        if sys.stdin is not None:
            sys.stdin.reconfigure(errors="replace")  # type: ignore[union-attr]
        if self.is_terminal:
            with suppress(ImportError):
                import readline  # noqa: F401  # input() then has a history, and keys that edit the line

    def prompts(self) -> Iterator[str]:
        """The prompts and commands, without blank ones."""
        while (line := self._line(PROMPT)) is not None:
            if line.startswith(BLOCK):
                line = self._block(line.removeprefix(BLOCK))
            if line.strip():
                yield line

    def _block(self, text: str) -> str:
        while not text.rstrip().endswith(BLOCK) and (line := self._line("")) is not None:
            text += f"\n{line}"
        return text.rstrip().removesuffix(BLOCK).strip("\n")

    def _line(self, prompt: str) -> str | None:
        """The next line; None at the end."""
        while True:
            try:
                self._reading = True
                return input(prompt) if self.is_terminal else self._piped_line(prompt)
            except EOFError:
                return None
            except KeyboardInterrupt:
                if not self.is_terminal:
                    raise
                self._screen.print()
                self._screen.remark(HINT)
            finally:
                self._reading = False

    def _piped_line(self, prompt: str) -> str:
        if sys.stdin is None or not (line := sys.stdin.readline()):
            raise EOFError
        line = line.rstrip("\r\n").removeprefix("\ufeff")
        self._screen.print(f"{prompt}{line}")
        return line

    @contextmanager
    def interrupts(self) -> Iterator[None]:
        """Within, Ctrl-C raises KeyboardInterrupt while a prompt is read, and elsewhere only sets `stopped`: an
        exception in the middle of a computation would leave a cache half written.
        """
        before = signal.getsignal(signal.SIGINT)

        def receive(_number: int, _frame: Any) -> None:
            if self._reading:
                self._reading = False  # a second one must not interrupt what the first one's handling prints
                raise KeyboardInterrupt
            self.stopped = True

        signal.signal(signal.SIGINT, receive)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)
