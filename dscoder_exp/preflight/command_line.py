"""Finds all mistakes in a command line and suggests corrections; Hydra itself stops at the first mistake."""

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
from dscoder_exp.schema.overrides import quoted
from dscoder_exp.schema.suggest import did_you_mean, nearest, nearest_keys, unknown_key
from msrun_launcher import BadLauncherConfig, current_job

SEARCH_PATH = "hydra.searchpath"
Axis = list[Override]  # the overrides of one key: several in a sweep
Job = tuple[DictConfig, list[str]]  # composed configuration, its overrides
MAX_JOBS = 8  # most jobs of a sweep that are checked after a mistake: each takes 0.1 s
SYNTAX = "KEY=VALUE; a value with any of ~,=[]{}() is quoted twice, as in 'KEY=\"VALUE\"'"
HYDRA_ERRORS = (HydraException, OmegaConfBaseException, yaml.YAMLError, ValueError)  # raised for a bad command line


def explain(error: Exception, arguments: Sequence[str], directory: Path, config_name: str) -> Refused:
    """All problems of a command line for which Hydra raised `error`.

    Args:
        arguments: the command line without the program's name.
        directory: conf/.
        config_name: name of the root configuration in it.
    """
    if isinstance(error, BadLauncherConfig):
        return Refused(launcher_problems(error))
    args = get_args_parser().parse_args(list(arguments))
    elsewhere = args.config_path is not None or args.shell_completion or isinstance(error, SearchPathException)
    if elsewhere or not isinstance(error, HYDRA_ERRORS):
        return Refused([_to_problem("command line", error)])
    overrides = list(args.overrides)
    if args.config_dir is not None:
        directory_url = f"file://{os.path.abspath(args.config_dir)}"
        overrides.append(f"{SEARCH_PATH}=[{quoted(directory_url)}]")
    with initialize_config_dir(version_base="1.3", config_dir=str(directory)):
        diagnosis = _Diagnosis(args.config_name or config_name)
        jobs = diagnosis.jobs_of(overrides)
        mistakes = diagnosis.mistakes or [_to_problem("command line", error)]
        return Refused(list(dict.fromkeys([*mistakes, *diagnosis.problems_of(jobs)])))


class _Diagnosis:
    """Tries the overrides of a command line one after another, each together with the valid ones before it.

    Attributes:
        mistakes: problems of overrides that Hydra can't apply.
    """

    def __init__(self, config_name: str) -> None:
        self._config_name = config_name
        self._loader = GlobalHydra.instance().config_loader()
        self._search_path: Axis = []  # decides which groups the other overrides can choose from
        self.mistakes: list[Problem] = []
        self._suspect_keys: set[str] = set()  # keys and groups with a mistake: further problems of theirs are left out

    def jobs_of(self, texts: Sequence[str]) -> list[Job]:
        """The jobs composed from the valid overrides: few, but each value of a (short) sweep is in one of them."""
        parsed = [axis for text in texts if (axis := self._parse(text))]
        self._search_path = [axis[0] for axis in parsed if axis[0].key_or_group == SEARCH_PATH]
        axes = [axis for axis in parsed if axis[0].key_or_group != SEARCH_PATH]
        groups, base = self._valid_groups([axis for axis in axes if self._is_group(axis[0])])
        if isinstance(base, Exception):  # the error is in conf/, not in an override
            self.mistakes.append(_to_problem("conf", base))
            return []
        values = [self._valid_values(axis, base) for axis in axes if not self._is_group(axis[0])]
        axes = [axis for axis in (*groups, *values) if axis]
        if all(len(axis) == 1 for axis in axes):
            return [(base, _texts([axis[0] for axis in axes]))]
        return list(self._compose_jobs(axes))

    def problems_of(self, jobs: Sequence[Job]) -> list[Problem]:
        """The problems of the composed jobs, except those of keys with a mistake."""
        try:
            if self._suspect_keys.isdisjoint(GROUPS):
                check_jobs([job for job, _ in jobs], [texts for _, texts in jobs], download=False)
            else:  # a mistake in a group, such as an experiment: the values that it would have set are unknown
                for job, _ in jobs:
                    with current_job(job):
                        to_config(job)
        except Refused as refused:
            return [problem for problem in refused.problems if not self._is_suspect(problem.where)]
        return []

    def _parse(self, text: str) -> Axis:
        """The override, or one for each value of a sweep; empty if `text` is no valid override."""
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
            self._suspect_keys.add(text.partition("=")[0].lstrip("+~"))
        return []

    def _is_group(self, override: Override) -> bool:
        return not isinstance(override.value(), dict) and bool(self._loader.get_group_options(override.key_or_group))

    def _compose(self, overrides: Sequence[Override]) -> DictConfig | Exception:
        try:
            return compose(self._config_name, _texts([*self._search_path, *overrides]), return_hydra_config=True)
        except HYDRA_ERRORS as error:
            return error

    def _valid_groups(self, axes: list[Axis]) -> tuple[list[Axis], DictConfig | Exception]:
        """The valid choices of config groups, and the configuration composed from the first one of each axis."""
        base = self._compose([axis[0] for axis in axes])
        if not isinstance(base, Exception) and all(len(axis) == 1 for axis in axes):
            return axes, base
        valid: list[Axis] = []
        for axis in axes:
            before = [choices[0] for choices in valid]
            kept = [override for override in axis if self._is_valid_group(override, before)]
            valid += [kept] if kept else []
        return valid, self._compose([axis[0] for axis in valid])

    def _is_valid_group(self, override: Override, before: list[Override]) -> bool:
        result = self._compose([*before, override])
        if isinstance(result, Exception):
            self._suspect_keys.add(override.key_or_group)
            self.mistakes.append(_to_problem(override.input_line or "", result, override))
        return not isinstance(result, Exception)

    def _valid_values(self, axis: Axis, base: DictConfig) -> Axis:
        valid = []
        for override in axis:
            try:
                ConfigLoaderImpl._apply_overrides_to_config([override], base)  # changes base only if it succeeds
                valid.append(override)
            except HYDRA_ERRORS as error:
                self.mistakes.append(self._value_problem(override, error, base))
        return valid

    def _value_problem(self, override: Override, error: Exception, base: DictConfig) -> Problem:
        key = override.key_or_group
        self._suspect_keys.add(key)
        if not isinstance(error.__cause__, ConfigKeyError | ConfigAttributeError):
            return _to_problem(override.input_line or key, error)
        others = [*GROUPS, *_dotted_keys(base.hydra, "hydra.")] if key.startswith("hydra.") else GROUPS
        self._suspect_keys.update(nearest_keys(key, others))
        return unknown_key(key, others)

    def _compose_jobs(self, axes: Sequence[Axis]) -> Iterator[Job]:
        for number, choices in enumerate(islice(zip_longest(*axes), MAX_JOBS)):
            overrides = [choice or axis[0] for choice, axis in zip(choices, axes, strict=True)]
            job = self._compose(overrides)
            if isinstance(job, Exception):
                self.mistakes.append(_to_problem("command line", job))
                continue
            with open_dict(job):
                job.hydra.job.num = number
            yield job, _texts(overrides)

    def _is_suspect(self, key: str) -> bool:
        return any(key == suspect or key.startswith(f"{suspect}.") for suspect in self._suspect_keys)


def _texts(overrides: Sequence[Override]) -> list[str]:
    return [override.input_line or "" for override in overrides]


def _dotted_keys(node: DictConfig, prefix: str) -> Iterator[str]:
    for name in node:
        yield f"{prefix}{name}"
        child = node._get_node(name)
        if isinstance(child, DictConfig) and not child._is_none() and not child._is_interpolation():
            yield from _dotted_keys(child, f"{prefix}{name}.")


def _to_problem(where: str, error: Exception, override: Override | None = None) -> Problem:
    """Hydra's message as a problem: its first line becomes what is wrong, the other lines the remedy."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        mark = error.problem_mark
        return Problem(f"{mark.name}:{mark.line + 1}", f"not YAML: {error.problem}", "correct the file")
    if isinstance(error, OSError) and error.filename is not None:
        remedy = "start in a writable directory"
        return Problem("hydra.sweep.dir", f"{error.filename}: {error.strerror}", remedy)
    text = str(error).partition("\nConfig search path:")[0]
    cause = str(error.__cause__).splitlines()[0] if isinstance(error.__cause__, OmegaConfBaseException) else ""
    lines = [line.strip() for line in text.splitlines() if line.strip()] or [type(error).__name__]
    if isinstance(error, MissingConfigException) and override is not None and error.options:
        meant = nearest(str(override.value()), error.options)
        remedy = did_you_mean([f"{override.get_key_element()}={name}" for name in meant])
        return Problem(where, f"{lines[0]}. {lines[1]} {', '.join(lines[2:])}", remedy)
    if cause and lines[0].startswith("Error merging override"):  # `where` says that already
        return Problem(where, cause)
    return Problem(where, f"{lines[0]} {cause}".strip(), "; ".join(line for line in lines[1:] if line != cause))
