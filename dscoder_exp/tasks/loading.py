"""The step that every task with a model begins with."""

from dscoder_exp.console import Screen, Stage
from dscoder_exp.model.build import build
from dscoder_exp.model.llama import Llama
from dscoder_exp.schema.config import Config
from dscoder_exp.weights.check import check
from dscoder_exp.weights.resolve import OpenedModel


def load_model(config: Config, opened: OpenedModel, stage: Stage, screen: Screen) -> Llama:
    """The opened model on the device, its files checked first."""
    if opened.source is not None:
        stage.note(str(check(opened.source)))
    return build(
        opened.config,
        opened.source,
        seed=config.seed,
        device=config.runtime.device,
        precision=config.runtime.precision,
        announce=screen.compiling,
    )
