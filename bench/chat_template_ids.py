"""Token ids of rows as this project feeds them and as transformers' apply_chat_template does.

    python3.11 -m venv HF && HF/bin/pip install transformers
    HF/bin/python bench/chat_template_ids.py reference TOKENIZER_DIR ROWS.json IDS.json [--rows 1000]
    python bench/chat_template_ids.py compare TOKENIZER_DIR ROWS.json IDS.json

TOKENIZER_DIR holds tokenizer.json and tokenizer_config.json, whose chat_template is used; ROWS.json alpaca's rows or
{"messages": …}. Rows in which a special token's name stands as text differ on purpose, and are counted apart.
"""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dscoder_exp.data.prompt_format import PromptFormat


def conversations(path: Path, rows: int | None) -> list[list[dict[str, str]]]:
    """Each row's messages."""
    found = []
    for row in json.loads(path.read_text(encoding="utf-8"))[:rows]:
        if "messages" in row:
            found.append(row["messages"])
            continue
        request = f"{row['instruction']}\n{row['input']}" if row.get("input", "").strip() else row["instruction"]
        found.append([{"role": "user", "content": request}, {"role": "assistant", "content": row["output"]}])
    return found


def reference(directory: Path, rows: list[list[dict[str, str]]]) -> list[dict[str, list[int]]]:
    """In an environment with transformers: ids of each whole conversation, and of its first request as a prompt."""
    from transformers import AutoTokenizer  # type: ignore[import-not-found]

    tokenizer: Any = AutoTokenizer.from_pretrained(directory)
    first = [row[: next(i for i, message in enumerate(row) if message["role"] == "assistant")] for row in rows]
    return [
        {
            "ids": tokenizer.apply_chat_template(row, tokenize=True, return_dict=False),
            "prompt": tokenizer.apply_chat_template(
                prompt, tokenize=True, add_generation_prompt=True, return_dict=False
            ),
        }
        for row, prompt in zip(rows, first, strict=True)
    ]


def prompt_format_of(directory: Path, template: str | None = None) -> "PromptFormat":
    """The prompt format of a tokenizer's directory, or another one, by data.template."""
    from dscoder_exp.data.prompt_format import choose_format
    from dscoder_exp.weights.chat_template import template_in
    from dscoder_exp.weights.resolve import TextSetup
    from dscoder_exp.weights.tokenizer import load_tokenizer, special_tokens_in

    tokenizer = load_tokenizer(str(directory))
    texts = {role: text for role, text in special_tokens_in(directory).items() if text is not None}
    bos, eos = (tokenizer.token_to_id(texts[role]) if role in texts else None for role in ("bos_token", "eos_token"))
    text = TextSetup(tokenizer, texts, bos, eos or 0, eos or 0, None, template_in(directory, "tokenizer.path"))
    return choose_format(text, template, "data.template")


def ours(directory: Path, rows: list[list[dict[str, str]]]) -> list[tuple[dict[str, list[int]], bool]]:
    """The same from this project, and whether the row spells a special token."""
    from dscoder_exp.data.rows import Conversation, Message

    prompt_format = prompt_format_of(directory)
    chats = [Conversation(tuple(Message(m["role"], m["content"]) for m in row)) for row in rows]
    rendered = [prompt_format.conversation(chat) for chat in chats]
    found = []
    for chat, item, encoding in zip(chats, rendered, prompt_format.encode(rendered), strict=True):
        end = next(i for i, message in enumerate(chat.messages) if message.role == "assistant")
        found.append(({"ids": encoding.ids, "prompt": prompt_format.prompt(chat.messages[:end])}, item.as_text))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=["reference", "compare"])
    parser.add_argument("tokenizer", type=Path)
    parser.add_argument("rows", type=Path)
    parser.add_argument("ids", type=Path)
    parser.add_argument("--rows", dest="limit", type=int)
    given = parser.parse_args()
    if given.action == "reference":
        given.ids.write_text(json.dumps(reference(given.tokenizer, conversations(given.rows, given.limit))))
        return
    expected = json.loads(given.ids.read_text())
    found = ours(given.tokenizer, conversations(given.rows, len(expected)))
    spelt = sum(apart for _, apart in found)
    equal = sum(one == other for (one, apart), other in zip(found, expected, strict=True) if not apart)
    print(f"{equal} of {len(found) - spelt} rows have transformers' ids; {spelt} more spell a special token")


if __name__ == "__main__":
    main()
