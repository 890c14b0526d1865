"""How a model is asked to solve a problem, as text and as ids.

In completion form the text is code that the model goes on with; in instruct form it is a request, which the model's own
chat template wraps. The shape of both is that of DeepSeek-Coder's evaluation (three solved examples for MBPP, which its
paper has, too), the wording is ours; `evaluate.instruction` brings another.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from dscoder_exp.data.chat_template import TemplateFailed
from dscoder_exp.data.prompt_format import PromptFormat, choose_format
from dscoder_exp.data.rows import Message
from dscoder_exp.evaluation.extraction import BEGIN, DONE
from dscoder_exp.evaluation.problems import CodeProblem
from dscoder_exp.evaluation.suites import Suite
from dscoder_exp.schema.config import EvaluateConfig
from dscoder_exp.schema.errors import refuse
from dscoder_exp.weights.resolve import TextSetup

KEY = "evaluate.prompt"
FORMS = ("completion", "instruct")
KEYED = "model.template"  # the origin of a prompt format that the configuration names, not the model's files
HUMANEVAL = (
    "Write the body of this Python function. Use no packages but those that it imports, and answer with the whole "
    "function in one code block.\n```python\n{prompt}\n```"
)
MBPP = (
    "Write a Python function that solves my problem.{examples}\n\nMy problem:\n>>> Problem:\n{prompt}\n"
    ">>> Test Cases:\n{tests}\n"
)
MBPP_EXAMPLE = (
    "\n\nExample {number}:\n>>> Problem:\n{prompt}\n>>> Test Cases:\n{tests}\n\n>>> Code:\n```python\n{code}\n```"
)
MBPP_COMPLETION = (
    f"Task for a Python programmer: {{prompt}}\nThe function has to pass these tests:\n\n{{tests}}\n{BEGIN}\n"
)


@dataclass(frozen=True)
class Prompts:
    """What a model is asked, for each problem of a suite.

    Attributes:
        form: completion or instruct.
        texts: without the prompt format.
        ids: with it.
        unused: a prompt format that the configuration names and that isn't used; "" if there is none.
    """

    form: str
    prompt_format: PromptFormat
    texts: list[str]
    ids: list[list[int]]
    unused: str = ""


def make_prompts(
    evaluate: EvaluateConfig, suite: Suite, text: TextSetup, context: int, trained: PromptFormat | None = None
) -> Prompts:
    """The prompts of a suite.

    Args:
        context: the model's, in tokens.
        trained: the format that a model in training learns; None: the one that it brings.

    Raises:
        Refused: there is no prompt format for instruct, it doesn't take a request, or a prompt leaves no room.
    """
    own = trained or choose_format(text, None, KEYED)
    keyed = trained is None and text.template is not None and text.template.origin == KEYED
    form = evaluate.prompt
    if form == "auto":
        form = "completion" if own.name == "none" or keyed else "instruct"
    if form == "instruct" and own.name == "none":
        what = "instruct, but the model brings no prompt format"
        raise refuse(KEY, what, f"{KEY}=completion, or {KEYED}=FORMAT")
    asked = own if form == "instruct" else choose_format(text, "none", KEY)
    texts = texts_of(suite, form, evaluate.instruction)
    ids = _ids(suite, asked, texts, context)
    return Prompts(form, asked, texts, ids, own.name if keyed and asked is not own else "")


def texts_of(suite: Suite, form: str, instruction: str | None) -> list[str]:
    """What is asked, a text for each problem.

    Args:
        instruction: evaluate.instruction: of instruct form alone.
    """
    if form == "instruct":
        template = instruction or (HUMANEVAL if suite.family == "humaneval" else MBPP)
        examples = enumerate(suite.examples, 1)
        shown = "".join(_filled(MBPP_EXAMPLE, {**_fields(item), "number": str(n)}) for n, item in examples)
        return [_filled(template, {**_fields(problem), "examples": shown}) for problem in suite.problems]
    if suite.family == "humaneval":  # as the file has it: a line break at its end counts
        return [problem.prompt for problem in suite.problems]
    shown = "".join(f"{_task(item)}{_fields(item)['code']}\n{DONE}\n\n" for item in suite.examples)
    return [f"{shown}{_task(problem)}" for problem in suite.problems]


def _ids(suite: Suite, prompt_format: PromptFormat, texts: list[str], context: int) -> list[list[int]]:
    try:
        rendered = [prompt_format.rendered_prompt([Message("user", text)]) for text in texts]
    except TemplateFailed as error:
        raise refuse(prompt_format.origin, str(error), f"{KEY}=completion, or another {KEYED}") from None
    found = [encoding.ids for encoding in prompt_format.encode(rendered)]
    for problem, ids in zip(suite.problems, found, strict=True):
        if not 0 < len(ids) < context:
            what = f"the prompt of {problem.key} has {len(ids)} tokens, and the model's context {context}"
            raise refuse(KEY, what, "a model with a longer context, or evaluate.max_problems=N")
    return found


def _fields(problem: CodeProblem) -> dict[str, str]:
    code = (problem.reference or "").strip("\n")
    return {"prompt": problem.prompt.rstrip("\n"), "tests": "\n".join(problem.examples), "code": code}


def _task(problem: CodeProblem) -> str:
    return _filled(MBPP_COMPLETION, _fields(problem))


def _filled(template: str, fields: Mapping[str, str]) -> str:
    """The template with its fields; other braces stay as they are."""
    return re.sub(r"\{(\w+)\}", lambda found: fields.get(found[1], found[0]), template)
