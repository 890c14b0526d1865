"""Checking all jobs of a launch: returns their typed configurations, or raises with all problems of all jobs."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from dscoder_exp.preflight.downloads import Downloads, address_problems, hub_addresses
from dscoder_exp.preflight.inputs import InputChecks
from dscoder_exp.preflight.machine import directory_problem, npu_problem
from dscoder_exp.schema.check import to_config
from dscoder_exp.schema.config import WITHOUT_DEVICE, Config
from dscoder_exp.schema.cross import cross_problems
from dscoder_exp.schema.errors import Problem, Refused
from dscoder_exp.schema.paths import report_directory, with_absolute_paths
from dscoder_exp.storage.directory_lock import lock_problem
from dscoder_exp.tracking.describe import distinguishing_overrides
from dscoder_exp.tracking.store import resolve_uri
from msrun_launcher import BadLauncherConfig, current_job
from msrun_launcher.settings import check_settings, local_workers, node_count, read_settings

SMALL_RUN = "model=tiny runtime=cpu parallel=single train.max_steps=3 seq_length=256 data=sample"
MAX_NAMED_JOBS = 3  # most jobs named in a message


def check_jobs(
    composed: Sequence[DictConfig], overrides: Sequence[Sequence[str]], *, download: bool = True
) -> list[Config]:
    """The jobs' typed configurations, with absolute paths, the commits of hf:// addresses, and the final tracking URI.

    Args:
        composed: each job's whole configuration as composed by Hydra.
        overrides: each job's overrides, by which messages name the jobs of a sweep.
        download: download what hf:// addresses name, if nothing else is wrong; False: don't check those files.

    Raises:
        Refused: the problems of all jobs; nothing was started, and nothing written outside Hugging Face's cache.
    """
    inputs = InputChecks()
    configs, problems = [], []
    for cfg in composed:
        try:
            with current_job(cfg):
                config = with_absolute_paths(to_config(cfg))
        except Refused as refused:
            problems.append(list(refused.problems))
            continue
        configs.append(config)
        problems.append([*_launch_problems(config, cfg), *_job_problems(config, inputs, _is_main_node(cfg))])
    found = [*_merged(problems, overrides), *(_run_dir_problems(composed) or _shared_outputs(configs))]
    if download and not found:  # so `configs` has all jobs
        downloads = Downloads()
        configs, problems = zip(*(_download_and_check(config, downloads, inputs) for config in configs), strict=True)
        found = list(_merged(problems, overrides))
    if found:
        raise Refused(found, _hint(configs, found, overrides))
    return [_with_uri(config) if _uses_store(config) else config for config in configs]


def sweep_overrides(overrides: Sequence[Sequence[str]]) -> list[str]:
    """The sweep's overrides, put together from its jobs': `seed=0` and `seed=1` become `seed=0,1`."""
    values: dict[str, list[str]] = {}
    for text in dict.fromkeys(text for job in overrides for text in job):
        key, _, value = text.partition("=")
        values.setdefault(key, []).append(value)
    return [f"{key}={','.join(choices)}" for key, choices in values.items()]


def launcher_problems(bad: BadLauncherConfig) -> list[Problem]:
    """The launcher's messages as problems."""
    return [Problem("hydra.launcher", text) for text in bad.problems]


def _uses_store(config: Config) -> bool:
    """Whether the job records its run in MLflow, or reads others' there."""
    return config.tracking.enabled or config.task.name == "compare"


def _with_uri(config: Config) -> Config:
    return replace(config, tracking=replace(config.tracking, uri=resolve_uri(config.tracking)))


def _launch_problems(config: Config, cfg: DictConfig) -> list[Problem]:
    """Problems of processes and devices; the launcher would check its options too, but only after all other checks."""
    try:
        with current_job(cfg):
            check_settings([cfg])
            settings = read_settings(cfg)
    except BadLauncherConfig as bad:
        return launcher_problems(bad)
    except OmegaConfBaseException as error:
        return [Problem("hydra.launcher", str(error).splitlines()[0])]
    if settings.worker_num != config.parallel.ranks:
        sizes = "parallel.data x parallel.tensor x parallel.context"
        what = f"{settings.worker_num} processes, but {sizes} is {config.parallel.ranks}"
        return [Problem("hydra.launcher.worker_num", what, "leave it out: it is computed from these sizes")]
    hydra_output = Path(cfg.hydra.runtime.output_dir).absolute()
    if node_count(settings) > 1 and Path(config.output_dir).is_relative_to(hydra_output):
        what = f"{config.output_dir} is in Hydra's output directory, which differs between nodes"
        return [Problem("output_dir", what, "output_dir=DIR, the same path on every node, on shared storage")]
    if config.task.name in WITHOUT_DEVICE or config.runtime.device != "ascend":
        return []
    problem = npu_problem(local_workers(settings))
    return [problem] if problem else []


def _download_and_check(config: Config, downloads: Downloads, inputs: InputChecks) -> tuple[Config, list[Problem]]:
    """Download what the job reads from the hub and check it; returns the pinned configuration, and the problems."""
    if not hub_addresses(config):
        return config, []
    config, problems = downloads.download(config)
    return config, problems or inputs.problems(config)


def _is_main_node(cfg: DictConfig) -> bool:
    """Whether this is the node of rank 0, whose launcher locks the output directory for all nodes."""
    return cfg.hydra.launcher.node_rank == 0


def _job_problems(config: Config, inputs: InputChecks, is_main: bool) -> list[Problem]:
    """All problems of the job; if it reads from the hub, without those of the files still to be downloaded."""
    if hub_addresses(config):
        problems = [*address_problems(config), *inputs.data_problems(config)]
    else:
        problems = inputs.problems(config)
    problems = [*problems, *cross_problems(config), *_directory_problems(config, is_main)]
    if _uses_store(config):
        try:
            resolve_uri(config.tracking)
        except Refused as refused:
            problems += refused.problems
    return problems


def _directory_problems(config: Config, is_main: bool) -> Iterator[Problem]:
    output = Path(config.output_dir)
    directories = [(output, "output_dir")]
    reads_rows = config.task.name in ("train", "prepare")
    if reads_rows and config.data.output is not None:
        directories.append((Path(config.data.output), "data.output"))
    elif reads_rows:
        directories.append((Path(config.runtime.cache_dir), "runtime.cache_dir"))
    if config.task.name == "convert" and config.weights.target:
        directories.append((Path(config.weights.target), "weights.target"))
    if config.task.name == "compare":
        directories.append((report_directory(config), "compare.output"))
    if config.task.name == "predict" and config.predict.output:
        directories.append((Path(config.predict.output).parent, "predict.output"))
    if config.task.name == "evaluate":
        directories.append((Path(config.evaluate.output), "evaluate.output"))
    for directory, key in directories:
        if (problem := directory_problem(directory, key)) is not None:
            yield problem
    if is_main and (in_use := lock_problem(output, "output_dir")) is not None:
        yield in_use
    elif config.task.name == "train" and config.train.resume is None and (output / "checkpoints").exists():
        remedy = "train.resume=auto to resume that run, output_dir=DIR for another directory, or move this one away"
        yield Problem("output_dir", f"{output} already holds checkpoints, which would be overwritten", remedy)


def _shared_outputs(configs: Sequence[Config]) -> list[Problem]:
    """The problem that jobs of a sweep would write to the same place."""
    written = {
        "output_dir": [config.output_dir for config in configs if config.task.name == "train"],
        "predict.output": [config.predict.output for config in configs if config.predict.output is not None],
        "evaluate.output": [config.evaluate.output for config in configs if config.task.name == "evaluate"],
    }
    what = "several jobs of the sweep would write to the same place"
    remedies = {"output_dir": "output_dir=DIR/'${hydra:job.num}', or leave it out"}
    remedies["evaluate.output"] = "evaluate.output=DIR/'${hydra:job.num}', or leave it out"
    remedies["predict.output"] = "predict.output='answers-${hydra:job.num}.jsonl'"
    return [Problem(key, what, remedies[key]) for key, places in written.items() if len(set(places)) < len(places)]


def _run_dir_problems(composed: Sequence[DictConfig]) -> list[Problem]:
    """hydra.run.dir is one directory; Hydra itself ignores it in a sweep."""
    directory = composed[0].hydra.run.dir if len(composed) > 1 else ""
    if not directory:
        return []
    what = f"the directory of a single job, and this sweep has {len(composed)}"
    return [Problem("hydra.run.dir", what, f"hydra.sweep.dir={directory}: each job gets a directory in it")]


def _merged(problems: Sequence[Sequence[Problem]], overrides: Sequence[Sequence[str]]) -> Iterator[Problem]:
    """Each problem once; one that not all jobs have names the jobs by their overrides."""
    jobs: dict[Problem, list[int]] = {}
    for number, found in enumerate(problems):
        for problem in dict.fromkeys(found):
            jobs.setdefault(problem, []).append(number)
    shared = set.intersection(*(set(job) for job in overrides)) if overrides else set()
    for problem, numbers in jobs.items():
        if len(numbers) == len(problems):
            yield problem
            continue
        names = [distinguishing_overrides(overrides[number], "\n".join(shared)) for number in numbers[:MAX_NAMED_JOBS]]
        more = [f"{len(numbers) - MAX_NAMED_JOBS} more"] if len(numbers) > MAX_NAMED_JOBS else []
        yield replace(problem, what=f"{problem.what} (with {'; '.join([*names, *more])})")


def _hint(configs: Sequence[Config], problems: Sequence[Problem], overrides: Sequence[Sequence[str]]) -> str:
    """If NPUs are missing: a command for a small training run on this machine; else ''."""
    trains = any(config.task.name == "train" for config in configs)
    if not trains or not any(problem.where == "runtime.device" for problem in problems):
        return ""
    experiment = [text for text in overrides[0] if text.startswith("+experiment=")]
    return " ".join(["a small run for this machine: python -m dscoder_exp", *experiment, SMALL_RUN])
