"""What task=predict is asked: one prompt, a middle to fill in, or a file of prompts, as token ids."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dscoder_exp.data.chat_template import TemplateFailed
from dscoder_exp.data.file_kinds import BOM
from dscoder_exp.data.infill import infill_prompt
from dscoder_exp.data.json_rows import Fault, json_type, parse_lines
from dscoder_exp.data.messages import BadRow
from dscoder_exp.data.prompt_format import PromptFormat, RenderedText
from dscoder_exp.data.row_kinds import ALPACA, CHAT, PAIRS, kind_of
from dscoder_exp.data.rows import Conversation, Message
from dscoder_exp.schema.config import PredictConfig
from dscoder_exp.schema.errors import Problem, Refused, refuse

if TYPE_CHECKING:
    from tokenizers import Tokenizer

KEY = "predict.input"
JSON_LINES, TEXT_LINES = (".jsonl", ".ndjson"), (".txt",)
MAX_PROBLEMS = 3  # bad rows that a message lists
EMPTY = "the prompt is empty"
ANSWER_FIELDS = ("text", "tokens", "prompt_tokens", "finish_reason", "seconds", "sample")  # in a file of answers
ANSWERS = {PAIRS: "response", ALPACA: "output"}  # the key of a row's own answer, which isn't read
SHAPE = 'a row is {"prompt": text} or {"messages": [{"role": "user", "content": text}, …]}'
SKIP = "predict.skip_bad=true leaves bad rows out"


@dataclass(frozen=True)
class PromptRow:
    """A prompt.

    Attributes:
        fields: the row of the file, or {"prompt": text}.
        ids: int32, at least one; shorter than the model's context.
    """

    fields: dict[str, Any]
    ids: NDArray[np.int32]


@dataclass(frozen=True)
class Requests:
    """
    Attributes:
        faults: rows that were left out: where, and why.
        ends: tokens that end an answer besides the model's and the prompt format's.
    """

    rows: list[PromptRow]
    faults: list[Problem] = field(default_factory=list)
    ends: frozenset[int] = frozenset()


def read_requests(
    predict: PredictConfig, prompt_format: PromptFormat, tokenizer: "Tokenizer", context: int
) -> Requests:
    """The prompts of the configuration; of a conversation none.

    Args:
        context: the model's, in tokens.

    Raises:
        Refused: the file can't be read, rows of it are bad, a prompt leaves no room in the context, or the tokenizer
            has no tokens for a middle.
    """
    if predict.interactive:
        return Requests([])
    if predict.input is not None:
        return _read_file(Path(predict.input), prompt_format, context, skip_bad=predict.skip_bad)
    if predict.prompt is not None:
        ids, ends, where, fields = prompt_format.request(predict.prompt), set(), "predict.prompt", ["prompt"]
    else:
        where, fields = "predict.prefix", ["prefix", "suffix"]
        ids, ends = infill_prompt(prompt_format, tokenizer, predict.prefix or "", predict.suffix or "", where)
    if not ids:  # a tokenizer may have no tokens for some characters
        raise refuse(where, EMPTY, f'{where}="…"')
    if (problem := too_long(len(ids), context)) is not None:
        raise refuse(where, problem, "give a shorter prompt")
    row = PromptRow({name: getattr(predict, name) for name in fields}, np.array(ids, np.int32))
    return Requests([row], ends=frozenset(ends))


def check_requests(predict: PredictConfig, prompt_format: PromptFormat, tokenizer: "Tokenizer", context: int) -> None:
    """Raise what read_requests raises, in a tenth of its time for a large file whose rows are good.

    Of rows with the same roles one is rendered, and rows are encoded only if they may be too long. A row that the
    template refuses for what its messages say is found by read_requests.
    """
    if predict.input is None or not _looks_good(Path(predict.input), prompt_format, context):
        read_requests(predict, prompt_format, tokenizer, context)


def _looks_good(path: Path, prompt_format: PromptFormat, context: int) -> bool:
    """Whether all rows are prompts, none of them too long, and there are any."""
    around: dict[tuple[str, ...], int] = {}  # bytes that the prompt format adds, by the messages' roles
    found = False
    for _, entry in _entries(path):
        found = True
        try:
            messages, tools = _asked(entry)
            roles = tuple(message.role for message in messages)
            size = sum(_bytes(f"{message.content}{message.input}{message.extra}") for message in messages)
            if roles not in around or tools:
                rendered = prompt_format.rendered_prompt(messages, tools)
                around[roles] = _bytes(rendered.text) - size
                prompt_format.encode([rendered])  # refuses the format's tokens that the model has no embedding for
            # A token is at least a byte of the text.
            if size + around[roles] >= context and too_long(len(prompt_format.prompt(messages, tools)), context):
                return False
        except (BadRow, TemplateFailed):
            return False
    return found


def _bytes(text: str) -> int:
    return len(text.encode(errors="surrogatepass"))


def too_long(tokens: int, context: int) -> str | None:
    """Why a prompt of so many tokens can't be answered; None if it can."""
    if tokens < context:
        return None
    return f"the prompt's {tokens} tokens leave no room for an answer in the model's context of {context}"


def _read_file(path: Path, prompt_format: PromptFormat, context: int, *, skip_bad: bool) -> Requests:
    lines, entries, rendered, faults = [], [], [], []
    count = 0
    for line, entry in _entries(path):
        count += 1
        try:
            rendered.append(_rendered(entry, prompt_format))
        except (BadRow, TemplateFailed) as error:
            column = f":{entry.column}" if isinstance(entry, Fault) and entry.column else ""
            faults.append((line, Problem(f"{path}:{line}{column}", str(error))))
        else:
            lines.append(line)
            entries.append(entry)
    rows = []
    for line, entry, encoding in zip(lines, entries, prompt_format.encode(rendered), strict=True):
        ids = np.array(encoding.ids, np.int32)
        if (why := too_long(len(ids), context) if len(ids) else EMPTY) is not None:
            faults.append((line, Problem(f"{path}:{line}", why)))
        else:
            rows.append(PromptRow(entry, ids))
    found = [problem for _, problem in sorted(faults, key=lambda fault: fault[0])]
    if not count:
        raise refuse(KEY, f"no prompts in {path}", SHAPE)
    if found and not (skip_bad and rows):
        raise Refused(_listed(found, count))
    return Requests(rows, found)


def _listed(found: Sequence[Problem], count: int) -> list[Problem]:
    """The first bad rows; the last of them says how many of `count` are bad."""
    *first, last = islice(found, MAX_PROBLEMS)
    return [*first, Problem(last.where, f"{last.what} ({len(found)} of {count} rows are bad)", f"{SHAPE}; {SKIP}")]


def _entries(path: Path) -> Iterator[tuple[int, Any]]:
    """Each line that isn't blank, with its number from 1: what JSON it holds, or {"prompt": line} of a text."""
    try:
        if path.suffix.lower() in TEXT_LINES:
            yield from _text_lines(path)
        elif path.suffix.lower() in JSON_LINES:
            yield from parse_lines(path)
        else:
            raise refuse(KEY, f"neither .jsonl nor .txt: {path}", f"{KEY}=FILE.jsonl ({SHAPE}), or a prompt a line")
    except OSError as error:
        raise refuse(KEY, f"cannot be read: {path} ({error.strerror})", f"{KEY}=FILE.jsonl or FILE.txt") from None


def _text_lines(path: Path) -> Iterator[tuple[int, Any]]:
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                text = line.removeprefix(BOM if number == 1 else b"").decode().rstrip("\r\n")
            except UnicodeDecodeError:
                yield number, Fault("not UTF-8")
                continue
            if text.strip():
                yield number, {"prompt": text}


def _rendered(entry: Any, prompt_format: PromptFormat) -> RenderedText:
    """Raises BadRow, or TemplateFailed."""
    return prompt_format.rendered_prompt(*_asked(entry))


def _asked(entry: Any) -> tuple[Sequence[Message], list[Any] | None]:
    """A row's messages up to the one that is to be answered, and the tools that it may call. Raises BadRow."""
    if isinstance(entry, Fault):
        raise BadRow(entry.why)
    if not isinstance(entry, dict):
        raise BadRow(f"not an object but {json_type(entry)}")
    if taken := [name for name in ANSWER_FIELDS if name in entry]:
        raise BadRow(f'"{taken[0]}" is a field of the answer, which would replace the row\'s own: rename it')
    conversation = _conversation(entry)
    messages = conversation.messages[:-1]
    if messages[-1].role == "assistant":  # a training row's answer
        messages = messages[:-1]
    asked = [message for message in messages if message.role == "user"]
    if not messages or not all(f"{message.content}{message.input}{message.extra}".strip() for message in asked):
        raise BadRow(EMPTY)
    return messages, conversation.tools_list()


def _conversation(entry: dict[str, Any]) -> Conversation:
    """The row as training would read it, were its answer a blank one. Raises BadRow."""
    kind = kind_of([entry], (CHAT, PAIRS, ALPACA))
    if kind is None:
        raise BadRow('there is no "prompt" and no "messages"')
    if kind is CHAT:
        name = next(mark for mark in CHAT.marks if entry.get(mark) is not None)
        if not isinstance(entry[name], list):
            raise BadRow(f'"{name}" is not a list but {json_type(entry[name])}')
        if not entry[name]:
            raise BadRow(EMPTY)
        answered = {**entry, name: [*entry[name], {"role": "assistant", "content": ""}]}
    else:
        answered = {**entry, ANSWERS[kind]: ""}
    row = kind.read(answered, Counter())
    assert isinstance(row, Conversation)
    return row


def messages_of(given: str | Sequence[dict[str, Any]]) -> list[Message]:
    """Messages as chat APIs take them, or one text, which is the user's.

    Raises:
        ValueError: they aren't messages, or end with the assistant's.
    """
    if isinstance(given, str) and not given.strip():
        raise ValueError(EMPTY)
    if isinstance(given, dict):
        raise ValueError('messages: a list of {"role": …, "content": …} is asked for, not one of them')
    entry = {"prompt": given} if isinstance(given, str) else {"messages": list(given)}
    messages = list(_conversation(entry).messages[:-1])
    if messages[-1].role == "assistant":
        raise ValueError("the last message is the assistant's: there is nothing to answer")
    return messages
