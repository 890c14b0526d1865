"""From the `model` and `tokenizer` groups to a model's shape, the place of its weights, and a tokenizer that fits."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dscoder_exp.hub.download import download
from dscoder_exp.hub.locate import locate
from dscoder_exp.schema.config import ModelConfig, TokenizerConfig
from dscoder_exp.schema.errors import Problem, Refused, refuse
from dscoder_exp.schema.llama import LlamaConfig, RopeScaling
from dscoder_exp.storage.file_names import CONFIG_FILE
from dscoder_exp.storage.json_files import read_json
from dscoder_exp.weights.formats.hf_config import from_hf
from dscoder_exp.weights.lora.adapter import Adapter
from dscoder_exp.weights.source import WeightSource, open_weights
from dscoder_exp.weights.tokenizer import fingerprint, load_tokenizer, vocabulary_problem

if TYPE_CHECKING:
    from tokenizers import Tokenizer

TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id")
CHOSEN = ("eos_token_id", "pad_token_id")  # what ends an answer is the user's choice, whatever the file says
MAY_BE_NULL = ("head_dim", "rope_scaling", *TOKENS)
GIVE_WEIGHTS = "model.path=DIR (Hugging Face or native directory, .gguf file); model=tiny needs none"
GIVE_TOKENIZER = "tokenizer.path=DIR or tokenizer.path=tokenizer.json"


@dataclass(frozen=True)
class OpenedModel:
    """A model before any of its tensors is read.

    Attributes:
        config: the shape, and the special tokens that hold.
        source: where the weights lie; None: they are drawn from the seed.
        template: the prompt format that the model follows, None where it isn't known.
        adapter: one that belongs to it.
    """

    config: LlamaConfig
    source: WeightSource | None
    template: str | None
    adapter: Adapter | None = None


@dataclass(frozen=True)
class TextSetup:
    """What turning text into token ids needs of a model; its weights are not part of it.

    `pad_token_id` is the eos where the model has none: padding is masked by place, so any id serves. `context` is the
    longest document in tokens, None where nothing limits it.
    """

    tokenizer: Tokenizer
    bos_token_id: int | None
    eos_token_id: int
    pad_token_id: int
    context: int | None


def open_model(model: ModelConfig) -> OpenedModel:
    """The model that the group describes; reads a config and no tensor.

    Raises:
        Refused: no weights are given and none may be drawn; nothing usable lies at `model.path`; keys of the group
            that contradict what lies there (all of them at once).
    """
    if model.path is not None:
        source, config = open_source(model.path, "model.path", model)
        return OpenedModel(config, source, model.template or source.template)
    if model.init == "pretrained":
        raise refuse("model.path", "no weights are given, and model.init=pretrained needs some", GIVE_WEIGHTS)
    return OpenedModel(_shape(model), None, model.template)


def open_source(path: str, key: str, model: ModelConfig) -> tuple[WeightSource, LlamaConfig]:
    """Weights, and their shape with the group's choices.

    Args:
        key: the config key that held `path`.

    Raises:
        Refused: nothing usable lies there; keys of the group that contradict it (all of them at once).
    """
    shape = None if _missing(model) else _shape(model)
    source = open_weights(path, key, shape)
    return source, _agreed(model, source)


def open_tokenizer(tokenizer: TokenizerConfig, opened: OpenedModel) -> Tokenizer:
    """`tokenizer.path`, else the one that lies with the weights.

    Raises:
        Refused: there is none, it can't be read, it doesn't fit the model, or it isn't the one the model was made with.
    """
    source = opened.source
    if tokenizer.path is None:
        if source is None or (found := source.tokenizer()) is None:
            without = "the model has no files" if source is None else f"none lies in {source.path}"
            raise refuse("tokenizer.path", f"no tokenizer is given, and {without}", GIVE_TOKENIZER)
    else:
        found = load_tokenizer(tokenizer.path)
    if (problem := vocabulary_problem(found, opened.config)) is not None:
        raise Refused([problem])
    if source is not None and tokenizer.path is not None:
        _refuse_other_tokenizer(found, tokenizer.path, source)
    return found


def _refuse_other_tokenizer(given: Tokenizer, path: str, source: WeightSource) -> None:
    ours, theirs = fingerprint(given), source.fingerprint()
    if theirs is None or ours.sha256 == theirs.sha256:
        return
    what = f"{path} ({ours}) is not the tokenizer of {source.path} ({theirs})"
    raise refuse("tokenizer.path", what, "leave tokenizer.path out, or give the tokenizer that came with the model")


def text_setup(config: LlamaConfig, tokenizer: Tokenizer) -> TextSetup:
    """Of a model that is open.

    Raises:
        Refused: the model names no token that ends an answer.
    """
    eos, pad = config.eos_token_id, config.pad_token_id
    if eos is None:
        raise refuse("model.eos_token_id", "null: nothing would end an answer", "model.eos_token_id=ID")
    return TextSetup(tokenizer, config.bos_token_id, eos, eos if pad is None else pad, config.max_position_embeddings)


def open_text(model: ModelConfig, tokenizer: TokenizerConfig) -> TextSetup:
    """For work on text alone: no weights are needed, and without a model the tokenizer's own files name its tokens.

    Raises:
        Refused: as `open_model` and `open_tokenizer` do; or nothing says which token ends an answer.
    """
    if model.path is not None:
        opened = open_model(model)
        return text_setup(opened.config, open_tokenizer(tokenizer, opened))
    if not _missing(model):
        opened = OpenedModel(_shape(model), None, model.template)
        return text_setup(opened.config, open_tokenizer(tokenizer, opened))
    if tokenizer.path is None:
        raise refuse("tokenizer.path", "no tokenizer is given", f"{GIVE_TOKENIZER}, or a model.path that holds one")
    found = load_tokenizer(tokenizer.path)
    ids = {name: getattr(model, name) for name in TOKENS}
    for name in TOKENS:
        if ids[name] is None:
            ids[name] = _named_by_files(found, tokenizer.path, name)
    if (eos := ids["eos_token_id"]) is None:
        what = f"nothing beside {tokenizer.path} says which token ends an answer"
        raise refuse("model.eos_token_id", what, "model.eos_token_id=ID, or model.path=DIR")
    pad = ids["pad_token_id"]
    return TextSetup(found, ids["bos_token_id"], eos, eos if pad is None else pad, model.max_position_embeddings)


def _shape(model: ModelConfig) -> LlamaConfig:
    """The group's keys alone."""
    if missing := _missing(model):
        what = f"the model's shape has to be given in full, but these are null: {', '.join(missing)}"
        raise refuse("model", what, "give them, take model=tiny, or read the shape from model.path=DIR")
    values: dict[str, Any] = {**dict.fromkeys(MAY_BE_NULL), **_given(model)}
    if values["head_dim"] is None:
        values["head_dim"] = values["hidden_size"] // values["num_attention_heads"]
    return LlamaConfig(**values)


def _missing(model: ModelConfig) -> list[str]:
    return [item.name for item in fields(LlamaConfig) if item.name not in (*MAY_BE_NULL, *_given(model))]


def _given(model: ModelConfig) -> dict[str, Any]:
    """LlamaConfig's fields that the group has a value for."""
    values = {item.name: getattr(model, item.name) for item in fields(LlamaConfig)}
    if model.rope_scaling is not None:
        values["rope_scaling"] = RopeScaling(model.rope_scaling.type, model.rope_scaling.factor)
    return {name: value for name, value in values.items() if value is not None}


def _agreed(model: ModelConfig, source: WeightSource) -> LlamaConfig:
    """The source's shape with the group's choices, where both don't contradict each other."""
    given, found = _given(model), source.config
    chosen = {n: v for n, v in given.items() if n in CHOSEN or (n in TOKENS and getattr(found, n) is None)}
    problems = [
        Problem(f"model.{name}", f"{_shown(value)} is given, but {source.path} has {_shown(getattr(found, name))}")
        for name, value in given.items()
        if name not in chosen and value != getattr(found, name)
    ]
    if problems:
        remedy = "model=from_path reads the shape from model.path; or give the directory that was meant"
        raise Refused([*problems[:-1], replace(problems[-1], remedy=remedy)])
    return replace(found, **chosen)


def _shown(value: Any) -> str:
    if isinstance(value, RopeScaling):
        return f"{{type: {value.type}, factor: {value.factor:g}}}"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _named_by_files(tokenizer: Tokenizer, path: str, name: str) -> int | None:
    """The id of the token that the tokenizer_config.json beside a tokenizer names as its bos, eos or pad."""
    found = locate(path, "tokenizer.path")
    file = (found if found.is_dir() else found.parent) / "tokenizer_config.json"
    if not file.is_file():
        return None
    token = read_json(file, "tokenizer.path").get(name.removesuffix("_id"))
    text = token.get("content") if isinstance(token, dict) else token
    return tokenizer.token_to_id(text) if isinstance(text, str) else None


def fetch(address: str, key: str) -> str:
    """As `download`, whose address it returns; the weights of a model that isn't a Llama are left where they are.

    Raises:
        Refused: as `download` does, or the model is none that could be opened.
    """
    return download(address, key, lambda directory: _check_config(directory / CONFIG_FILE, key))


def _check_config(file: Path, key: str) -> None:
    if file.is_file():  # a native checkpoint has its record
        from_hf(read_json(file, key), str(file))
