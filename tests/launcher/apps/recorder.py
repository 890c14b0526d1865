"""A lifecycle that records its calls in record.txt, and raises in the method that the config's `refuse` names."""

import time
from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig, open_dict

from msrun_launcher import JobOutcome, current_job, warm_up


class Recorder:
    def __init__(self) -> None:
        self.file = Path("record.txt").absolute()
        self.note("new")

    def note(self, line: str) -> None:
        with self.file.open("a") as record:
            record.write(line + "\n")

    def raise_if_refused(self, config: DictConfig, method: str) -> None:
        if config.refuse == method:
            raise ValueError(f"{method} says no")

    def before_launch(self, configs: Sequence[DictConfig], overrides: Sequence[Sequence[str]]) -> None:
        for config, job in zip(configs, overrides, strict=True):
            with current_job(config):
                self.note(f"before_launch {' '.join(job)} -> {Path(config.output_dir).relative_to(Path.cwd())}")
            self.raise_if_refused(config, "before_launch")

    def before_job(self, config: DictConfig) -> None:
        self.note(f"before_job {Path(config.output_dir).name}")
        with open_dict(config):
            config.added = "by before_job"
        self.raise_if_refused(config, "before_job")

    def after_job(self, config: DictConfig, outcome: JobOutcome) -> None:
        error = outcome.error.splitlines()[0] if outcome.error else None
        self.note(f"after_job {Path(config.output_dir).name} {outcome.status} rank={outcome.rank} {error}")
        self.raise_if_refused(config, "after_job")

    def after_launch(self, outcomes: Sequence[JobOutcome]) -> None:
        self.note(f"after_launch {' '.join(outcome.status for outcome in outcomes)}".rstrip())


class WarmUp(Recorder):
    """Starts a spare worker and continues once it has imported; `refuse=waits` waits forever."""

    def before_launch(self, configs: Sequence[DictConfig], overrides: Sequence[Sequence[str]]) -> None:
        warm_up(["warmed", "nosuch"])
        while not Path("warmed.txt").exists() or configs[0].refuse == "waits":
            time.sleep(0.02)
        super().before_launch(configs, overrides)
