"""Makes sentencepiece: a small BPE vocabulary that sentencepiece has trained, and the ids that it gives to some texts.

In an environment of its own: pip install sentencepiece==0.2.3 && python make_sentencepiece.py
"""

import io
import json
from pathlib import Path

import sentencepiece  # pyright: ignore[reportMissingImports]

HERE = Path(__file__).parent
CORPUS = HERE.parents[1] / "examples" / "code_instructions.json"
TEXTS = [
    "Hello, world!",
    "  two spaces,  and more   ",
    "def f(x):\n    return x ** 2  # 42\n",
    "\tTab and\r\nreturn",
    "naïve café, 你好，世界! 😀 ½",  # noqa: RUF001
    "aaaa aaaaaaa",
    "",
    " ",
    "Write a function that sorts a list of numbers in descending order.",
    "SELECT * FROM users WHERE id = 12345;",
]


def main() -> None:
    lines = [text for row in json.loads(CORPUS.read_text()) for text in row.values() if isinstance(text, str) and text]
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(  # type: ignore[attr-defined]
        sentence_iterator=iter(lines),
        model_writer=model,
        vocab_size=800,
        model_type="bpe",
        byte_fallback=True,
        character_coverage=0.999,
        split_digits=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        allow_whitespace_only_pieces=True,
        user_defined_symbols=["<fim>"],
    )
    processor = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())  # type: ignore[attr-defined]
    numbers = range(processor.get_piece_size())
    kinds = [
        6
        if processor.is_byte(i)
        else 2
        if processor.is_unknown(i)
        else 3
        if processor.is_control(i)
        else 4
        if processor.id_to_piece(i) == "<fim>"
        else 1
        for i in numbers
    ]
    found = {
        "tokens": [processor.id_to_piece(i) for i in numbers],
        "scores": [processor.get_score(i) for i in numbers],
        "types": kinds,
        "texts": TEXTS,
        "ids": [processor.encode(text) for text in TEXTS],
    }
    (HERE / "sentencepiece").mkdir(exist_ok=True)
    (HERE / "sentencepiece" / "vocabulary.json").write_text(json.dumps(found, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
