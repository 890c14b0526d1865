"""What the parts of a running job have in common."""

from dataclasses import dataclass

from dscoder_exp.console import Screen
from dscoder_exp.parallel.collectives import Mesh
from dscoder_exp.schema.config import Config
from dscoder_exp.tracking.run import Run


@dataclass(frozen=True)
class JobContext:
    """
    Attributes:
        mesh: this process's place among the job's ranks, and its process groups.
        run: the job's MLflow run; on ranks other than 0 it records nothing.
        screen: what the user sees; on ranks other than 0 it shows nothing.
    """

    config: Config
    mesh: Mesh
    run: Run
    screen: Screen
