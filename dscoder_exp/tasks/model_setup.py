"""The step that every task with a model begins with."""

from dscoder_exp.model.build import build
from dscoder_exp.model.llama import Llama
from dscoder_exp.training.context import JobContext
from dscoder_exp.weights.check import check
from dscoder_exp.weights.lora.adapter import Factors
from dscoder_exp.weights.resolve import OpenedModel


def set_up_model(
    job: JobContext, opened: OpenedModel, *, factors: Factors | None = None, frozen: bool = False
) -> Llama:
    """The opened model on the device, its files checked first; what was found in them is logged.

    Args:
        factors: LoRA's, which are trained; without them an adapter is merged into the weights.
        frozen: nothing is trained.
    """
    config = job.config
    with job.screen.stage("loading the model") as stage:
        if opened.source is not None:
            report = check(opened.source, allow=config.weights.allow)
            stage.note(str(report))
            job.run.text(report.text, "weights.txt")
        return build(
            opened.config,
            opened.source,
            seed=config.seed,
            device=config.runtime.device,
            precision=config.runtime.precision,
            adapter=None if factors else opened.adapter,
            factors=factors,
            frozen=frozen,
            mesh=job.mesh,
            announce=job.screen.compiling,
        )
