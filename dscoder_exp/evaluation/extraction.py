"""From an answer to a program. Two forms: a model goes on with code (completion), or answers a request (instruct).

As in DeepSeek-Coder's own evaluation (github.com/deepseek-ai/DeepSeek-Coder, Evaluation/), a completion ends where code
begins that no longer belongs to the function, and of an answer the first Python block counts, after what stands before
the function in the prompt. More is taken than there: the first block *that defines the function*, so that a repeated
prompt or a block of shell commands isn't scored; blocks that hold the function's body alone; answers without a block.
"""

import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from dscoder_exp.evaluation.problems import CodeProblem, definitions, is_stub, parsed
from dscoder_exp.evaluation.programs import Verdict

VERSION = 1  # part of a score's protocol: count it up when an answer may come to another program
# What ends a completion of HumanEval: DeepSeek-Coder's list, and bigcode-evaluation-harness's two more.
AFTER_FUNCTION = ("\ndef", "\nclass", "\nif", "\n#", "\nprint", "\n@", "\n```")
BEGIN, DONE = "[BEGIN]", "[DONE]"  # around an answer to MBPP in completion form, as in its paper
AFTER_ANSWER = (DONE, f"\n{BEGIN}", "\n```")
# Texts of end tokens, which completions that another program generated may end with.
END_TOKENS = re.compile(
    r"<\|EOT\|>|<\|im_end\|>|<\|endoftext\|>|</s>|<\|eot_id\|>|<\|end_of_text\|>|<\uff5cend\u2581of\u2581sentence\uff5c>|<end_of_turn>"
)
FENCE = re.compile(r"^(?P<indent>[ \t]*)(?P<fence>`{3,}|~{3,})[ \t]*(?P<language>[\w+#.-]*)[^\n`]*$", re.MULTILINE)
INLINE_FENCE = re.compile(r"```[ \t]*(?:python|py)3?[ \t]*\n", re.IGNORECASE)  # after other text on its line
PYTHON = ("", "python", "python3", "py", "py3")
CODE_STARTS = re.compile(r"^(?:def|async def|class|import|from|@)\b|^@", re.MULTILINE)
MAX_CHARACTERS = 100_000  # of an answer that is looked at
MAX_TRIES = 200  # runs of lines in an answer without a block that are tried
# Names that programs use as if they had imported them. DeepSeek-Coder's evaluation provides the same ones.
MODULES = (
    *("collections", "copy", "datetime", "functools", "hashlib", "heapq", "itertools", "math", "re", "string", "sys"),
    "typing",
)
IMPORTS = f"import {', '.join(MODULES)}\nfrom typing import *\nfrom collections import *\n"
NUMPY_NAME = re.compile(r"\b(?:np|numpy)\.")
NUMPY = "import numpy, numpy as np\n"  # only where it is named: its import takes as long as most programs


@dataclass(frozen=True)
class Extracted:
    """
    Attributes:
        code: the program; None: there is none to run.
        verdict: where there is none, why: nothing extracted, or truncated; else None.
    """

    code: str | None
    verdict: Verdict | None = None


@dataclass(frozen=True)
class Block:
    """A fenced block of an answer."""

    language: str
    code: str


def stop_strings(family: str, form: str) -> tuple[str, ...]:
    """The texts that end an answer: none for a chat, whose answers may begin with any of them."""
    if form == "instruct":
        return ()
    return AFTER_FUNCTION if family == "humaneval" else AFTER_ANSWER


def extract(problem: CodeProblem, answer: str, form: str, *, cut: bool = False) -> Extracted:
    """The program of an answer. Nothing of it is run.

    Args:
        answer: as it was generated: its first line's indentation counts.
        form: "completion", "instruct", or "auto": the first of these that comes to a program.
        cut: it ended at the longest length.
    """
    answer = END_TOKENS.split(answer.replace("\r\n", "\n"), maxsplit=1)[0][:MAX_CHARACTERS]
    if not answer.strip():
        return Extracted(None, Verdict.TRUNCATED if cut else Verdict.NOTHING_EXTRACTED)
    completed = _completed(problem, answer)
    if form == "completion" or (form == "auto" and _is_whole(problem, completed)):
        code: str | None = completed
    else:
        code = _answered(problem, answer)
        if code is None and form == "auto" and "```" not in answer:
            code = completed
    if code is None:
        return Extracted(None, Verdict.TRUNCATED if cut else Verdict.NOTHING_EXTRACTED)
    if cut and parsed(code) is None:
        return Extracted(None, Verdict.TRUNCATED)
    return Extracted(code)


def with_imports(code: str) -> str:
    """The program behind IMPORTS, unless something must be its first statement."""
    if re.search(r"^from __future__ ", code, re.MULTILINE):
        return code
    return f"{IMPORTS}{NUMPY if re.search(NUMPY_NAME, code) else ''}{code}"


def _completed(problem: CodeProblem, answer: str) -> str:
    """What the model went on with, behind what it was given; up to what ends it."""
    stops = stop_strings("humaneval" if problem.continues else "mbpp", "completion")
    ends = [at for stop in stops if (at := answer.find(stop)) >= 0]
    taken = answer[: min(ends, default=len(answer))]
    return f"{problem.prompt}{taken}\n" if problem.continues else f"{taken.lstrip(chr(10))}\n"


def _answered(problem: CodeProblem, answer: str) -> str | None:
    """The program in an answer to a request; None: there is none."""
    blocks = list(_blocks(answer))
    python = [block for block in blocks if block.language.lower() in PYTHON]
    for wanted in (_is_whole, _defines):
        for block in python:
            if wanted(problem, block.code):
                return f"{problem.preamble}{block.code}"
    for block in python:
        if problem.continues and (code := _as_body(problem, block.code)) is not None:
            return code
    if python:  # broken, or of another name: run, so that the verdict says what is wrong with it
        return f"{problem.preamble}{python[0].code}"
    if blocks:
        return None
    if (code := _unfenced(problem, answer)) is not None:
        return f"{problem.preamble}{code}"
    return _as_body(problem, answer) if problem.continues else None


def _blocks(answer: str) -> Iterator[Block]:
    """The fenced blocks of an answer, also one that isn't closed, without a list item's indentation."""
    at = 0
    while (opening := _opening(answer, at)) is not None:
        start, fence, language, indent = opening
        closing = re.compile(rf"^[ \t]*{fence[0]}{{{len(fence)},}}[ \t]*$", re.MULTILINE).search(answer, start)
        if closing is None and (at_end := answer.find(fence, start)) >= 0:  # behind the last line's code
            end, after = at_end, at_end + len(fence)
        else:
            end, after = (closing.start(), closing.end()) if closing else (len(answer), len(answer))
        yield Block(language, _dedented(answer[start:end], indent))
        at = max(after, start)


def _opening(answer: str, at: int) -> tuple[int, str, str, str] | None:
    """Where the next block's code begins, its fence, language and indentation."""
    found, inline = FENCE.search(answer, at), INLINE_FENCE.search(answer, at)
    if inline is not None and (found is None or inline.start() < found.start()):
        return inline.end(), "```", "python", ""
    if found is None:
        return None
    return min(found.end() + 1, len(answer)), found["fence"], found["language"], found["indent"]


def _dedented(code: str, indent: str) -> str:
    if not indent:
        return code
    return "".join(line.removeprefix(indent) for line in code.splitlines(keepends=True))


def _is_whole(problem: CodeProblem, code: str) -> bool:
    """Whether it is Python, and defines the function with a body."""
    tree = parsed(code)
    found = definitions(tree, problem.entry_point) if tree else []
    return bool(found) and not is_stub(found[-1])


def _defines(problem: CodeProblem, code: str) -> bool:
    """Whether it begins the function: it may be a stub, or broken further below."""
    return re.search(rf"^(?:async )?def {re.escape(problem.entry_point)}\b", code, re.MULTILINE) is not None


def _as_body(problem: CodeProblem, code: str) -> str | None:
    """The prompt's function with this body, also one whose indentation is missing; None if that is no program."""
    body = code.strip("\n")
    for candidate in (body, textwrap.indent(textwrap.dedent(body), _indentation(problem.prompt))):
        if _is_whole(problem, program := f"{problem.prompt.rstrip()}\n{candidate}\n"):
            return program
    return None


def _indentation(prompt: str) -> str:
    """That of the function's body: of the docstring's first line."""
    last = [line for line in prompt.splitlines() if line.strip()][-1]
    return last[: len(last) - len(last.lstrip())] or "    "


def _unfenced(problem: CodeProblem, answer: str) -> str | None:
    """The longest run of lines, from where code may begin, that is Python and defines the function."""
    runs = (
        "".join(lines[:end])
        for start in CODE_STARTS.finditer(answer)
        if (lines := answer[start.start() :].splitlines(keepends=True))
        for end in range(len(lines), 0, -1)
    )
    return next((code for code in islice(runs, MAX_TRIES) if _is_whole(problem, code)), None)
