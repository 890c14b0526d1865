"""A chat template: Jinja2 source that writes a conversation as text, rendered as transformers renders it.

Source of the conventions: transformers/utils/chat_template_utils.py, `_compile_jinja_template`.
"""

import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from dscoder_exp.data.source import digest

if TYPE_CHECKING:
    import jinja2

# Around what {% generation %} has written, until the text is whole: code points that no text uses, as they are no
# characters.
BEGIN, END = "\ufdd2", "\ufdd3"
MARKED = re.compile(f"[{BEGIN}{END}]")


class TemplateFailed(ValueError):
    """A chat template doesn't take a conversation."""


class Rendered(NamedTuple):
    """
    Attributes:
        generated: [first, end) in characters of each stretch that stood between {% generation %} and
            {% endgeneration %}: the assistant's words.
    """

    text: str
    generated: list[tuple[int, int]]


class ChatTemplate:
    """A compiled chat template."""

    def __init__(self, source: str) -> None:
        """
        Raises:
            jinja2.TemplateSyntaxError: `source` is no Jinja2 template.
        """
        self.source = source
        self._template = _compiled(source)
        self._globals = dict(self._template.globals)

    @property
    def identity(self) -> str:
        """Hash of all that the text depends on besides the conversation: the source, and today's date if it asks."""
        today = datetime.now().strftime("%Y-%m-%d") if "strftime_now" in self.source else ""
        return digest([self.source.encode(), today.encode()])

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        special_tokens: Mapping[str, str],
        *,
        add_generation_prompt: bool,
        tools: Sequence[Any] | None = None,
    ) -> Rendered:
        """
        Args:
            messages: {"role": ..., "content": ...}, and whatever else the template asks for.
            special_tokens: bos_token, eos_token and so on; one that the tokenizer lacks is left out.

        Raises:
            TemplateFailed: the template's code raises.
        """
        try:
            given = {"messages": messages, "tools": tools, "add_generation_prompt": add_generation_prompt}
            context = self._template.new_context({**self._globals, **special_tokens, **given}, shared=True)
            text = "".join(self._template.root_render_func(context))
        except Exception as error:  # whatever the template's code does
            raise TemplateFailed(f"the chat template fails: {error}") from None
        return _unmarked(text)


def _unmarked(text: str) -> Rendered:
    if BEGIN not in text:
        return Rendered(text, [])
    places = [match.start() - index for index, match in enumerate(MARKED.finditer(text))]
    return Rendered(MARKED.sub("", text), list(zip(places[::2], places[1::2], strict=True)))


def _compiled(source: str) -> "jinja2.Template":
    from jinja2 import nodes
    from jinja2.ext import Extension
    from jinja2.parser import Parser
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """{% generation %} ... {% endgeneration %}: the body, between BEGIN and END."""

        tags = {"generation"}  # noqa: RUF012  # Jinja2's own spelling

        def parse(self, parser: Parser) -> nodes.Node:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.CallBlock(self.call_method("_mark"), [], [], body).set_lineno(line)

        def _mark(self, caller: Any) -> str:
            return f"{BEGIN}{caller()}{END}"

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, "jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return environment.from_string(source)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Jinja2's own `tojson` writes for HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise(message: str) -> NoReturn:
    from jinja2 import TemplateError

    raise TemplateError(message)
