"""A conversation as turns: the text given to the model, and the answer it is to write."""

from typing import TYPE_CHECKING, NamedTuple

from dscoder_exp.data.rows import Chat, Row

if TYPE_CHECKING:
    from tokenizers import Tokenizer

BOS_MARK, EOS_MARK = "\ufdd0bos\ufdd1", "\ufdd0eos\ufdd1"  # code points that no text uses: they are no characters


class Turn(NamedTuple):
    prompt: str  # all text between the previous answer and this one
    answer: str  # without the eos, which is appended as an id


class Specials(NamedTuple):
    """The texts of a model's special tokens, empty where it has none."""

    bos: str
    eos: str

    def fill(self, text: str) -> str:
        """Replace the marks in `text` by the special tokens' texts."""
        return text.replace(BOS_MARK, self.bos).replace(EOS_MARK, self.eos)


class UnfitConversation(ValueError):
    """A prompt format can't take this conversation."""


def specials_of(tokenizer: "Tokenizer", bos_token_id: int | None, eos_token_id: int | None) -> Specials:
    """The tokenizer's texts for these ids."""
    texts = (None if token is None else tokenizer.id_to_token(token) for token in (bos_token_id, eos_token_id))
    return Specials(*(text or "" for text in texts))


def request_of(instruction: str, input: str) -> str:
    """Instruction and input as one text."""
    return f"{instruction}\n{input}" if input.strip() else instruction


def messages_of(row: Row | Chat) -> list[dict[str, str]]:
    """The conversation as the `messages` of Hugging Face's chat templates."""
    if isinstance(row, Chat):
        return [{"role": message.role, "content": message.content} for message in row.messages]
    request = {"role": "user", "content": request_of(row.instruction, row.input)}
    return [request, {"role": "assistant", "content": row.output}]
