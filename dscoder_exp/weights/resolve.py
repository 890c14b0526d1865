"""Open the model and tokenizer that the `model` and `tokenizer` groups of the configuration describe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dscoder_exp.hub.download import download
from dscoder_exp.hub.locate import locate
from dscoder_exp.schema.config import ModelConfig, TokenizerConfig
from dscoder_exp.schema.errors import Problem, Refused, refuse
from dscoder_exp.schema.llama import LlamaConfig, RopeScaling
from dscoder_exp.storage.file_names import CONFIG_FILE
from dscoder_exp.storage.json_files import read_json
from dscoder_exp.weights.chat_template import ModelTemplate, given_template, template_in
from dscoder_exp.weights.formats.hf_config import from_hf, rope_scaling_of
from dscoder_exp.weights.generation_config import GenerationConfig
from dscoder_exp.weights.lora.adapter import Adapter
from dscoder_exp.weights.source import WeightSource, open_weights
from dscoder_exp.weights.tokenizer import load_tokenizer, special_beyond, special_tokens_in, vocabulary_problem

if TYPE_CHECKING:
    from tokenizers import Tokenizer

TOKEN_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")
OPTIONAL = ("head_dim", "rope_scaling", *TOKEN_IDS)
GIVE_WEIGHTS = "model.path=DIR (Hugging Face or native directory, .gguf file); model=tiny needs none"
GIVE_TOKENIZER = "tokenizer.path=DIR or tokenizer.path=tokenizer.json"


@dataclass(frozen=True)
class OpenedModel:
    """A model whose tensors haven't been read yet.

    Attributes:
        config: the shape and the special tokens.
        source: the weights; None: they are initialised from the seed.
        template: the prompt format that its files hold, else the one of model.template; None: neither.
        adapter: a LoRA adapter of this model.
    """

    config: LlamaConfig
    source: WeightSource | None
    template: ModelTemplate | None
    adapter: Adapter | None = None

    def with_adapter(self, adapter: Adapter) -> OpenedModel:
        """The model with an adapter, whose prompt format, if it has one, is the model's then."""
        return replace(self, adapter=adapter, template=adapter.template or self.template)

    @property
    def overridden(self) -> list[str]:
        """Token ids that the `model` group gives otherwise than the files."""
        if self.source is None:
            return []
        found, given = self.source.config, self.config
        return [name for name in TOKEN_IDS if getattr(found, name) not in (None, getattr(given, name))]

    @property
    def overrides(self) -> list[str]:
        """`overridden`, for a reader."""
        if self.source is None:
            return []
        found, path = self.source.config, self.source.path
        return [
            f"model.{name}={getattr(self.config, name)} instead of the {getattr(found, name)} in {path}"
            for name in self.overridden
        ]

    @property
    def generation(self) -> GenerationConfig:
        """How answers end: as the adapter's files say, else the model's. A model.eos_token_id that these don't list
        stands for all that they list.
        """
        files = GenerationConfig() if self.source is None else self.source.generation
        if self.adapter is not None and self.adapter.generation.stop_token_ids:
            files = self.adapter.generation
        stops, eos = files.stop_token_ids, self.config.eos_token_id
        if eos is not None and eos not in stops and (not stops or "eos_token_id" in self.overridden):
            stops = (eos,)
        settings = {name: value for name, value in files.settings.items() if name not in self.overridden}
        return GenerationConfig(stops, settings)


@dataclass(frozen=True)
class TextSetup:
    """What encoding text for a model needs: the tokenizer, special tokens and context, but no weights.

    Attributes:
        special_tokens: what chat templates get: "bos_token", "eos_token" and so on -> text.
        eos_token_id: the id of "eos_token".
        pad_token_id: the EOS if the model has none: padding is masked by position, so any id will do.
        context: the maximum length of a document in tokens; None: unlimited.
        template: the model's prompt format; None: it brings none.
        beyond: text -> id of the tokenizer's special tokens that the model has no embedding for.
        stop_token_ids: each of them ends an answer, as the model's files say.
        overrides: `OpenedModel.overrides`.
    """

    tokenizer: Tokenizer
    special_tokens: Mapping[str, str]
    bos_token_id: int | None
    eos_token_id: int
    pad_token_id: int
    context: int | None
    template: ModelTemplate | None
    beyond: Mapping[str, int] = field(default_factory=dict)
    stop_token_ids: tuple[int, ...] = ()
    overrides: Sequence[str] = ()

    @property
    def adds_bos(self) -> bool:
        """Whether the tokenizer itself puts its bos before each text."""
        return self.tokenizer.encode("").ids[:1] == [self.bos_token_id]

    @property
    def opening(self) -> list[int]:
        """What a text begins with."""
        return [self.bos_token_id] if self.adds_bos and self.bos_token_id is not None else []


def open_model(model: ModelConfig) -> OpenedModel:
    """Open the model that the `model` group describes; reads its config, no tensor.

    Raises:
        Refused: model.path is null with model.init=pretrained; the weights there can't be opened; keys of the group
            contradict their config (all are reported).
    """
    if model.path is not None:
        source, config = open_source(model.path, "model.path", model)
        return OpenedModel(config, source, source.template or _keyed_template(model))
    if model.init == "pretrained":
        raise refuse("model.path", "no weights are given, but model.init=pretrained needs them", GIVE_WEIGHTS)
    return OpenedModel(_config_from_keys(model), None, _keyed_template(model))


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
    ends = opened.generation.stop_token_ids
    if (problem := vocabulary_problem(found, opened.config, ends, opened.overridden)) is not None:
        raise Refused([problem])
    if source is not None and tokenizer.path is not None:
        _refuse_other_tokenizer(found, tokenizer.path, source)
    return found


def _refuse_other_tokenizer(given: Tokenizer, path: str, source: WeightSource) -> None:
    if (what := source.other_tokenizer(given)) is not None:
        remedy = "leave tokenizer.path out, or give the tokenizer that came with the model"
        raise refuse("tokenizer.path", f"{path} {what}", remedy)


def open_text_setup(model: ModelConfig, tokenizer: TokenizerConfig, opened: OpenedModel) -> TextSetup:
    """The TextSetup of a model that is open.

    Raises:
        Refused: as `open_tokenizer` does; or no EOS token is known.
    """
    found = open_tokenizer(tokenizer, opened)
    source = opened.source
    directory = _tokenizer_directory(tokenizer) or (None if source is None else source.directory)
    stops = opened.generation.stop_token_ids
    ids = {name: getattr(opened.config, name) for name in TOKEN_IDS}
    ids["eos_token_id"] = _end_token(found, (ids["eos_token_id"], *stops))
    beyond = special_beyond(found, opened.config.vocab_size)
    context = opened.config.max_position_embeddings
    setup = _text_setup(found, directory, ids, model, context, _template(opened, tokenizer), beyond)
    return replace(setup, stop_token_ids=stops, overrides=opened.overrides)


def open_text(model: ModelConfig, tokenizer: TokenizerConfig) -> TextSetup:
    """The TextSetup of the configuration, which needs no weights: without a model, the special tokens are read from the
    tokenizer's files.

    Raises:
        Refused: as `open_model` and `open_tokenizer` do; or no EOS token is known.
    """
    if model.path is not None:
        return open_text_setup(model, tokenizer, open_model(model))
    if not _missing_keys(model):
        opened = OpenedModel(_config_from_keys(model), None, _keyed_template(model))
        return open_text_setup(model, tokenizer, opened)
    if tokenizer.path is None:
        raise refuse("tokenizer.path", "no tokenizer is given", f"{GIVE_TOKENIZER}, or a model.path with a tokenizer")
    found, directory = load_tokenizer(tokenizer.path), _tokenizer_directory(tokenizer)
    template = template_in(directory, "tokenizer.path") if directory else None
    ids = {name: getattr(model, name) for name in TOKEN_IDS}
    context = model.max_position_embeddings
    return _text_setup(found, directory, ids, model, context, template or _keyed_template(model))


def _end_token(tokenizer: Tokenizer, ends: Sequence[int | None]) -> int | None:
    """The first of these tokens that is no ordinary one, such as templates write after an answer; else the first."""
    known, added = [token for token in ends if token is not None], tokenizer.get_added_tokens_decoder()
    return next((token for token in known if token in added), next(iter(known), None))


def _text_setup(
    tokenizer: Tokenizer,
    directory: Path | None,
    ids: Mapping[str, int | None],
    model: ModelConfig,
    context: int | None,
    template: ModelTemplate | None,
    beyond: Mapping[str, int] | None = None,
) -> TextSetup:
    """The special tokens are those that the `model` group names, else the tokenizer's own files, else `ids`.

    Of those in the files, tokens beyond the model's vocabulary count for nothing.
    """
    beyond = beyond or {}
    in_files = special_tokens_in(directory) if directory else {}
    texts = {role: text for role, text in in_files.items() if text is not None and text not in beyond}
    for name in TOKEN_IDS:
        role, token = name.removesuffix("_id"), getattr(model, name)
        without = role == "bos_token" and in_files.get(role, "") is None  # as transformers: the tokenizer has none
        if token is None and role not in texts and not without:
            token = ids[name]
        if token is not None and (text := tokenizer.id_to_token(token)) is not None:
            texts[role] = text
    found = {name: tokenizer.token_to_id(texts[role]) for name in TOKEN_IDS if (role := name[:-3]) in texts}
    known = {name: found.get(name) if found.get(name) is not None else ids[name] for name in TOKEN_IDS}
    if (eos := known["eos_token_id"]) is None:
        what = "is null and no file names it, but an answer needs a token that ends it"
        raise refuse("model.eos_token_id", what, "model.eos_token_id=ID, or model.path=DIR")
    pad = known["pad_token_id"]
    pad = eos if pad is None else pad
    return TextSetup(tokenizer, texts, known["bos_token_id"], eos, pad, context, template, beyond)


def _template(opened: OpenedModel, tokenizer: TokenizerConfig) -> ModelTemplate | None:
    """The prompt format that lies with the adapter or the model, else with tokenizer.path, else model.template's."""
    brought = (opened.adapter and opened.adapter.template) or (opened.source and opened.source.template)
    directory = None if brought else _tokenizer_directory(tokenizer)
    return (template_in(directory, "tokenizer.path") if directory else None) or opened.template


def _keyed_template(model: ModelConfig) -> ModelTemplate | None:
    return None if model.template is None else given_template(model.template, "model.template")


def _tokenizer_directory(tokenizer: TokenizerConfig) -> Path | None:
    """Where the files of tokenizer.path lie."""
    if tokenizer.path is None:
        return None
    found = locate(tokenizer.path, "tokenizer.path")
    return found if found.is_dir() else found.parent


def _config_from_keys(model: ModelConfig) -> LlamaConfig:
    """The LlamaConfig of the group's keys alone. Raises Refused if any is missing."""
    if missing := _missing_keys(model):
        what = f"the model's shape has to be complete, but these keys are null: {', '.join(missing)}"
        raise refuse("model", what, "set them, take model=tiny, or read the shape from model.path=DIR")
    values: dict[str, Any] = {**dict.fromkeys(OPTIONAL), **_given_values(model, model.max_position_embeddings)}
    if values["head_dim"] is None:
        values["head_dim"] = values["hidden_size"] // values["num_attention_heads"]
    return LlamaConfig(**values)


def _missing_keys(model: ModelConfig) -> list[str]:
    names = [item.name for item in fields(LlamaConfig) if item.name not in OPTIONAL]
    return [name for name in names if getattr(model, name) is None]


def _given_values(model: ModelConfig, context: int | None) -> dict[str, Any]:
    """The group's values that are not null, by the names of LlamaConfig's fields.

    Args:
        context: the model's max_position_embeddings, the default of those that its rope_scaling was stretched from.
    """
    values = {item.name: getattr(model, item.name) for item in fields(LlamaConfig)}
    if model.rope_scaling is not None:
        given = {name: value for name, value in asdict(model.rope_scaling).items() if value is not None}
        values["rope_scaling"] = rope_scaling_of(given, context or 1, "model.rope_scaling")
    return {name: value for name, value in values.items() if value is not None}


def _merged_config(model: ModelConfig, source: WeightSource) -> LlamaConfig:
    """The source's config, with the group's tokens, which users choose. Raises Refused for other keys that differ."""
    found = source.config
    given = _given_values(model, found.max_position_embeddings)
    chosen = {name: value for name, value in given.items() if name in TOKEN_IDS}
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
        return f"{{{', '.join(f'{name}: {_shown(part)}' for name, part in value.given.items())}}}"
    if isinstance(value, float):
        return f"{value:g}"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def fetch(address: str, key: str) -> str:
    """Download as `download` does, and return its address; weights that can't be opened are not downloaded.

    Raises:
        Refused: as `download` does, or the model's config.json is not supported.
    """
    return download(address, key, lambda directory: _check_config(directory / CONFIG_FILE, key))


def _check_config(file: Path, key: str) -> None:
    if file.is_file():  # a native checkpoint holds the config in checkpoint.json
        from_hf(read_json(file, key), str(file))
