"""A conversation of many turns, whose key/value cache is kept: only what a turn adds is prefilled."""

import json
from collections.abc import Callable
from pathlib import Path

from dscoder_exp.data.prompt_format import PromptFormat
from dscoder_exp.data.requests import too_long
from dscoder_exp.data.rows import Message
from dscoder_exp.generation.answers import Answer, Answering
from dscoder_exp.generation.batching import Batch
from dscoder_exp.storage.atomic_file import atomic_file


class Chat:
    """
    Attributes:
        messages: of both sides so far.
    """

    def __init__(self, batch: Batch, prompt_format: PromptFormat, answering: Answering) -> None:
        """
        Args:
            batch: of one slot, that keeps answers.
        """
        self._batch, self._format, self._answering = batch, prompt_format, answering
        self.messages: list[Message] = []

    def ask(self, text: str, on_text: Callable[[str], None], stop: Callable[[], bool] = lambda: False) -> Answer:
        """Ask, and add the question and its answer to `messages`; nothing, if there is no answer.

        Args:
            stop: asked after each token, whether the answer should end here.

        Raises:
            TemplateFailed: the template doesn't take the conversation.
            ValueError: the conversation fills the model's context.
        """
        asked = [*self.messages, Message("user", text)]
        ids = self._format.prompt(asked)
        if (problem := too_long(len(ids), self._answering.context)) is not None:
            if self.messages:
                problem = f"the conversation's {len(ids)} tokens fill the model's context; /reset begins a new one"
            raise ValueError(problem)
        answer = self._answering.answer(ids, on_text=on_text)
        for _ in self._batch.run([answer]):
            if stop():
                break
        if not answer.finish_reason:
            answer.stop()
        if answer.text:
            self.messages = [*asked, Message("assistant", answer.text)]
        return answer

    def save(self, path: Path) -> None:
        """Write the conversation as a row that training and predict.input read, under a temporary name first.

        Raises:
            OSError: it exists already, or can't be written.
        """
        if path.exists():
            raise FileExistsError(17, "it exists already", str(path))
        row = {"messages": [message.as_dict() for message in self.messages]}
        with atomic_file(path) as unfinished:
            unfinished.write_text(f"{json.dumps(row, ensure_ascii=False)}\n", "utf-8")
