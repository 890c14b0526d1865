"""The one way from a conversation to the text a model reads: a chat template, with the special tokens of its tokenizer.

Preparing data, training, predicting and evaluating all ask `PromptFormat`, so that they can't differ.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from dscoder_exp.data.answers import find_answers, ignored_of
from dscoder_exp.data.chat_template import ChatTemplate, Rendered, TemplateFailed
from dscoder_exp.data.rows import Conversation, Message
from dscoder_exp.data.special_tokens import SpecialTokens, texts_of
from dscoder_exp.schema.errors import refuse
from dscoder_exp.weights.chat_template import ModelTemplate, given_template

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer

    from dscoder_exp.weights.resolve import TextSetup

REMEDY = "fix the template, or choose another format: data.template, predict.template"
NONE_BROUGHT = "the model brings none"  # an origin
NAMED = Path(__file__).with_name("chat_templates")
TRIAL = (Message("user", "What is 2 + 2?"), Message("assistant", "It is 4."))


class RenderedText(NamedTuple):
    """A rendered conversation.

    Attributes:
        answers: [first, end) in characters of what the loss counts: the assistant's messages with their end tokens.
        as_text: whether the text spells control tokens that a row holds as words, so that `SpecialTokens.as_text` has
            to encode it.
        ignored: what of the answers the template makes nothing of (`ignored_of`).
    """

    text: str
    answers: list[tuple[int, int]]
    as_text: bool
    ignored: frozenset[str] = frozenset()


class PromptFormat:
    """A chat template that is bound to a tokenizer.

    Attributes:
        name: of one of ours, a file's, or "chat_template".
        origin: where it was found, for a reader.
        source: Jinja2 source that transformers and vLLM render alike.
    """

    def __init__(self, found: ModelTemplate, text: "TextSetup", *, allow_special_tokens: bool = False) -> None:
        """
        Args:
            allow_special_tokens: a control token's name in a row or prompt is that token, not words.

        Raises:
            Refused: the template is no Jinja2, fails, or leaves the request or the answer out.
        """
        self.name, self.origin = found.name, found.origin
        self._tokenizer = text.tokenizer
        self._tokenizer.no_truncation()  # a tokenizer.json may carry both, and either would change the rows in silence
        self._tokenizer.no_padding()
        self.source = found.source if found.source is not None else named_source(found.name, text.adds_bos)
        self._template = _compiled(self.source, self.origin)
        self._text, self._allow = text, allow_special_tokens
        if "eos_token" not in text.special_tokens and "eos_token" in self.source:
            what = f"the prompt format ({self.name}) writes eos_token, but the tokenizer has no {text.eos_token_id}"
            raise refuse("model.eos_token_id", what, "give an id of the tokenizer, or the model's own tokenizer.path")
        self._try()

    @property
    def identity(self) -> str:
        """Its name, and a hash of all that it writes."""
        return f"{self.name} {self._template.identity}"

    @property
    def template(self) -> ModelTemplate:
        """What a checkpoint that is trained with it carries on."""
        return ModelTemplate(self.name, self.source, self.origin)

    @property
    def text_tokenizer(self) -> "Tokenizer":
        """For texts, which hold nothing but words."""
        return self._tokenizer if self._allow else self._special.as_text

    @property
    def opening(self) -> list[int]:
        """Ids that a text begins with."""
        return self._text.opening

    @property
    def eos_token_id(self) -> int:
        """The id that a text ends with."""
        return self._text.eos_token_id

    @cached_property
    def end_token_id(self) -> int | None:
        """The control token that the format writes after an answer; None: it writes none there."""
        text, answer = self.conversation(Conversation(TRIAL)).text, TRIAL[1].content
        end = next(self._special.found_in(text, text.rfind(answer) + len(answer)), None)
        return None if end is None else self._tokenizer.token_to_id(end[0])

    @property
    def stop_token_ids(self) -> tuple[int, ...]:
        """What ends an answer: what the model's files list, and the format's own end token."""
        own = () if self.end_token_id is None else (self.end_token_id,)
        return tuple(dict.fromkeys([*self._text.stop_token_ids, *own]))

    @property
    def control_ids(self) -> frozenset[int]:
        """Tokens that steer a conversation and are no text, whether the tokenizer calls them special or not."""
        found = (self._tokenizer.token_to_id(text) for text in self._special.texts)
        return frozenset(number for number in found if number is not None)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of token ids, special tokens included."""
        return self._tokenizer.decode(ids, skip_special_tokens=False)

    def spells_special(self, text: str) -> bool:
        """Whether a text that is encoded as words spells a control token."""
        return not self._allow and self._special.spelt_in(text)

    @cached_property
    def _special(self) -> SpecialTokens:
        return SpecialTokens(self._tokenizer)

    def prompt(self, messages: Sequence[Message], tools: list[Any] | None = None) -> list[int]:
        """Token ids of a conversation up to the place where the assistant's next message begins; as `rendered_prompt`.

        Raises:
            TemplateFailed: the template doesn't take the conversation.
        """
        return self.encode([self.rendered_prompt(messages, tools)])[0].ids

    def rendered_prompt(self, messages: Sequence[Message], tools: list[Any] | None = None) -> RenderedText:
        """What `encode` makes a prompt's ids of.

        Args:
            tools: that the conversation may call, in the form the chat template takes.

        Raises:
            TemplateFailed: the template doesn't take the conversation.
        """
        hidden, found = self._hidden([message.as_dict() for message in messages])
        text = self._render(hidden, prompt=True, tools=tools).text
        return RenderedText(self._special.swap(text) if found else text, [], found)

    def request(self, prompt: str) -> list[int]:
        """Token ids of a conversation's first request.

        Raises:
            Refused: the template doesn't take it.
        """
        try:
            return self.prompt([Message("user", prompt)])
        except TemplateFailed as error:
            raise refuse(self.origin, str(error), REMEDY) from None

    def conversation(self, conversation: Conversation) -> RenderedText:
        """
        Raises:
            TemplateFailed: the template doesn't take the conversation.
        """
        messages, found = self._hidden([message.as_dict() for message in conversation.messages])
        tools = conversation.tools_list()
        whole = self._render(messages, tools=tools)
        learnt = [message.learn for message in conversation.messages if message.role == "assistant"]
        answers = whole.generated
        if not answers:
            answers = self._answers(whole.text, messages, tools)
        elif len(answers) != len(learnt):
            raise TemplateFailed(f"{len(answers)} {{% generation %}} blocks for {len(learnt)} answers")
        kept = [span for span, learn in zip(answers, learnt, strict=True) if learn and span is not None]
        text = self._swapped(whole.text, kept) if found else RenderedText(whole.text, kept, False)
        return text._replace(ignored=ignored_of(whole.text, messages, answers))

    def encode(self, texts: Sequence[RenderedText]) -> list["Encoding"]:
        """Encodings of rendered texts, without anything that the tokenizer itself would put around them."""
        plain = iter(self._tokenizer.encode_batch([t.text for t in texts if not t.as_text], add_special_tokens=False))
        spelt = [t.text for t in texts if t.as_text]
        other = iter(self._special.as_text.encode_batch(spelt, add_special_tokens=False) if spelt else ())
        found = [next(other) if text.as_text else next(plain) for text in texts]
        for encoding in found if self._text.beyond else ():  # a list of its ids is made for this
            self.refuse_beyond(encoding.ids)
        return found

    def refuse_beyond(self, ids: Iterable[int]) -> None:
        """Raise Refused if one of `ids` is a special token that the model has no embedding for."""
        if not self._text.beyond:
            return
        beyond = {number: text for text, number in self._text.beyond.items()}
        if (number := next((number for number in ids if number in beyond), None)) is not None:
            what = f"{beyond[number]} has id {number}, beyond the model's vocabulary, but the text has it"
            raise refuse(self.origin, what, "give the tokenizer that came with the model, or another prompt format")

    def _hidden(self, messages: list[dict]) -> tuple[list[dict], bool]:
        """Messages in which control tokens that they spell are respelt, and whether there were any."""
        if self._allow or not any(map(self._special.spelt_in, texts_of(messages))):
            return messages, False
        return [{key: _mapped(key, value, self._special.hide) for key, value in m.items()} for m in messages], True

    def _swapped(self, text: str, spans: Sequence[tuple[int, int]]) -> RenderedText:
        """`text` as the tokenizer for spelt tokens takes it, with the spans where they are then."""
        result, answers, last = "", [], 0
        for first, end in spans:
            result += self._special.swap(text[last:first])
            answer = self._special.swap(text[first:end])
            answers.append((len(result), len(result) + len(answer)))
            result, last = result + answer, end
        return RenderedText(result + self._special.swap(text[last:]), answers, True)

    def _answers(self, whole: str, messages: list[dict], tools: list | None) -> list[tuple[int, int] | None]:
        """[first, end) of each assistant's message in `whole`; None for one that isn't to be learnt.

        Raises:
            TemplateFailed: the template writes them in no place that can be found.
        """

        def render(count: int, prompt: bool) -> str:
            return self._render(messages[:count], prompt=prompt, tools=tools).text

        return find_answers(whole, messages, render, self._special, self._listed_ends)

    @cached_property
    def _listed_ends(self) -> set[str | None]:
        """The tokens that end an answer as the model's files say."""
        ids = (self._text.eos_token_id, *self._text.stop_token_ids)
        return {self._tokenizer.id_to_token(token) for token in ids}

    def _render(self, messages: list[dict], *, prompt: bool = False, tools: list | None = None) -> Rendered:
        return self._template.render(messages, self._text.special_tokens, add_generation_prompt=prompt, tools=tools)

    def _try(self) -> None:
        """Raise Refused for a template that leaves the request or the answer out: nothing could be learnt from it."""
        try:
            text, answers, *_ = self.conversation(Conversation(TRIAL))
        except TemplateFailed as error:
            raise refuse(self.origin, str(error), REMEDY) from None
        said = "".join(text[first:end] for first, end in answers)
        self.encode([RenderedText(text, [], False)])
        for part, found, expected in (("request", text, TRIAL[0]), ("answer", said, TRIAL[1])):
            if expected.content not in found:
                raise refuse(self.origin, f"the {part} is not in what the template writes: {found!r}", REMEDY)


def choose_format(
    text: "TextSetup", choice: str | None, key: str, *, allow_special_tokens: bool = False
) -> PromptFormat:
    """The prompt format of a task: the one that its key names, else the model's own, else none.

    Args:
        choice: one of our formats, or a .jinja file; None and "auto": the model's own.
        key: the config key that held `choice`.

    Raises:
        Refused: it can't be read or used.
    """
    own = text.template or ModelTemplate("none", None, NONE_BROUGHT)
    found = own if choice in (None, "auto") else given_template(choice, key)
    return PromptFormat(found, text, allow_special_tokens=allow_special_tokens)


def named_source(name: str, adds_bos: bool) -> str:
    """The source of one of our formats, for a tokenizer that puts its bos before each text, or doesn't."""
    source = (NAMED / f"{name}.jinja").read_text(encoding="utf-8")
    return source.replace("tokenizer_adds_bos", "true" if adds_bos else "false")


def _compiled(source: str, where: str) -> ChatTemplate:
    from jinja2 import TemplateSyntaxError

    try:
        return ChatTemplate(source)
    except TemplateSyntaxError as error:
        raise refuse(f"{where}:{error.lineno}", f"not a Jinja2 template: {error.message}", REMEDY) from None


def _mapped(key: str, value: Any, change: Callable[[str], str]) -> Any:
    """A message's value with each string in it changed, but for its role."""
    if isinstance(value, str):
        return value if key == "role" else change(value)
    if isinstance(value, dict):
        return {name: _mapped(name, item, change) for name, item in value.items()}
    return [_mapped(key, item, change) for item in value] if isinstance(value, list) else value
