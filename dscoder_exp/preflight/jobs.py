"""All jobs of a launch, checked together: every mistake of each of them in one list, or their typed configurations."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from dscoder_exp.preflight.downloads import Downloads, address_problems, addresses
from dscoder_exp.preflight.inputs import Inputs
from dscoder_exp.preflight.machine import directory_problem, npu_problem
from dscoder_exp.schema.check import to_config
from dscoder_exp.schema.config import WITHOUT_DEVICE, Config
from dscoder_exp.schema.cross import cross_problems
from dscoder_exp.schema.errors import Problem, Refused
from dscoder_exp.schema.paths import with_absolute_paths
from dscoder_exp.tracking.describe import difference
from dscoder_exp.tracking.store import resolve_uri
from msrun_launcher import BadLauncherConfig, current_job
from msrun_launcher.settings import check_settings, local_workers, node_count, read_settings

SMALL = "model=tiny runtime=cpu parallel=single train.max_steps=3 seq_length=256 data=sample"
NAMED = 3  # jobs that a message names


def check_jobs(
    nodes: Sequence[DictConfig], overrides: Sequence[Sequence[str]], *, download: bool = True
) -> list[Config]:
    """The jobs' typed configurations, with absolute paths, the commits of hf:// addresses, the tracking URI that holds.

    Args:
        nodes: each job's whole configuration as Hydra composed it.
        overrides: each job's, for telling the jobs of a sweep apart.
        download: what hf:// addresses name, once nothing else is wrong; False: jobs that have some are checked
            without it.

    Raises:
        Refused: with the problems of all jobs; nothing was started or written (but to Hugging Face's cache).
    """
    inputs = Inputs()
    configs, problems = [], []
    for node in nodes:
        try:
            with current_job(node):
                config = with_absolute_paths(to_config(node))
        except Refused as refused:
            problems.append(list(refused.problems))
            continue
        configs.append(config)
        problems.append([*_launch_problems(config, node), *_job_problems(config, inputs)])
    found = [*_merged(problems, overrides), *_shared_directories(configs)]
    if download and not found:  # so each job has its configuration
        downloads = Downloads()
        configs, problems = zip(*(_downloaded(config, downloads, inputs) for config in configs), strict=True)
        found = list(_merged(problems, overrides))
    if found:
        raise Refused(found, _hint(configs, found, overrides))
    return [_with_uri(config) if config.tracking.enabled else config for config in configs]


def sweep_overrides(overrides: Sequence[Sequence[str]]) -> list[str]:
    """The jobs' overrides folded back into the sweep's: `seed=0` and `seed=1` become `seed=0,1`."""
    values: dict[str, list[str]] = {}
    for text in dict.fromkeys(text for job in overrides for text in job):
        key, _, value = text.partition("=")
        values.setdefault(key, []).append(value)
    return [f"{key}={','.join(choices)}" for key, choices in values.items()]


def launcher_problems(bad: BadLauncherConfig) -> list[Problem]:
    """The launcher's own refusal, in our form."""
    return [Problem("hydra.launcher", text) for text in bad.problems]


def _with_uri(config: Config) -> Config:
    return replace(config, tracking=replace(config.tracking, uri=resolve_uri(config.tracking)))


def _launch_problems(config: Config, node: DictConfig) -> list[Problem]:
    """Of processes and devices. The launcher checks its options too, but only when this one is passed."""
    try:
        with current_job(node):
            check_settings([node])
            settings = read_settings(node)
    except BadLauncherConfig as bad:
        return launcher_problems(bad)
    except OmegaConfBaseException as error:
        return [Problem("hydra.launcher", str(error).splitlines()[0])]
    if settings.worker_num != config.parallel.ranks:
        sizes = "parallel.data x parallel.tensor x parallel.context"
        what = f"{settings.worker_num} processes, but {sizes} is {config.parallel.ranks}"
        return [Problem("hydra.launcher.worker_num", what, "leave it out: it follows parallel's sizes")]
    hydras = Path(node.hydra.runtime.output_dir).absolute()
    if node_count(settings) > 1 and Path(config.output_dir).is_relative_to(hydras):
        what = f"{config.output_dir} is Hydra's directory, of which each of several nodes has its own"
        return [Problem("output_dir", what, "output_dir=DIR, the same on every node and on storage that they share")]
    if config.task.name in WITHOUT_DEVICE or config.runtime.device != "ascend":
        return []
    problem = npu_problem(local_workers(settings))
    return [problem] if problem else []


def _downloaded(config: Config, downloads: Downloads, inputs: Inputs) -> tuple[Config, list[Problem]]:
    """The job with what it takes from the hub on this machine, and what is wrong with that."""
    if not addresses(config):
        return config, []
    config, problems = downloads.pinned(config)
    return config, problems or inputs.problems(config)


def _job_problems(config: Config, inputs: Inputs) -> list[Problem]:
    """All, or where something has to be downloaded first, all but those of what reads it."""
    if addresses(config):
        problems = [*address_problems(config), *inputs.data_problems(config)]
    else:
        problems = inputs.problems(config)
    problems = [*problems, *cross_problems(config), *_directory_problems(config)]
    if config.tracking.enabled:
        try:
            resolve_uri(config.tracking)
        except Refused as refused:
            problems += refused.problems
    return problems


def _directory_problems(config: Config) -> Iterator[Problem]:
    output = Path(config.output_dir)
    directories = [(output, "output_dir")]
    reads_rows = config.task.name in ("train", "prepare")
    if reads_rows and config.data.output is not None:
        directories.append((Path(config.data.output), "data.output"))
    elif reads_rows:
        directories.append((Path(config.runtime.cache_dir), "runtime.cache_dir"))
    if config.task.name == "convert" and config.weights.target:
        directories.append((Path(config.weights.target), "weights.target"))
    for directory, key in directories:
        if (problem := directory_problem(directory, key)) is not None:
            yield problem
    if config.task.name == "train" and config.train.resume is None and (output / "checkpoints").exists():
        remedy = "train.resume=auto goes on with it; or output_dir=DIR with another directory, or move this one away"
        yield Problem("output_dir", f"{output} holds checkpoints already, which would be overwritten", remedy)


def _shared_directories(configs: Sequence[Config]) -> list[Problem]:
    directories = [config.output_dir for config in configs if config.task.name == "train"]
    if len(set(directories)) == len(directories):
        return []
    what = "several jobs of the sweep would write into the same directory"
    return [Problem("output_dir", what, "output_dir=DIR/'${hydra:job.num}', or leave it out")]


def _merged(problems: Sequence[Sequence[Problem]], overrides: Sequence[Sequence[str]]) -> Iterator[Problem]:
    """Each problem once; where only some jobs of a sweep have it, it says which."""
    jobs: dict[Problem, list[int]] = {}
    for number, found in enumerate(problems):
        for problem in dict.fromkeys(found):
            jobs.setdefault(problem, []).append(number)
    shared = set.intersection(*(set(job) for job in overrides)) if overrides else set()
    for problem, numbers in jobs.items():
        if len(numbers) == len(problems):
            yield problem
            continue
        names = [difference(overrides[number], sorted(shared)) for number in numbers[:NAMED]]
        more = [f"{len(numbers) - NAMED} more"] if len(numbers) > NAMED else []
        yield replace(problem, what=f"{problem.what} (with {'; '.join([*names, *more])})")


def _hint(configs: Sequence[Config], problems: Sequence[Problem], overrides: Sequence[Sequence[str]]) -> str:
    """A command that runs here, where the device is what is missing."""
    trains = any(config.task.name == "train" for config in configs)
    if not trains or not any(problem.where == "runtime.device" for problem in problems):
        return ""
    experiment = [text for text in overrides[0] if text.startswith("+experiment=")]
    return " ".join(["the same on this machine, small: python -m dscoder_exp", *experiment, SMALL])
