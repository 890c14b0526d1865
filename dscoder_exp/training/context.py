"""What all parts of a running job use."""

from dataclasses import dataclass

from dscoder_exp.console import Screen
from dscoder_exp.parallel.collectives import Mesh
from dscoder_exp.schema.config import Config
from dscoder_exp.tracking.run import Run


@dataclass(frozen=True)
class JobContext:
    """One process's configuration, ranks and outputs.

    Attributes:
        mesh: this process's rank in the job, and its process groups.
        run: the job's MLflow run; ranks other than 0 record nothing.
        screen: terminal output; ranks other than 0 print nothing.
    """

    config: Config
    mesh: Mesh
    run: Run
    screen: Screen
