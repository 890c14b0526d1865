"""Rows and a tokenizer that the tests of data share."""

import pytest
from data_support import alpaca
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from dscoder_exp.data.prompt_format import named_source
from dscoder_exp.data.rows import Conversation, exchange


@pytest.fixture(scope="session")
def rows() -> list[Conversation]:
    """60 distinct rows of various lengths, a third with an input."""
    return [
        exchange(
            instruction=f"Write a function that returns the number {number}.",
            input=f"value = {number}\nnames = ['a', 'b']" if number % 3 == 0 else "",
            output=f"def number_{number}():\n" + "    # counted\n" * (number % 7) + f"    return {number}",
        )
        for number in range(60)
    ]


@pytest.fixture(scope="session")
def tokenizer(rows: list[Conversation]) -> Tokenizer:
    """A small byte-level BPE, of the same make as model=tiny's."""
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
    texts = [named_source("deepseek_coder", False)] * 40 + [text for row in rows for text in alpaca(row).values()]
    made.train_from_iterator(texts, trainer)
    return made
