"""Overrides as they are typed: paths, names and prompts with any characters, quoted for Hydra where it needs that.

Hydra parses `KEY=VALUE` by its own grammar (hydra/grammar/OverrideLexer.g4, 1.3). A value with a quote, a comma, a
bracket, =, ~ or a character beyond ASCII would have to be quoted twice, for the shell and for Hydra.
"""

import os
import re
from collections.abc import Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString, Sweep
from hydra.errors import HydraException
from omegaconf import OmegaConf, grammar_parser
from omegaconf.errors import GrammarParseError, OmegaConfBaseException

from dscoder_exp.schema.paths import PATH_KEYS

PROMPT_KEYS = (
    "predict.prompt",
    "predict.prefix",
    "predict.suffix",
    "evaluate.instruction",
)  # prose or code: `${` and Hydra's escapes mean nothing in it
NAME_KEYS = ("name", "tracking.experiment", "compare.experiment")
HYDRA_PATHS = ("hydra.run.dir", "hydra.sweep.dir", "hydra.launcher.log_dir", "hydra.launcher.rank_table_file")
PATHS = (*PATH_KEYS, "tracking.uri", *HYDRA_PATHS)

OVERRIDE = re.compile(r"(?P<start>\+{0,2}(?P<key>[\w.]+)=)(?P<value>.+)", re.DOTALL)
QUOTED = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\"""", re.DOTALL)  # the grammar's QUOTED_VALUE
PLAIN = re.compile(r"[A-Za-z0-9_./+@%?*|-]+")  # no character that Hydra escapes when it writes an override down
ESCAPE = re.compile(r"\\[\\()\[\]{}:=, \t]")  # the grammar's ESC
SWEEP = re.compile(r"(?:choice|range|glob|shuffle|sort|tag|interval)\(.*\)", re.DOTALL)
UNREADABLE = object()
CHOICE = re.compile(r"choice\((.*)\)", re.DOTALL)


def for_hydra(arguments: Sequence[str], *, sweep: bool) -> list[str]:
    """The command line with the values of paths, names and prompts quoted for Hydra, where its grammar requires that.

    Unchanged: what is quoted for Hydra as a whole ('a, b'), null, and `${…}` in paths and names. A list or dict that
    Hydra can't parse gets its elements quoted, whatever its key. With `sweep`, commas separate the values of a path or
    name, but not before a blank, nor in the path of an existing file; a prompt's commas never do. Several prompts are
    choice(…), or each in quotes.

    Args:
        sweep: whether `-m` is given.
    """
    return [_for_hydra(argument, sweep) for argument in arguments]


def typed(key: str, text: str) -> str:
    """The argument `KEY=TEXT` that gives `key` exactly this text; it still needs the shell's quotes."""
    argument = f"{key}={text}"
    return argument if _meaning(argument) == text else f"{key}={quoted(text)}"


def literal(text: str) -> str:
    """The text with `${` escaped, so that OmegaConf sees no interpolation in it; backslashes before it are kept."""
    return re.sub(r"(\\*)\$\{", r"\1\1\\${", text)


def quoted(text: str) -> str:
    """The text as a quoted value of Hydra's grammar, without interpolations."""
    return _quoted(literal(text))


def _for_hydra(argument: str, sweep: bool) -> str:
    found = OVERRIDE.fullmatch(argument)
    if found is None:
        return argument
    start, key, text = found["start"], found["key"], found["value"]
    if key in PATHS or key in NAME_KEYS or key in PROMPT_KEYS:
        return start + ((_swept(key, text) if sweep else None) or _value(key, text))
    if text[0] in "[{" and _parsed(text) is UNREADABLE:
        return start + _container(text)
    return argument


def _value(key: str, text: str) -> str:
    """A single value, quoted where Hydra would read something else than the text."""
    if QUOTED.fullmatch(text) or text.lower() == "null":
        return text
    if key in HYDRA_PATHS:
        text = os.path.expanduser(text)
    if PLAIN.fullmatch(text) and isinstance(_parsed(text), str):  # not a number, which Hydra would write anew
        return text
    as_typed = key in PROMPT_KEYS or (key in PATHS and _exists(text))
    if not as_typed and ESCAPE.search(text) and isinstance(_parsed(text), str):
        return text
    return quoted(text) if as_typed or not _interpolates(text) else _quoted(text)


def _swept(key: str, text: str) -> str | None:
    """The values of a sweep, each quoted as by `_value`; None: the text is a single value."""
    if choice := CHOICE.fullmatch(text):
        return _joined(key, _split(choice[1]))  # Hydra's choice() drops the quotes, which its jobs' overrides need
    if key in PROMPT_KEYS:
        parts = _split(text)
        return text if len(parts) > 1 and all(QUOTED.fullmatch(part.strip()) for part in parts) else None
    if SWEEP.fullmatch(text) and isinstance(_parsed(text), Sweep):
        return text
    parts = _split(text, tight=True)
    if len(parts) == 1 or not all(map(str.strip, parts)) or (key in PATHS and _exists(text)):
        return None
    return _joined(key, parts)


def _joined(key: str, parts: Sequence[str]) -> str:
    return ",".join(_value(key, part.strip()) for part in parts)


def _container(text: str) -> str:
    """A list or dict, or a sweep's several, with the elements quoted that Hydra can't parse."""
    text = text.strip()
    if len(parts := _split(text)) > 1:
        return ",".join(map(_container, parts))
    if text[:1] == "[" and text[-1:] == "]":
        return f"[{_container(text[1:-1])}]"
    if text[:1] == "{" and text[-1:] == "}":
        pairs = (part.partition(":") for part in _split(text[1:-1]))
        return "{" + ",".join(f"{key}{colon}{_container(value)}" for key, colon, value in pairs) + "}"
    return quoted(text) if text and _parsed(text) is UNREADABLE else text


def _split(text: str, *, tight: bool = False) -> list[str]:
    """Split at commas outside brackets, quotes and escapes; tight: not at those before a blank."""
    parts, begin, depth, position = [], 0, 0, 0
    while position < len(text):
        character = text[position]
        if character in "'\"" and not text[begin:position].strip() and (whole := QUOTED.match(text, position)):
            position = whole.end()
            continue
        if character == "," and not depth and not (tight and text[position + 1 : position + 2].isspace()):
            parts.append(text[begin:position])
            begin = position + 1
        depth = max(0, depth + (character in "([{") - (character in ")]}"))
        position += 2 if character == "\\" else 1
    return [*parts, text[begin:]]


def _quoted(text: str) -> str:
    return QuotedString(text, Quote.single).with_quotes()


def _parsed(text: str) -> Any:
    """What Hydra reads in the value, or UNREADABLE."""
    try:
        return OverridesParser.create().parse_override(f"key={text}").value()
    except HydraException:
        return UNREADABLE


def _interpolates(text: str) -> bool:
    """Whether OmegaConf's grammar finds an interpolation, or an escaped one."""
    try:
        return "${" in text and grammar_parser.parse(text) is not None
    except GrammarParseError:
        return False


def _exists(path: str) -> bool:
    return os.path.exists(os.path.expanduser(path))


def _meaning(argument: str) -> Any:
    """The value that the argument, typed without `-m`, gives its key; None where that can't be said."""
    try:
        override = OverridesParser.create().parse_override(_for_hydra(argument, sweep=False))
        return OmegaConf.create({"value": override.value()}).value
    except (HydraException, OmegaConfBaseException):
        return None
