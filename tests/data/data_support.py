"""What the tests of data share beside fixtures."""

import json
import tempfile
from pathlib import Path

from tokenizers import Tokenizer

from dscoder_exp.data.prompt_format import PromptFormat, choose_format
from dscoder_exp.data.rows import Conversation
from dscoder_exp.schema.config import DataConfig
from dscoder_exp.weights.chat_template import ModelTemplate
from dscoder_exp.weights.resolve import TextSetup

BOS, EOS, PAD = 0, 1, 2
SCRATCH = Path(tempfile.gettempdir())


def text_setup(
    tokenizer: Tokenizer,
    *,
    bos: int | None = BOS,
    eos: int = EOS,
    pad: int = PAD,
    context: int = 4096,
    source: str | None = None,
) -> TextSetup:
    """Of a model with these special tokens, whose own chat template is `source`."""
    ids = {"bos_token": bos, "eos_token": eos}
    texts = {role: text for role, token in ids.items() if token is not None and (text := tokenizer.id_to_token(token))}
    template = None if source is None else ModelTemplate("chat_template", source, "tokenizer_config.json")
    return TextSetup(tokenizer, texts, bos, eos, pad, context, template)


def format_named(name: str, tokenizer: Tokenizer, **ids: int | None) -> PromptFormat:
    """One of our formats with a tokenizer."""
    return choose_format(text_setup(tokenizer, **ids), name, "data.template")  # type: ignore[arg-type]


def own_format(source: str, tokenizer: Tokenizer, *, allow_special_tokens: bool = False) -> PromptFormat:
    """A model's own chat template."""
    text = text_setup(tokenizer, source=source)
    return choose_format(text, None, "data.template", allow_special_tokens=allow_special_tokens)


def alpaca(conversation: Conversation) -> dict[str, str]:
    """A single request and answer as alpaca's JSON has it."""
    request, answer = conversation.messages
    return {"instruction": request.content, "input": request.input, "output": answer.content}


def write_rows(path: Path, rows: list[Conversation]) -> Path:
    path.write_text(json.dumps([alpaca(row) for row in rows], indent=1), encoding="utf-8")
    return path


def config(source: Path | str | None, **changes) -> DataConfig:
    values = {
        "source": None if source is None else str(source),
        "columns": None,
        "bad_rows": "refuse",
        "template": "deepseek_coder",
        "special_tokens": "text",
        "loss": "response",
        "packing": True,
        "eval_fraction": 0.1,
        "max_rows": None,
        "overlong": "drop",
        "output": None,
    }
    return DataConfig(**(values | changes))
