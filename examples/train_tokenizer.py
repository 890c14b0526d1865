"""Train the tokenizer of model=tiny on the bundled sample: `python examples/train_tokenizer.py`.

A byte-level BPE of 1,024 entries, written to tiny_tokenizer.json beside this file. Training is deterministic: the same
sample and the same release of `tokenizers` give the same bytes, and a test checks that the committed file has them.
"""

import json
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

SAMPLE = Path(__file__).with_name("code_instructions.json")
TARGET = Path(__file__).with_name("tiny_tokenizer.json")
VOCAB_SIZE = 1024  # conf/model/tiny.yaml: vocab_size
SPECIALS = ("<|begin|>", "<|end|>", "<|pad|>")  # ids 0, 1, 2; conf/model/tiny.yaml: bos, eos, pad


def train(source: Path = SAMPLE) -> Tokenizer:
    """A tokenizer trained on every text of the alpaca rows in `source`."""
    rows = json.loads(source.read_text(encoding="utf-8"))
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=[AddedToken(text, special=True) for text in SPECIALS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),  # all 256 bytes, so that no text is unknown
        show_progress=False,
    )
    tokenizer.train_from_iterator((row[field] for row in rows for field in ("instruction", "input", "output")), trainer)
    return tokenizer


def write(tokenizer: Tokenizer, target: Path = TARGET) -> None:
    """Write tokenizer.json to `target`, under a temporary name first, so that a reader never sees a partial file."""
    temporary = target.with_name(target.name + ".tmp")
    temporary.write_text(tokenizer.to_str(pretty=True) + "\n", encoding="utf-8")
    temporary.replace(target)


if __name__ == "__main__":
    write(train())
