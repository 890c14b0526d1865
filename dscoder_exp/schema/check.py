"""Check a composed configuration against the schema: report all problems at once, or return the typed Config."""

from collections.abc import Mapping
from dataclasses import MISSING, Field, fields
from typing import Any, get_args, get_origin, get_type_hints

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from dscoder_exp.schema.bounds import bounds_of, broken_limit
from dscoder_exp.schema.config import Config
from dscoder_exp.schema.errors import Problem, Refused
from dscoder_exp.schema.suggest import dataclass_in, did_you_mean, nearest, nearest_keys, unknown_key

GROUPS = ("experiment",)  # config groups without keys in the configuration
TYPE_NAMES = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}


def to_config(cfg: DictConfig, *, launched: bool = False) -> Config:
    """Check types, limits, unknown and missing keys, and return the typed configuration.

    Args:
        cfg: as Hydra composed it; a `hydra` node is ignored.
        launched: whether keys that the app sets at launch may have a value.

    Raises:
        Refused: the configuration has problems; all of them are listed.
    """
    checker = _Checker(launched)
    config = checker.group(cfg, Config, "")
    if checker.problems:
        raise Refused(checker.problems)
    return config


class _Checker:
    """One pass over the configuration tree that builds the dataclasses and collects problems."""

    def __init__(self, launched: bool) -> None:
        self.launched = launched
        self.problems: list[Problem] = []

    def group(self, node: DictConfig, schema: type, prefix: str) -> Any:
        """The group as its dataclass; None if any problem has been found so far."""
        hints = get_type_hints(schema)
        names = {item.name for item in fields(schema)}
        unknown = [str(key) for key in node if key not in names and (prefix or key != "hydra")]
        self.problems += [unknown_key(prefix + key, extra=() if prefix else GROUPS) for key in unknown]
        suggested = {key for name in unknown for key in nearest_keys(prefix + name)}
        values: dict[str, Any] = {}
        probe = OmegaConf.structured(schema)
        for item in fields(schema):
            key = prefix + item.name
            if item.name not in node:
                if key not in suggested and item.default is MISSING:  # else already reported as a misspelling
                    self.problems.append(Problem(key, "missing", f"give a value: {key}=…"))
                continue
            try:
                value = node[item.name]
                if OmegaConf.is_list(value):
                    value = OmegaConf.to_container(value, resolve=True)
            except MissingMandatoryValue:
                self.problems.append(Problem(key, "has no value", f"give one: {key}=…"))
            except OmegaConfBaseException as error:
                self.problems.append(Problem(key, f"can't be resolved: {_first_line(error)}"))
            else:
                values[item.name] = self.field(value, probe, item, hints[item.name], key)
        return None if self.problems else schema(**values)

    def field(self, value: Any, probe: DictConfig, item: Field, hint: Any, key: str) -> Any:
        """The value converted to the field's type; `probe` is an OmegaConf structured config that validates types."""
        inner = dataclass_in(hint)
        if inner is not None and isinstance(value, DictConfig):
            return self.group(value, inner, f"{key}.")
        if inner is not None and value is None and type(None) in get_args(hint):
            return None
        if inner is not None:
            self.problems.append(Problem(key, f"must hold keys ({_names(inner)}), got {value!r}"))
            return None
        try:
            value = _converted(value, probe, item.name, hint)
        except OmegaConfBaseException:
            got = OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
            self.problems.append(Problem(key, f"must be {_describe(hint)}, got {got!r}"))
            return None
        if (problem := self.limits(value, bounds_of(item), key)) is not None:
            self.problems.append(problem)
        return value

    def limits(self, value: Any, bounds: Mapping[str, Any], key: str) -> Problem | None:
        """The first limit that the value violates; null violates none."""
        if value is None:
            return None
        if bounds.get("set_at_launch") and not self.launched:
            return Problem(key, "is set at launch", "leave it out")
        choices, file = bounds.get("choices", ()), bounds.get("file")
        for element in value if isinstance(value, list) else [value]:
            if choices and element not in choices and not (file and element.endswith(file)):
                remedy = did_you_mean(nearest(str(element), choices))
                or_file = f", or a {file} file" if file else ""
                return Problem(key, f"must be one of {', '.join(choices)}{or_file}; got {element!r}", remedy)
            if broken := broken_limit(element, bounds):
                return Problem(key, f"must be {broken}, got {element}")
        return None


def _converted(value: Any, probe: DictConfig, name: str, hint: Any) -> Any:
    """The value in the field's type (an int becomes a float for a float field). Raises OmegaConfBaseException if it has
    another type.
    """
    is_list = isinstance(value, list)
    takes_text = str in (hint, *get_args(hint)) and is_list == (get_origin(hint) is list)
    if takes_text and all(isinstance(element, str) for element in (value if is_list else [value])):
        return value  # unchanged: the probe would interpolate "${"
    probe[name] = value
    value = probe[name]
    return OmegaConf.to_container(value) if OmegaConf.is_config(value) else value


def _describe(hint: Any) -> str:
    """A field's type in words: Optional[int] gives "a whole number or null"."""
    options = get_args(hint)
    if get_origin(hint) is list:
        return f"a list, each {TYPE_NAMES[options[0]]}"
    if get_origin(hint) is dict:
        return "names and what they stand for, {NAME: TEXT, …}"
    if type(None) in options:
        return f"{_describe(next(o for o in options if o is not type(None)))} or null"
    return TYPE_NAMES[hint]


def _names(schema: type) -> str:
    return ", ".join(item.name for item in fields(schema))


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0]
