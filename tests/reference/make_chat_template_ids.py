"""Makes tests/reference/chat_templates: small tokenizers with chat templates, and the ids that transformers gives.

In the project's environment, then in one with transformers:

    python tests/reference/make_chat_template_ids.py tokenizers
    HF/bin/python tests/reference/make_chat_template_ids.py ids
"""

import json
import sys
from pathlib import Path
from typing import Any

DIRECTORY = Path(__file__).parent / "chat_templates"
CODE = sorted((Path(__file__).parents[2] / "dscoder_exp" / "data").glob("*.py"))
LLAMA = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}{{ '[INST] ' + m['content'] + ' [/INST]' }}"
    "{% else %}{{ ' ' + m['content'] + ' ' + eos_token }}{% endif %}{% endfor %}"
)
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
MARKED = (
    "{% for m in messages %}{% if m['role'] == 'assistant' %}{{ 'A: ' }}{% generation %}{{ m['content'] + eos_token }}"
    "{% endgeneration %}{% else %}{{ 'Q: ' + m['content'] + '\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'A: ' }}{% endif %}"
)
CHATS = [
    ["Say hello.", "hello"],
    ["def f(x):\n    return x", "\n\n  return  1\t# ok"],
    ["  leading and trailing  ", " spaces "],
    ["é ü 漢字 😀", "😀"],
    ["a", "b", "c d", "e\nf"],
    ["1 + 1?", "2", "2 + 2?", "4", "no.", "yes!"],
]


def make_tokenizers() -> None:
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

    byte_level = Tokenizer(models.BPE())
    byte_level.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    byte_level.decoder = decoders.ByteLevel()
    sentencepiece = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    sentencepiece.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    sentencepiece.decoder = decoders.Metaspace()
    word_piece = Tokenizer(models.WordPiece(unk_token="<unk>"))
    word_piece.normalizer = normalizers.BertNormalizer()
    word_piece.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = {
        "byte_level": (["<|im_start|>", "<|im_end|>"], CHATML),
        "sentencepiece": (["<s>", "</s>", "<unk>"], LLAMA),
        "word_piece": (["<s>", "</s>", "<unk>"], MARKED),
    }
    lines = [line for file in CODE for line in file.read_text().splitlines()]
    for name, built in {"byte_level": byte_level, "sentencepiece": sentencepiece, "word_piece": word_piece}.items():
        tokens, template = special[name]
        kind = trainers.WordPieceTrainer if name == "word_piece" else trainers.BpeTrainer
        built.train_from_iterator(lines, kind(vocab_size=400, special_tokens=tokens, show_progress=False))
        built.post_processor = processors.TemplateProcessing(  # which no chat template wants
            f"{tokens[0]} $A {tokens[1]}", None, [(tokens[0], 0), (tokens[1], 1)]
        )
        target = DIRECTORY / name
        target.mkdir(parents=True, exist_ok=True)
        built.save(str(target / "tokenizer.json"), pretty=False)
        config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": tokens[0], "eos_token": tokens[1]}
        (target / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": template}, indent=1) + "\n")


def make_ids() -> None:
    from transformers import AutoTokenizer  # type: ignore[import-not-found]

    for directory in sorted(path for path in DIRECTORY.iterdir() if path.is_dir()):
        tokenizer: Any = AutoTokenizer.from_pretrained(directory)
        found = []
        for spoken in CHATS:
            roles = ("user", "assistant") * (len(spoken) // 2)
            messages = [{"role": role, "content": text} for role, text in zip(roles, spoken, strict=True)]
            ids = tokenizer.apply_chat_template(messages, return_dict=False)
            prompt = tokenizer.apply_chat_template(messages[:1], add_generation_prompt=True, return_dict=False)
            row: dict[str, Any] = {"messages": messages, "ids": ids, "prompt": prompt}
            if "{% generation %}" in tokenizer.chat_template:
                marked = tokenizer.apply_chat_template(messages, return_dict=True, return_assistant_tokens_mask=True)
                row["assistant_masks"] = marked["assistant_masks"]
            found.append(row)
        lines = ",\n ".join(json.dumps(row, ensure_ascii=False) for row in found)
        (directory / "reference.json").write_text(f"[{lines}]\n", encoding="utf-8")


if __name__ == "__main__":
    make_tokenizers() if sys.argv[1:] == ["tokenizers"] else make_ids()
