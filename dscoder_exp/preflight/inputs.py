"""Checks of the files that jobs read: data, weights, tokenizers and prompt formats."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from dscoder_exp.comparison.selection import select
from dscoder_exp.data.prompt_format import PromptFormat, choose_format
from dscoder_exp.data.requests import check_requests
from dscoder_exp.data.source import read_source
from dscoder_exp.evaluation.suites import Suite
from dscoder_exp.generation.answer_file import origin_of, output_problem
from dscoder_exp.native.library import library
from dscoder_exp.preflight.evaluation import (
    check_prompts,
    check_suite,
    evaluated_suite,
    loss_source,
    results_problems,
)
from dscoder_exp.schema.config import Config, DataConfig
from dscoder_exp.schema.cross import asked_problems, compare_problems, context_problems
from dscoder_exp.schema.cross_evaluate import evaluate_problems
from dscoder_exp.schema.errors import Problem, Refused
from dscoder_exp.schema.llama import LlamaConfig
from dscoder_exp.schema.paths import report_directory
from dscoder_exp.storage.atomic_directory import target_problem
from dscoder_exp.tracking.reading import open_to_read
from dscoder_exp.tracking.store import resolve_uri
from dscoder_exp.training.resume import resume_problems
from dscoder_exp.weights.chat_template import given_template
from dscoder_exp.weights.check import refuse_incomplete
from dscoder_exp.weights.convert.conversion import open_conversion
from dscoder_exp.weights.lora.setup import open_adapted
from dscoder_exp.weights.native.layout import indivisible_sizes
from dscoder_exp.weights.resolve import OpenedModel, TextSetup, open_text, open_text_setup
from dscoder_exp.weights.tokenizer import load_tokenizer

T = TypeVar("T")


class InputChecks:
    """The checks of a launch: a file that several jobs read is checked once."""

    def __init__(self) -> None:
        self._results: dict[tuple[str, str], tuple[Any, list[Problem]]] = {}

    def problems(self, config: Config) -> list[Problem]:
        """All problems of the job's input files; reads all data, but only the headers of weights."""
        if config.task.name == "compare":
            return self._comparison_problems(config)
        if config.task.name == "convert":
            given = config.weights.source and config.weights.target  # otherwise schema/cross.py reports the missing one
            subject = (config.weights, config.model, config.tokenizer)
            return self._check_once("weights", subject, lambda: open_conversion(*subject))[1] if given else []
        problems = self.data_problems(config)
        suite, found = self._suite(config)
        problems += found
        if config.evaluate.completions is not None and config.task.name == "evaluate":
            return problems  # without a model
        subject = (config.model, config.tokenizer)
        if config.task.name == "prepare":
            text, found = self._check_once("text", subject, lambda: open_text(config.model, config.tokenizer))
            problems += found + self._format_problems(config, text)
            return problems + (context_problems(config, text.context) if text else [])
        model = (config.model, config.adapter, config.seed, config.task.name, config.weights.allow)
        opened, found = self._check_once("model", model, lambda: _open_whole_model(config))
        problems += found
        if opened:
            text_setup = partial(open_text_setup, *subject, opened)
            text, found = self._check_once("tokenizer", (*subject, config.adapter.path), text_setup)
            problems += found + self._format_problems(config, text)
            problems += self._request_problems(config, text, opened.config)
            problems += self._prompt_problems(config, suite, text, opened.config)
            problems += context_problems(config, opened.config.max_position_embeddings)
            problems += resume_problems(config, opened) + _layout_problems(config, opened.config)
            problems += _stop_problems(config, opened.config)
        else:
            problems += self._format_problems(config, None)
            if (path := config.tokenizer.path) is not None:  # without a model, at least check that the tokenizer loads
                problems += self._check_once("file", path, lambda: load_tokenizer(path))[1]
        return problems

    def data_problems(self, config: Config) -> list[Problem]:
        """The problems of the rows."""
        data = config.data if config.task.name in ("train", "prepare") else loss_source(config)
        if data is None:
            return []
        subject = (data.source, data.columns, data.bad_rows, data.max_rows)
        return self._check_once("data", subject, lambda: _check_data(data))[1]

    def _comparison_problems(self, config: Config) -> list[Problem]:
        """Those of the store, of what is selected in it, and of the report's directory."""
        if found := target_problem(report_directory(config), "compare.output"):
            return [found]
        if compare_problems(config):  # schema/cross.py reports those
            return []
        subject = (config.tracking, config.compare)
        return self._check_once("runs", subject, lambda: _check_runs(config))[1]

    def _suite(self, config: Config) -> tuple[Suite | None, list[Problem]]:
        """The suite that is evaluated, if any; and the problems of its files, and of the results'."""
        if evaluated_suite(config) is None or evaluate_problems(config):  # schema/cross_evaluate.py reports those
            return None, []
        subject = (config.task.name, config.train.evaluate, config.evaluate)
        suite, problems = self._check_once("suite", subject, lambda: check_suite(config))
        return suite, problems or results_problems(config)

    def _prompt_problems(
        self, config: Config, suite: Suite | None, text: TextSetup | None, model: LlamaConfig
    ) -> list[Problem]:
        """Those of asking the model for a suite's programs."""
        if suite is None or text is None:
            return []
        subject = (config.task.name, config.evaluate, text.template, config.model, config.tokenizer)
        check = partial(check_prompts, config, suite, text, model.max_position_embeddings)
        return self._check_once("prompts", subject, check)[1]

    def _request_problems(self, config: Config, text: TextSetup | None, model: LlamaConfig) -> list[Problem]:
        """Those of what task=predict is asked, and of the file that its answers go to."""
        predict = config.predict
        if config.task.name != "predict" or text is None or asked_problems(predict):  # schema/cross.py reports those
            return []
        prompt_format, _ = self._chosen_format(config, text)
        if prompt_format is None:
            return []
        subject = (predict, text.template, config.model, config.tokenizer)
        read = partial(check_requests, predict, prompt_format, text.tokenizer, model.max_position_embeddings)
        _, problems = self._check_once("requests", subject, read)
        if problems or predict.output is None:
            return problems
        found = output_problem(Path(predict.output), origin_of(config))
        return [] if found is None else [found]

    def _chosen_format(self, config: Config, text: TextSetup) -> tuple[PromptFormat | None, list[Problem]]:
        key, choice = _template_of(config)
        subject = (choice, text.template, config.model, config.tokenizer)
        return self._check_once("format", subject, lambda: choose_format(text, choice, key))

    def _format_problems(self, config: Config, text: TextSetup | None) -> list[Problem]:
        """Those of the prompt format: without a model and its tokenizer at least whether its files can be read."""
        if text is not None:
            return self._chosen_format(config, text)[1]
        key, choice = _template_of(config)
        if choice in (None, "auto"):
            key, choice = "model.template", config.model.template
        return [] if choice is None else self._check_once("template", choice, lambda: given_template(choice, key))[1]

    def _check_once(self, kind: str, subject: object, read: Callable[[], T]) -> tuple[T | None, list[Problem]]:
        """Call `read`, once for each (kind, subject); returns its result, None if refused, and the problems."""
        key = (kind, repr(subject))
        if key not in self._results:
            try:
                self._results[key] = read(), []
            except Refused as refused:
                self._results[key] = None, list(refused.problems)
        return self._results[key]


def _template_of(config: Config) -> tuple[str, str | None]:
    """The key that chooses the task's prompt format, and its value."""
    if config.task.name == "predict":
        return "predict.template", config.predict.template
    return "data.template", config.data.template


def _check_runs(config: Config) -> None:
    client, _ = open_to_read(resolve_uri(config.tracking))
    select(client, config.compare)


def _check_data(data: DataConfig) -> None:
    read_source(data.source).rows(data.columns, drop_bad=data.bad_rows == "drop", limit=data.max_rows)


def _stop_problems(config: Config, model: LlamaConfig) -> list[Problem]:
    """Those of predict.stop_token_ids that the model can't generate."""
    if config.task.name != "predict":
        return []
    last, remedy = model.vocab_size - 1, "give ids of the model's tokenizer"
    above = [token for token in config.predict.stop_token_ids if token > last]
    what = f"{', '.join(map(str, above))}: above the model's vocabulary, which ends at {last}"
    return [Problem("predict.stop_token_ids", what, remedy)] if above else []


def _layout_problems(config: Config, model: LlamaConfig) -> list[Problem]:
    """Why the model can't be split over the configured tensor and context ranks."""
    parallel, problems = config.parallel, []
    if sizes := indivisible_sizes(model, parallel.tensor):
        what = f"the model can't be split over {parallel.tensor} ranks: {', '.join(sizes)}"
        problems.append(Problem("parallel.tensor", what, "use a number that divides all of these sizes"))
    return [*problems, *_kernel_problems(config)]


def _kernel_problems(config: Config) -> list[Problem]:
    """What a CPU computes only with the C++ kernels, where they can't be compiled."""
    runtime, key = config.runtime, "parallel.context" if config.parallel.context > 1 else None
    key = "runtime.precision" if runtime.precision == "bf16" else key
    if runtime.device != "cpu" or key is None or library().path is not None:
        return []
    what = f"on a CPU this needs the C++ kernels ({library().why})"
    return [Problem(key, what, "install a C++ compiler, or runtime.precision=fp32 parallel.context=1")]


def _open_whole_model(config: Config) -> OpenedModel:
    """Open the model, refusing missing tensors."""
    opened = open_adapted(config)
    if opened.source is not None:
        refuse_incomplete(opened.source, "model.path", config.weights.allow)
    return opened
