"""task=convert: write weights in another format. Needs no device; the source isn't changed."""

import time

from dscoder_exp.console import Screen
from dscoder_exp.schema.config import Config
from dscoder_exp.tasks.commands import predict_command
from dscoder_exp.tracking.run import open_run
from dscoder_exp.weights.convert.conversion import convert, open_conversion


def run(config: Config) -> None:
    """Convert `weights.source` to `weights.target`."""
    screen = Screen(quiet=False)
    conversion = open_conversion(config.weights, config.model, config.tokenizer)
    source, target, plan = conversion.source, conversion.target, conversion.plan
    screen.print(f"source   {source.path} ({source.kind}): {conversion.report}")
    for line in conversion.opened.overrides:
        screen.print(f"         {line}")
    if conversion.adapter is not None:
        screen.print(f"merging  {conversion.adapter.path}: {conversion.adapter.lora}")
    started = time.monotonic()
    with open_run(config.tracking, config.output_dir, 0) as run:
        run.text(conversion.report.text, "weights.txt")
        with screen.stage("converting", len(plan.tensors)) as stage:
            convert(conversion, on_tensor=stage.advance)
    seconds = time.monotonic() - started
    layout = f", sharded over {plan.tp_size} ranks" if plan.tp_size and plan.tp_size > 1 else ""
    screen.print(f"target   {target} ({config.weights.format}{layout})")
    screen.print(f"written  {plan.bytes / 1e9:.2f} GB in {seconds:.1f} s, {plan.bytes / 1e9 / seconds:.2f} GB/s")
    screen.print(f"try it   {predict_command({'model.path': str(target)})}")
