"""Hydra stops at the first mistake in a command line. This finds all of them, and says what was meant."""

import os
from collections.abc import Iterator, Sequence
from itertools import islice, zip_longest
from pathlib import Path

import yaml
from hydra import compose, initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, MissingConfigException, SearchPathException
from omegaconf import DictConfig, open_dict
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from dscoder_exp.preflight.jobs import check_jobs, launcher_problems
from dscoder_exp.schema.check import GROUPS, to_config
from dscoder_exp.schema.errors import Problem, Refused
from dscoder_exp.schema.suggest import did_you_mean, nearest, nearest_keys, unknown_key
from msrun_launcher import BadLauncherConfig, current_job

SEARCH_PATH = "hydra.searchpath"
Choices = list[Override]  # of one key: several in a sweep
Job = tuple[DictConfig, list[str]]  # composed from these overrides
JOBS = 8  # of a sweep, that are looked into beside a mistake: each takes 0.1 s
SYNTAX = "KEY=VALUE; a value that holds any of ~,=[]{}() is quoted twice, as in 'KEY=\"VALUE\"'"
FAILURES = (HydraException, OmegaConfBaseException, yaml.YAMLError, ValueError)  # what Hydra raises over a command line


def explain(error: Exception, arguments: Sequence[str], directory: Path, config_name: str) -> Refused:
    """What is wrong with a command line at which Hydra gave up with `error`.

    Args:
        arguments: of the command line.
        directory: that of the configuration files.
        config_name: the root's name there.
    """
    if isinstance(error, BadLauncherConfig):
        return Refused(launcher_problems(error))
    args = get_args_parser().parse_args(list(arguments))
    elsewhere = args.config_path is not None or args.shell_completion or isinstance(error, SearchPathException)
    if elsewhere or not isinstance(error, FAILURES):
        return Refused([_in_words("command line", error)])
    overrides = list(args.overrides)
    if args.config_dir is not None:
        overrides.append(f"{SEARCH_PATH}=['file://{os.path.abspath(args.config_dir)}']")
    with initialize_config_dir(version_base="1.3", config_dir=str(directory)):
        review = _Review(args.config_name or config_name)
        jobs = review.jobs_of(overrides)
        mistakes = review.mistakes or [_in_words("command line", error)]
        return Refused(list(dict.fromkeys([*mistakes, *review.problems_of(jobs)])))


class _Review:
    """Takes a command line apart; each override is tried on top of those before it that are right.

    Attributes:
        mistakes: what can't be composed.
    """

    def __init__(self, config_name: str) -> None:
        self._config_name = config_name
        self._loader = GlobalHydra.instance().config_loader()
        self._search_path: Choices = []  # it decides what the other overrides can mean
        self.mistakes: list[Problem] = []
        self._doubtful: set[str] = set()  # keys and groups that a mistake was about: no other problem of theirs counts

    def jobs_of(self, texts: Sequence[str]) -> list[Job]:
        """Jobs that the right part would make, such that each value of a (short) sweep is in one of them."""
        parsed = [column for text in texts if (column := self._parse(text))]
        self._search_path = [column[0] for column in parsed if column[0].key_or_group == SEARCH_PATH]
        columns = [column for column in parsed if column[0].key_or_group != SEARCH_PATH]
        groups, base = self._right_groups([column for column in columns if self._is_group(column[0])])
        if isinstance(base, Exception):  # no override is to blame
            self.mistakes.append(_in_words("conf", base))
            return []
        values = [self._right_values(column, base) for column in columns if not self._is_group(column[0])]
        columns = [column for column in (*groups, *values) if column]
        if all(len(column) == 1 for column in columns):
            return [(base, _texts([column[0] for column in columns]))]
        return list(self._composed(columns))

    def problems_of(self, jobs: Sequence[Job]) -> list[Problem]:
        """Of what could be composed, as far as the mistakes leave it known."""
        try:
            if self._doubtful.isdisjoint(GROUPS):
                check_jobs([job for job, _ in jobs], [texts for _, texts in jobs], download=False)
            else:  # of an experiment, say: what its keys would have been isn't known
                for job, _ in jobs:
                    with current_job(job):
                        to_config(job)
        except Refused as refused:
            return [problem for problem in refused.problems if not self._is_doubtful(problem.where)]
        return []

    def _parse(self, text: str) -> Choices:
        """The override, or one for each value of a sweep; empty where it is none."""
        parser = OverridesParser.create(self._loader)
        try:
            override = parser.parse_overrides([text])[0]
            if not override.is_sweep_override():
                return [override]
            if override.is_discrete_sweep():
                key = override.get_key_element()
                return parser.parse_overrides([f"{key}={value}" for value in override.sweep_string_iterator()])
            self.mistakes.append(Problem(text, "an interval can't be swept over", "give the values: KEY=1,2,3"))
        except HydraException as error:
            detail = [line for line in str(error).splitlines() if not line.startswith(("Error parsing", "See http"))]
            self.mistakes.append(Problem(text, f"not an override: {detail[0].strip()}", SYNTAX))
            self._doubtful.add(text.partition("=")[0].lstrip("+~"))
        return []

    def _is_group(self, override: Override) -> bool:
        return not isinstance(override.value(), dict) and bool(self._loader.get_group_options(override.key_or_group))

    def _compose(self, overrides: Sequence[Override]) -> DictConfig | Exception:
        try:
            return compose(self._config_name, _texts([*self._search_path, *overrides]), return_hydra_config=True)
        except FAILURES as error:
            return error

    def _right_groups(self, columns: list[Choices]) -> tuple[list[Choices], DictConfig | Exception]:
        """What is right of them, and the configuration that the first choices make."""
        base = self._compose([column[0] for column in columns])
        if not isinstance(base, Exception) and all(len(column) == 1 for column in columns):
            return columns, base
        right: list[Choices] = []
        for column in columns:
            before = [choices[0] for choices in right]
            kept = [override for override in column if self._is_right_group(override, before)]
            right += [kept] if kept else []
        return right, self._compose([column[0] for column in right])

    def _is_right_group(self, override: Override, before: list[Override]) -> bool:
        result = self._compose([*before, override])
        if isinstance(result, Exception):
            self._doubtful.add(override.key_or_group)
            self.mistakes.append(_in_words(override.input_line or "", result, override))
        return not isinstance(result, Exception)

    def _right_values(self, column: Choices, base: DictConfig) -> Choices:
        right = []
        for override in column:
            try:
                ConfigLoaderImpl._apply_overrides_to_config([override], base)  # changes base only if it succeeds
                right.append(override)
            except FAILURES as error:
                self.mistakes.append(self._value_problem(override, error, base))
        return right

    def _value_problem(self, override: Override, error: Exception, base: DictConfig) -> Problem:
        key = override.key_or_group
        self._doubtful.add(key)
        if not isinstance(error.__cause__, ConfigKeyError | ConfigAttributeError):
            return _in_words(override.input_line or key, error)
        others = [*GROUPS, *_names(base.hydra, "hydra.")] if key.startswith("hydra.") else GROUPS
        self._doubtful.update(nearest_keys(key, others))
        return unknown_key(key, others)

    def _composed(self, columns: Sequence[Choices]) -> Iterator[Job]:
        for number, choices in enumerate(islice(zip_longest(*columns), JOBS)):
            overrides = [choice or column[0] for choice, column in zip(choices, columns, strict=True)]
            job = self._compose(overrides)
            if isinstance(job, Exception):
                self.mistakes.append(_in_words("command line", job))
                continue
            with open_dict(job):
                job.hydra.job.num = number
            yield job, _texts(overrides)

    def _is_doubtful(self, key: str) -> bool:
        return any(key == doubtful or key.startswith(f"{doubtful}.") for doubtful in self._doubtful)


def _texts(overrides: Sequence[Override]) -> list[str]:
    return [override.input_line or "" for override in overrides]


def _names(node: DictConfig, prefix: str) -> Iterator[str]:
    for name in node:
        yield f"{prefix}{name}"
        child = node._get_node(name)
        if isinstance(child, DictConfig) and not child._is_none() and not child._is_interpolation():
            yield from _names(child, f"{prefix}{name}.")


def _in_words(where: str, error: Exception, override: Override | None = None) -> Problem:
    """Hydra's own message, in our form: its first line is what is wrong, the others what there is to do."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        mark = error.problem_mark
        return Problem(f"{mark.name}:{mark.line + 1}", f"not YAML: {error.problem}", "mend the file")
    if isinstance(error, OSError) and error.filename is not None:
        remedy = "start in a directory that can be written"
        return Problem("hydra.sweep.dir", f"{error.filename}: {error.strerror}", remedy)
    text = str(error).partition("\nConfig search path:")[0]
    cause = str(error.__cause__).splitlines()[0] if isinstance(error.__cause__, OmegaConfBaseException) else ""
    lines = [line.strip() for line in text.splitlines() if line.strip()] or [type(error).__name__]
    if isinstance(error, MissingConfigException) and override is not None and error.options:
        meant = nearest(str(override.value()), error.options)
        remedy = did_you_mean([f"{override.get_key_element()}={name}" for name in meant])
        return Problem(where, f"{lines[0]}. {lines[1]} {', '.join(lines[2:])}", remedy)
    if cause and lines[0].startswith("Error merging override"):  # which is what `where` says
        return Problem(where, cause)
    return Problem(where, f"{lines[0]} {cause}".strip(), "; ".join(line for line in lines[1:] if line != cause))
