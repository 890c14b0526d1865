"""A conversation as a model meets it: what it is given and what it is to write, turn by turn."""

from typing import TYPE_CHECKING, NamedTuple

from dscoder_exp.data.rows import Chat, Row

if TYPE_CHECKING:
    from tokenizers import Tokenizer

BOS_MARK, EOS_MARK = "\ufdd0bos\ufdd1", "\ufdd0eos\ufdd1"  # code points that no text uses: they are no characters


class Turn(NamedTuple):
    prompt: str  # all that stands between the answer before and this one
    answer: str  # up to the model's eos, which follows as an id


class Specials(NamedTuple):
    """The texts of a model's special tokens, empty where it has none."""

    bos: str
    eos: str

    def fill(self, text: str) -> str:
        """The text with the tokens in the place of their marks."""
        return text.replace(BOS_MARK, self.bos).replace(EOS_MARK, self.eos)


class UnfitConversation(ValueError):
    """A prompt format can't take this conversation."""


def specials_of(tokenizer: "Tokenizer", bos_token_id: int | None, eos_token_id: int | None) -> Specials:
    """What the tokenizer writes for these ids."""
    texts = (None if token is None else tokenizer.id_to_token(token) for token in (bos_token_id, eos_token_id))
    return Specials(*(text or "" for text in texts))


def request_of(instruction: str, input: str) -> str:
    """What is asked, as one text."""
    return f"{instruction}\n{input}" if input.strip() else instruction


def messages_of(row: Row | Chat) -> list[dict[str, str]]:
    """The conversation in the shape that Hugging Face's chat templates take."""
    if isinstance(row, Chat):
        return [{"role": message.role, "content": message.content} for message in row.messages]
    request = {"role": "user", "content": request_of(row.instruction, row.input)}
    return [request, {"role": "assistant", "content": row.output}]
