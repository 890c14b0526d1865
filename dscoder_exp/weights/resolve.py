"""Open the model and tokenizer that the `model` and `tokenizer` groups of the configuration describe."""

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

TOKEN_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")
OVERRIDABLE = ("eos_token_id", "pad_token_id")  # may differ from the file: users choose what ends an answer
OPTIONAL = ("head_dim", "rope_scaling", *TOKEN_IDS)
GIVE_WEIGHTS = "model.path=DIR (Hugging Face or native directory, .gguf file); model=tiny needs none"
GIVE_TOKENIZER = "tokenizer.path=DIR or tokenizer.path=tokenizer.json"


@dataclass(frozen=True)
class OpenedModel:
    """A model whose tensors haven't been read yet.

    Attributes:
        config: the shape and the special tokens.
        source: the weights; None: they are initialised from the seed.
        template: the model's prompt format; None: unknown.
        adapter: a LoRA adapter of this model.
    """

    config: LlamaConfig
    source: WeightSource | None
    template: str | None
    adapter: Adapter | None = None


@dataclass(frozen=True)
class TextSetup:
    """What encoding text for a model needs: the tokenizer, special tokens and context, but no weights.

    `pad_token_id` is the EOS if the model has none: padding is masked by position, so any id will do. `context` is the
    maximum length of a document in tokens; None: unlimited.
    """

    tokenizer: Tokenizer
    bos_token_id: int | None
    eos_token_id: int
    pad_token_id: int
    context: int | None


def open_model(model: ModelConfig) -> OpenedModel:
    """Open the model that the `model` group describes; reads its config, no tensor.

    Raises:
        Refused: model.path is null with model.init=pretrained; the weights there can't be opened; keys of the group
            contradict their config (all are reported).
    """
    if model.path is not None:
        source, config = open_source(model.path, "model.path", model)
        return OpenedModel(config, source, model.template or source.template)
    if model.init == "pretrained":
        raise refuse("model.path", "no weights are given, but model.init=pretrained needs them", GIVE_WEIGHTS)
    return OpenedModel(_config_from_keys(model), None, model.template)


def open_source(path: str, key: str, model: ModelConfig) -> tuple[WeightSource, LlamaConfig]:
    """Open weights; return them and their config, updated with the `model` group's keys.

    Args:
        key: the config key that held `path`.

    Raises:
        Refused: the weights can't be opened; keys of the group contradict their config (all are reported).
    """
    shape = None if _missing_keys(model) else _config_from_keys(model)
    source = open_weights(path, key, shape)
    return source, _merged_config(model, source)


def open_tokenizer(tokenizer: TokenizerConfig, opened: OpenedModel) -> Tokenizer:
    """Load the tokenizer of tokenizer.path, or else the one stored with the weights.

    Raises:
        Refused: there is none, it can't be read, it doesn't fit the model, or it differs from the model's own.
    """
    source = opened.source
    if tokenizer.path is None:
        if source is None or (found := source.tokenizer()) is None:
            without = "the model has no files" if source is None else f"there is none in {source.path}"
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
    """The TextSetup of a model and its tokenizer.

    Raises:
        Refused: the model has no eos_token_id.
    """
    eos, pad = config.eos_token_id, config.pad_token_id
    if eos is None:
        raise refuse("model.eos_token_id", "is null, but an answer needs a token that ends it", "model.eos_token_id=ID")
    return TextSetup(tokenizer, config.bos_token_id, eos, eos if pad is None else pad, config.max_position_embeddings)


def open_text(model: ModelConfig, tokenizer: TokenizerConfig) -> TextSetup:
    """The TextSetup of the configuration, which needs no weights: without a model, the special tokens are read from the
    tokenizer's files.

    Raises:
        Refused: as `open_model` and `open_tokenizer` do; or no EOS token is known.
    """
    if model.path is not None:
        opened = open_model(model)
        return text_setup(opened.config, open_tokenizer(tokenizer, opened))
    if not _missing_keys(model):
        opened = OpenedModel(_config_from_keys(model), None, model.template)
        return text_setup(opened.config, open_tokenizer(tokenizer, opened))
    if tokenizer.path is None:
        raise refuse("tokenizer.path", "no tokenizer is given", f"{GIVE_TOKENIZER}, or a model.path with a tokenizer")
    found = load_tokenizer(tokenizer.path)
    ids = {name: getattr(model, name) for name in TOKEN_IDS}
    for name in TOKEN_IDS:
        if ids[name] is None:
            ids[name] = _token_id_from_files(found, tokenizer.path, name)
    if (eos := ids["eos_token_id"]) is None:
        what = f"no file beside {tokenizer.path} says which token ends an answer"
        raise refuse("model.eos_token_id", what, "model.eos_token_id=ID, or model.path=DIR")
    pad = ids["pad_token_id"]
    return TextSetup(found, ids["bos_token_id"], eos, eos if pad is None else pad, model.max_position_embeddings)


def _config_from_keys(model: ModelConfig) -> LlamaConfig:
    """The LlamaConfig of the group's keys alone. Raises Refused if any is missing."""
    if missing := _missing_keys(model):
        what = f"the model's shape has to be complete, but these keys are null: {', '.join(missing)}"
        raise refuse("model", what, "set them, take model=tiny, or read the shape from model.path=DIR")
    values: dict[str, Any] = {**dict.fromkeys(OPTIONAL), **_given_values(model)}
    if values["head_dim"] is None:
        values["head_dim"] = values["hidden_size"] // values["num_attention_heads"]
    return LlamaConfig(**values)


def _missing_keys(model: ModelConfig) -> list[str]:
    return [item.name for item in fields(LlamaConfig) if item.name not in (*OPTIONAL, *_given_values(model))]


def _given_values(model: ModelConfig) -> dict[str, Any]:
    """The group's values that are not null, by the names of LlamaConfig's fields."""
    values = {item.name: getattr(model, item.name) for item in fields(LlamaConfig)}
    if model.rope_scaling is not None:
        values["rope_scaling"] = RopeScaling(model.rope_scaling.type, model.rope_scaling.factor)
    return {name: value for name, value in values.items() if value is not None}


def _merged_config(model: ModelConfig, source: WeightSource) -> LlamaConfig:
    """The source's config with the group's tokens. Raises Refused for every other key that differs."""
    given, found = _given_values(model), source.config
    chosen = {n: v for n, v in given.items() if n in OVERRIDABLE or (n in TOKEN_IDS and getattr(found, n) is None)}
    problems = [
        Problem(f"model.{name}", f"{_shown(value)} is given, but {source.path} has {_shown(getattr(found, name))}")
        for name, value in given.items()
        if name not in chosen and value != getattr(found, name)
    ]
    if problems:
        remedy = "model=from_path reads the shape from model.path; or check model.path"
        raise Refused([*problems[:-1], replace(problems[-1], remedy=remedy)])
    return replace(found, **chosen)


def _shown(value: Any) -> str:
    if isinstance(value, RopeScaling):
        return f"{{type: {value.type}, factor: {value.factor:g}}}"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _token_id_from_files(tokenizer: Tokenizer, path: str, name: str) -> int | None:
    """The id of the BOS, EOS or padding token named in the tokenizer_config.json beside a tokenizer; None if absent."""
    found = locate(path, "tokenizer.path")
    file = (found if found.is_dir() else found.parent) / "tokenizer_config.json"
    if not file.is_file():
        return None
    token = read_json(file, "tokenizer.path").get(name.removesuffix("_id"))
    text = token.get("content") if isinstance(token, dict) else token
    return tokenizer.token_to_id(text) if isinstance(text, str) else None


def fetch(address: str, key: str) -> str:
    """Download as `download` does, and return its address; weights that can't be opened are not downloaded.

    Raises:
        Refused: as `download` does, or the model's config.json is not supported.
    """
    return download(address, key, lambda directory: _check_config(directory / CONFIG_FILE, key))


def _check_config(file: Path, key: str) -> None:
    if file.is_file():  # a native checkpoint holds the config in checkpoint.json
        from_hf(read_json(file, key), str(file))
