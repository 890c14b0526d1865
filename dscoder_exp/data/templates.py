"""Prompt formats: the text around a request and around its answer.

No format writes its end mark as text. The mark is the model's own eos, appended by id (see encode.py): DeepSeek's
recipe writes "<|EOT|>", which the tokenizer of 7B-v1.5 does not have (it comes apart into five ordinary tokens, so the
model would never learn to stop), while generation stops at `eos_token_id` whatever the tokenizer. ChatML's
"<|im_end|>" is SmolLM2's eos, so there both are the same.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Template:
    """One format.

    Attributes:
        prompt: the text before the answer; "{request}" stands for what is asked.
        answer: the text of the answer; "{output}" stands for it. The model's eos follows, as an id.
        bos: whether the model's bos comes first; None: whatever the tokenizer itself puts there.
    """

    prompt: str
    answer: str
    bos: bool | None

    def render_prompt(self, instruction: str, input: str = "") -> str:
        """The text a model is given. A row's input is always in it: without it many instructions mean nothing."""
        request = f"{instruction}\n{input}" if input.strip() else instruction
        return self.prompt.format(request=request)

    def render_answer(self, output: str) -> str:
        """The text a model is to write, up to its eos."""
        return self.answer.format(output=output)


DEEPSEEK_SYSTEM = (
    "You are an AI programming assistant, utilizing the DeepSeek Coder model, developed by DeepSeek Company, and you "
    "only answer questions related to computer science. For politically sensitive questions, security and privacy "
    "issues, and other non-computer science questions, you will refuse to answer."
)
SMOLLM_SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"

TEMPLATES: dict[str, Template] = {
    "deepseek_coder": Template(
        prompt=DEEPSEEK_SYSTEM + "\n### Instruction:\n{request}\n### Response:\n",
        answer="{output}\n",
        bos=True,
    ),
    "chatml": Template(
        prompt=f"<|im_start|>system\n{SMOLLM_SYSTEM}<|im_end|>\n"
        "<|im_start|>user\n{request}<|im_end|>\n<|im_start|>assistant\n",
        answer="{output}",
        bos=False,  # <|im_start|> is the bos, and opens the text already
    ),
}
# No format: the prompt is the bare request, as predict sends it, and the answer begins on a line of its own.
PLAIN = Template(prompt="{request}", answer="\n{output}", bos=None)


def template_named(name: str | None) -> Template:
    """The format a config names; null means none."""
    return PLAIN if name is None else TEMPLATES[name]
