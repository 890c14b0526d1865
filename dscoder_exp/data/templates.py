"""Prompt formats: the text around a request and around its answer.

No format of ours writes its end mark as text. The mark is the model's own eos, appended by id (see encode.py):
DeepSeek's recipe writes "<|EOT|>", which the tokenizer of 7B-v1.5 does not have (it comes apart into five ordinary
tokens, so the model would never learn to stop), while generation stops at `eos_token_id` whatever the tokenizer.
ChatML's "<|im_end|>" is SmolLM2's eos, so there both are the same.
"""

from dataclasses import asdict, dataclass
from typing import Protocol

from dscoder_exp.data.conversation import Specials, Turn, request_of
from dscoder_exp.data.jinja_template import read_template
from dscoder_exp.data.rows import Chat, Row
from dscoder_exp.data.source import digest
from dscoder_exp.schema.config import TEMPLATE_FILE


class PromptFormat(Protocol):
    """Interface of prompt formats, built in (Template) or read from a file (JinjaTemplate)."""

    @property
    def bos(self) -> bool | None:
        """Whether the model's bos comes first; None: the special tokens that the tokenizer adds by itself."""
        ...

    @property
    def identity(self) -> str:
        """The format's name, and a hash of what it writes."""
        ...

    def render_prompt(self, instruction: str, input: str = "") -> str:
        """The text given to the model. A row's input is always in it: many instructions mean nothing without."""
        ...

    def turns(self, row: Row | Chat, specials: Specials) -> list[Turn]:
        """The conversation's turns; for a Row, the first prompt is `render_prompt` of it."""
        ...


@dataclass(frozen=True)
class Template:
    """A built-in format.

    Attributes:
        opening: the text before the first request; "{system}" stands for the system's message.
        system: that message, where a conversation has none; None: then there is no opening.
        request: the text of a request; "{request}" stands for what is asked.
        answer: the text of the answer; "{output}" stands for it. The model's eos follows, as an id.
        bos: whether the model's bos comes first; None: the special tokens that the tokenizer adds by itself.
        system_with_input, request_with_input: the same for a row with an input, where the format sets it apart:
            "{instruction}" and "{input}".
    """

    name: str
    opening: str
    system: str | None
    request: str
    answer: str
    bos: bool | None
    system_with_input: str | None = None
    request_with_input: str | None = None

    @property
    def identity(self) -> str:
        return f"{self.name} {digest([repr(asdict(self)).encode()])}"

    def render_prompt(self, instruction: str, input: str = "") -> str:
        if self.request_with_input is not None and input.strip():
            asked = self.request_with_input.format(instruction=instruction, input=input)
            return self._opened(self.system_with_input) + asked
        return self._opened(self.system) + self.request.format(request=request_of(instruction, input))

    def turns(self, row: Row | Chat, specials: Specials) -> list[Turn]:
        if isinstance(row, Row):
            return [Turn(self.render_prompt(row.instruction, row.input), self.answer.format(output=row.output))]
        first = row.messages[0]
        opening = self._opened(first.content if first.role == "system" else self.system)
        spoken = [message.content for message in row.messages if message.role != "system"]
        pairs = zip(spoken[::2], spoken[1::2], strict=True)
        turns = [Turn(self.request.format(request=asked), self.answer.format(output=said)) for asked, said in pairs]
        return [Turn(opening + turns[0].prompt, turns[0].answer), *turns[1:]]

    def _opened(self, system: str | None) -> str:
        return "" if system is None else self.opening.format(system=system)


DEEPSEEK_SYSTEM = (
    "You are an AI programming assistant, utilizing the DeepSeek Coder model, developed by DeepSeek Company, and you "
    "only answer questions related to computer science. For politically sensitive questions, security and privacy "
    "issues, and other non-computer science questions, you will refuse to answer."
)
SMOLLM_SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
ALPACA_REST = "Write a response that appropriately completes the request."

OURS = (
    Template(
        "deepseek_coder",
        opening="{system}",
        system=DEEPSEEK_SYSTEM,
        request="\n### Instruction:\n{request}\n### Response:\n",
        answer="{output}\n",
        bos=True,
    ),
    Template(
        "chatml",
        opening="<|im_start|>system\n{system}<|im_end|>",
        system=SMOLLM_SYSTEM,
        request="\n<|im_start|>user\n{request}<|im_end|>\n<|im_start|>assistant\n",
        answer="{output}",
        bos=False,  # <|im_start|> is the bos, and opens the text already
    ),
    Template(  # github.com/tatsu-lab/stanford_alpaca, train.py: PROMPT_DICT; its answer follows the colon at once
        "alpaca",
        opening="{system}",
        system=f"Below is an instruction that describes a task. {ALPACA_REST}",
        request="\n\n### Instruction:\n{request}\n\n### Response:",
        answer="{output}",
        bos=None,
        system_with_input="Below is an instruction that describes a task, paired with an input that provides further "
        f"context. {ALPACA_REST}",
        request_with_input="\n\n### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:",
    ),
)
TEMPLATES: dict[str, PromptFormat] = {template.name: template for template in OURS}
# No format: the prompt is the bare request, as predict sends it, and the answer begins on a line of its own.
PLAIN = Template("none", opening="{system}\n", system=None, request="{request}", answer="\n{output}", bos=None)


def template_named(name: str | None, key: str = "data.template") -> PromptFormat:
    """The format that a config names: None is PLAIN, and a name that ends in .jinja is a file.

    Args:
        key: the config key that held `name`.

    Raises:
        Refused: the file doesn't exist, or isn't a template that can be trained with.
    """
    if name is None:
        return PLAIN
    return read_template(name, key) if name.endswith(TEMPLATE_FILE) else TEMPLATES[name]
