"""A prompt format read from a file: a Jinja2 template that follows Hugging Face's conventions for chat templates.

It gets `messages`, `add_generation_prompt`, `bos_token` and `eos_token`, and runs in a sandbox, as it may come from
anywhere. There is no `strftime_now`: a prompt that tells the date would make prepared data stale overnight.
"""

import json
from typing import TYPE_CHECKING, Any, NoReturn

from dscoder_exp.data.conversation import BOS_MARK, EOS_MARK, Specials, Turn, UnfitConversation, messages_of, request_of
from dscoder_exp.data.rows import Chat, Row
from dscoder_exp.data.source import digest
from dscoder_exp.hub.locate import locate
from dscoder_exp.schema.config import TEMPLATE_FILE
from dscoder_exp.schema.errors import refuse

if TYPE_CHECKING:
    import jinja2

REMEDY = "mend the template; it gets messages, add_generation_prompt, bos_token and eos_token"
TRIAL = Row("What is 2 + 2?", "", "It is 4.")


class JinjaTemplate:
    """A prompt format read from a file. It writes the bos itself, if it wants one."""

    bos = False

    def __init__(self, name: str, source: str) -> None:
        """
        Raises:
            jinja2.TemplateSyntaxError: `source` is no template.
        """
        self.name, self.source = name, source
        self._template = _compiled(source)

    @property
    def identity(self) -> str:
        return f"{self.name} {digest([self.source.encode()])}"

    def render_prompt(self, instruction: str, input: str = "") -> str:
        """As PromptFormat's, with marks in the place of the special tokens: `encode_prompts` knows their texts.

        Raises:
            Refused: the template fails.
        """
        try:
            return self._render([{"role": "user", "content": request_of(instruction, input)}], prompt=True)
        except UnfitConversation as error:
            raise refuse(self.name, str(error), REMEDY) from None

    def turns(self, row: Row | Chat, specials: Specials) -> list[Turn]:
        """What the template writes for an assistant's message, up to the model's eos, is the answer.

        Each prompt is rendered with all that goes before it, and so is each answer: the template may look at the whole
        conversation, but what it has written it can't take back.

        Raises:
            UnfitConversation: the template fails, or a longer conversation doesn't begin as the shorter one did.
        """
        messages, turns, done = messages_of(row), [], ""
        for index, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            given = specials.fill(self._render(messages[:index], prompt=True))
            whole = specials.fill(self._render(messages[: index + 1], prompt=False))
            if not (given.startswith(done) and whole.startswith(given)):
                longer, shorter = ("answer", "prompt") if given.startswith(done) else ("prompt", "answer before")
                what = f"the text up to the {longer} of message {index + 1} doesn't begin with the text up to the"
                raise UnfitConversation(f"{what} {shorter}")
            end = whole.rfind(specials.eos, len(given)) if specials.eos else -1
            answer = whole[len(given) : end] if end >= 0 else whole[len(given) :]
            turns.append(Turn(given[len(done) :], answer))
            done = whole[: end + len(specials.eos)] if end >= 0 else whole
        return turns

    def _render(self, messages: list[dict[str, str]], *, prompt: bool) -> str:
        try:
            return self._template.render(
                messages=messages, add_generation_prompt=prompt, bos_token=BOS_MARK, eos_token=EOS_MARK
            )
        except Exception as error:  # whatever the template's code does
            raise UnfitConversation(f"the template fails: {error}") from None


def read_template(path: str, key: str) -> JinjaTemplate:
    """The template in a file, tried on a short conversation.

    Args:
        key: the config key that held `path`.

    Raises:
        Refused: there is no such file, it is no template, or its prompt isn't what its conversation begins with.
    """
    from jinja2 import TemplateSyntaxError

    found = locate(path, key)
    try:
        template = JinjaTemplate(found.name, found.read_text(encoding="utf-8"))
        (turn,) = template.turns(TRIAL, Specials("<s>", "</s>"))
    except OSError as error:
        raise refuse(key, f"cannot be read: {found} ({error.strerror})", f"give {key} a {TEMPLATE_FILE} file") from None
    except TemplateSyntaxError as error:
        raise refuse(f"{found}:{error.lineno}", f"not a Jinja2 template: {error.message}", REMEDY) from None
    except UnicodeDecodeError as error:
        raise refuse(str(found), f"not UTF-8: {error.reason}", "save the file as UTF-8") from None
    except UnfitConversation as error:
        raise refuse(str(found), str(error), REMEDY) from None
    _refuse_silent(turn, str(found))
    return template


def _refuse_silent(turn: Turn, where: str) -> None:
    """Raise Refused if the template leaves out the request or the answer: documents would teach nothing."""
    for part, text, expected in (("request", turn.prompt, TRIAL.instruction), ("answer", turn.answer, TRIAL.output)):
        if expected not in text:
            raise refuse(where, f"the {part} is not in what the template writes: {text!r}", REMEDY)


def _compiled(source: str) -> "jinja2.Template":
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise
    return environment.from_string(source)


def _to_json(value: Any, indent: int | None = None) -> str:
    """Replaces Jinja2's own filter, which escapes for HTML."""
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _raise(message: str) -> NoReturn:
    raise ValueError(message)
