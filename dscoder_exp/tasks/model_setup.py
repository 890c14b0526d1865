"""Building the model, for all tasks that compute with one."""

from dscoder_exp.model.build import build
from dscoder_exp.model.llama import Llama
from dscoder_exp.native.library import library
from dscoder_exp.signals import ends_at_once
from dscoder_exp.training.context import JobContext
from dscoder_exp.weights.check import check
from dscoder_exp.weights.lora.adapter import Factors
from dscoder_exp.weights.resolve import OpenedModel


def set_up_model(
    job: JobContext, opened: OpenedModel, *, factors: Factors | None = None, frozen: bool = False
) -> Llama:
    """Check the weights' files, log which tensors were found, and build the model on the device.

    Args:
        opened: shape and weights, and the adapter if there is one.
        factors: LoRA factors to train; None: an adapter is merged into the weights.
        frozen: nothing is trained.
    """
    config = job.config
    with job.screen.stage("loading the model") as stage:
        if opened.source is not None:
            report = check(opened.source, allow=config.weights.allow)
            stage.note(str(report))
            job.run.text(report.text, "weights.txt")
        if config.runtime.device == "cpu":
            library()  # compiled here, where a stop leaves no temporary files
        with ends_at_once():
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
