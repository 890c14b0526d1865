"""The files that jobs read: data, weights and tokenizer, looked into as far as it takes to know that they will do."""

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from dscoder_exp.data.source import read_source
from dscoder_exp.data.templates import template_named
from dscoder_exp.native.library import library
from dscoder_exp.schema.config import Config, DataConfig
from dscoder_exp.schema.cross import context_problems
from dscoder_exp.schema.errors import Problem, Refused
from dscoder_exp.schema.llama import LlamaConfig
from dscoder_exp.training.resume import resume_problems
from dscoder_exp.weights.check import refuse_incomplete
from dscoder_exp.weights.convert.conversion import open_conversion
from dscoder_exp.weights.lora.setup import open_adapted
from dscoder_exp.weights.native.layout import indivisible_sizes
from dscoder_exp.weights.resolve import OpenedModel, open_text, open_tokenizer, text_setup
from dscoder_exp.weights.tokenizer import load_tokenizer

T = TypeVar("T")


class Inputs:
    """Of all jobs of a launch: what several jobs have in common is read once."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, str], tuple[Any, list[Problem]]] = {}

    def problems(self, config: Config) -> list[Problem]:
        """Everything that keeps the job from being fed; reads the data whole, of weights the headers."""
        if config.task.name == "convert":
            known = config.weights.source and config.weights.target  # else another check has told
            about = (config.weights, config.model, config.tokenizer)
            return self._once("weights", about, lambda: open_conversion(*about))[1] if known else []
        problems = self.data_problems(config)
        about = (config.model, config.tokenizer)
        if config.task.name == "prepare":
            text, found = self._once("text", about, lambda: open_text(config.model, config.tokenizer))
            return problems + found + (context_problems(config, text.context) if text else [])
        model = (config.model, config.adapter, config.seed, config.task.name, config.weights.allow)
        opened, found = self._once("model", model, lambda: _open_whole_model(config))
        problems += found
        if opened:
            problems += self._once("tokenizer", about, lambda: _check_text(config, opened))[1]
            problems += context_problems(config, opened.config.max_position_embeddings)
            problems += resume_problems(config, opened) + _sharing_problems(config, opened.config)
        elif (path := config.tokenizer.path) is not None:  # without the model at least that it is one
            problems += self._once("file", path, lambda: load_tokenizer(path))[1]
        return problems

    def data_problems(self, config: Config) -> list[Problem]:
        """Those of the rows, and of the files that tell how they become text."""
        problems = self._template_problems(config)
        if config.task.name not in ("train", "prepare"):
            return problems
        return problems + self._once("data", config.data.source, lambda: _check_data(config.data))[1]

    def _template_problems(self, config: Config) -> list[Problem]:
        named = {"model.template": config.model.template}
        named |= {"data.template": config.data.template} if config.task.name in ("train", "prepare") else {}
        named |= {"predict.template": config.predict.template} if config.task.name == "predict" else {}
        keys = {name: key for key, name in named.items() if name not in (None, "auto", "none")}  # each name once
        checks = ((key, name, partial(template_named, name, key)) for name, key in keys.items())
        return [problem for key, name, check in checks for problem in self._once(key, name, check)[1]]

    def _once(self, kind: str, about: object, read: Callable[[], T]) -> tuple[T | None, list[Problem]]:
        """What `read` returns, or the problems it refuses with; the answer is remembered by what it is about."""
        key = (kind, repr(about))
        if key not in self._found:
            try:
                self._found[key] = read(), []
            except Refused as refused:
                self._found[key] = None, list(refused.problems)
        return self._found[key]


def _check_data(data: DataConfig) -> None:
    if data.source is None:
        remedy = "data.source=FILE.json (or .jsonl, .txt, a directory of texts), or data=sample"
        raise Refused([Problem("data.source", "no data set is given", remedy)])
    read_source(data.source).rows()


def _sharing_problems(config: Config, model: LlamaConfig) -> list[Problem]:
    """What keeps ranks from sharing out this model, on this machine."""
    parallel, problems = config.parallel, []
    if sizes := indivisible_sizes(model, parallel.tensor):
        what = f"the model can't be shared out over {parallel.tensor} ranks: {', '.join(sizes)}"
        problems.append(Problem("parallel.tensor", what, "a number that divides the model's sizes"))
    if parallel.context > 1 and config.runtime.device == "cpu" and library().path is None:
        what = f"on a CPU positions are shared out by the C++ kernels alone ({library().why})"
        problems.append(Problem("parallel.context", what, "install a C++ compiler, or parallel.context=1"))
    return problems


def _open_whole_model(config: Config) -> OpenedModel:
    """The model, all of whose tensors are there."""
    opened = open_adapted(config)
    if opened.source is not None:
        refuse_incomplete(opened.source, "model.path", config.weights.allow)
    return opened


def _check_text(config: Config, opened: OpenedModel) -> None:
    text_setup(opened.config, open_tokenizer(config.tokenizer, opened))
