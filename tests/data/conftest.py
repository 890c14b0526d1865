"""Rows and a tokenizer for the tests of data."""

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from dscoder_exp.data.rows import Row
from dscoder_exp.data.templates import TEMPLATES


@pytest.fixture(scope="session")
def rows() -> list[Row]:
    """60 distinct rows of various lengths, a third with an input."""
    return [
        Row(
            instruction=f"Write a function that returns the number {number}.",
            input=f"value = {number}\nnames = ['a', 'b']" if number % 3 == 0 else "",
            output=f"def number_{number}():\n" + "    # counted\n" * (number % 7) + f"    return {number}",
        )
        for number in range(60)
    ]


@pytest.fixture(scope="session")
def tokenizer(rows: list[Row]) -> Tokenizer:
    """A small byte-level BPE, of the same kind as model=tiny's."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    specials: list[str | AddedToken] = [AddedToken(text, special=True) for text in ("<|begin|>", "<|end|>", "<|pad|>")]
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=specials,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    template = TEMPLATES["deepseek_coder"]
    texts = [template.render_prompt(row.instruction, row.input) + row.output for row in rows]
    made.train_from_iterator(texts, trainer)
    return made
