"""Which of our prompt templates a model's own (Jinja) chat template amounts to."""

MARKS = {"<|im_start|>": "chatml", "### Instruction": "deepseek_coder"}


def recognise(chat_template: str | None) -> str | None:
    """`chatml`, `deepseek_coder`, or None where there is no chat template or an unknown one."""
    for mark, name in MARKS.items():
        if chat_template and mark in chat_template:
            return name
    return None
