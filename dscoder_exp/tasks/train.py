"""task=train: fine-tune a model on instruction rows, measuring before, on the way and after."""

from pathlib import Path

from dscoder_exp.console import Screen
from dscoder_exp.data.batches import load, train_batches
from dscoder_exp.model.device import start_device
from dscoder_exp.parallel.topology import join
from dscoder_exp.schema.config import Config
from dscoder_exp.tasks.loading import load_model
from dscoder_exp.tasks.measuring import Measuring
from dscoder_exp.tasks.prepare import prepare_data
from dscoder_exp.tasks.summary import TrainingResult, lineage_of, say_data, say_result
from dscoder_exp.tracking.run import open_run
from dscoder_exp.training.checkpoints import Checkpoints
from dscoder_exp.training.loop import Throughput, is_due, metrics_of, total_steps, train_steps
from dscoder_exp.training.step import Step
from dscoder_exp.weights.resolve import open_model, open_tokenizer, text_setup


def run(config: Config) -> float | None:
    """Returns the eval loss after training, which a sweep can be ranked by; None without held-out rows."""
    train = config.train
    start_device(config.runtime.device)
    topology = join(config.parallel)
    rank, ranks = topology.rank, topology.ranks
    screen = Screen(quiet=rank != 0)
    opened = open_model(config.model)
    text = text_setup(opened.config, open_tokenizer(config.tokenizer, opened))
    template = config.data.template or opened.template
    with open_run(config.tracking, rank, ranks) as run:
        with screen.stage("preparing the data"):
            prepared = prepare_data(config, text, template)
        say_data(screen, prepared, template)
        with screen.stage("loading the model") as stage:
            model = load_model(config, opened, run, stage, screen)
        measuring = Measuring(config, model, text, template, prepared, topology, run, screen)
        checkpoints = Checkpoints(
            Path(config.output_dir),
            tokenizer=text.tokenizer,
            template=template,
            lineage=lineage_of(config, prepared),
            writes=rank == 0,
        )
        step = Step(model, config.optim, topology, recompute=train.recompute)

        loss_before, answers_before = measuring.eval_loss("before", 0), measuring.answers("before")
        sequences = load(prepared, "train")
        steps = total_steps(train, len(sequences), ranks)
        batches = train_batches(sequences, train.batch_size, rank=rank, ranks=ranks, seed=config.seed)
        throughput = Throughput()
        with screen.stage("training", steps) as stage:
            for number, result in train_steps(step, batches, train, config.optim, steps):
                run.metrics(metrics_of(result, ranks), number)
                throughput.add(result)
                stage.advance(f"loss {result.loss:.3f}, {throughput.per_second('tokens'):.0f} tokens/s")
                loss = None
                if is_due(train.eval_every, number, steps):
                    loss = measuring.eval_loss(f"after step {number}", number)
                if is_due(train.save_every, number, steps):
                    checkpoints.save(model, number, loss)
        loss_after, answers_after = measuring.eval_loss("after", steps), measuring.answers("after")
        with screen.stage("saving the checkpoint"):
            checkpoint = checkpoints.save(model, steps, loss_after)
        run.artifact(prepared.directory / "data.json")
        run.tags({"checkpoint": str(checkpoint)})
    result = TrainingResult(steps, loss_before, loss_after, answers_before, answers_after, throughput, checkpoint)
    say_result(screen, config, result)
    return loss_after
