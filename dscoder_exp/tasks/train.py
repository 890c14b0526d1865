"""task=train: fine-tune a model on instruction rows, measuring before, on the way and after."""

from pathlib import Path

from dscoder_exp.console import Screen
from dscoder_exp.data.batches import load, train_batches
from dscoder_exp.model.device import start_device
from dscoder_exp.model.llama import Factors
from dscoder_exp.parallel.topology import join
from dscoder_exp.schema.config import Config
from dscoder_exp.tasks.loading import load_model
from dscoder_exp.tasks.measuring import Measuring
from dscoder_exp.tasks.prepare import log_data, prepare_data
from dscoder_exp.tasks.summary import TrainingResult, lineage_of, say_data, say_result, say_trained
from dscoder_exp.tracking.run import open_run
from dscoder_exp.tracking.signals import TERMINATED, uninterrupted
from dscoder_exp.training.checkpoints import Checkpoints
from dscoder_exp.training.diagnosis import write_diagnosis
from dscoder_exp.training.loop import Throughput, is_due, metrics_of, take_step, total_steps
from dscoder_exp.training.resume import factors_of, find_resumed, same_run, weights_of
from dscoder_exp.training.state import TrainingState
from dscoder_exp.training.step import NotFinite, Step
from dscoder_exp.weights.adapted import open_adapted
from dscoder_exp.weights.resolve import open_tokenizer, text_setup


def run(config: Config) -> float | None:
    """Returns the eval loss after training, which a sweep can be ranked by; None without held-out rows."""
    train = config.train
    start_device(config.runtime.device)
    topology = join(config.parallel)
    rank, ranks = topology.rank, topology.ranks
    screen = Screen(quiet=rank != 0)
    resumed = find_resumed(config)
    opened = open_adapted(config)
    text = text_setup(opened.config, open_tokenizer(config.tokenizer, opened))
    template = config.data.template or opened.template
    with open_run(config.tracking, rank, ranks, left=resumed and resumed.state.waiting) as run:
        with screen.stage("preparing the data"):
            prepared = prepare_data(config, text, template)
        say_data(screen, prepared, template)
        recipe = same_run(config, opened.config, prepared, resumed)
        with screen.stage("loading the model") as stage:
            factors = factors_of(config, opened, resumed)
            model = load_model(
                config, weights_of(config, opened, resumed), run, stage, screen, factors and Factors(*factors)
            )
        say_trained(screen, model)
        measuring = Measuring(config, model, text, template, prepared, topology, run, screen)
        step = Step(model, config.optim, topology, recompute=train.recompute, seed=config.seed, resumed=resumed)
        lineage = lineage_of(config, prepared)
        checkpoints = Checkpoints(config, text.tokenizer, template, lineage, resumed, writes=rank == 0)

        if resumed is None:
            loss_before, answers_before = measuring.eval_loss("before", 0), measuring.answers("before")
        else:
            loss_before, answers_before = resumed.state.loss_before, resumed.state.answers_before
            screen.say(f"going on after step {step.done}, from {resumed.checkpoint}")
        sequences = load(prepared, "train")
        steps = total_steps(train, len(sequences), ranks)
        start = step.done * train.accumulate
        batches = train_batches(sequences, train.batch_size, rank=rank, ranks=ranks, seed=config.seed, start=start)
        throughput = Throughput()

        def save(loss: float | None, *, resumable: bool) -> Path:
            so_far = loss_before, answers_before, run.waiting(), step.loss_scale.state
            state = TrainingState(step.done, step.skipped, recipe, config.tracking.run_id, None, None, *so_far)
            return checkpoints.save(model, step.done, loss, (state, step.adamw) if resumable else None)

        if resumed is not None and resumed.state.eval_loss is None and is_due(train.eval_every, step.done, steps):
            checkpoints.judge(resumed.checkpoint, measuring.eval_loss(f"after step {step.done}", step.done))
        with screen.stage("training", steps, step.done) as stage, uninterrupted() as signals:
            while step.done < steps:
                try:
                    result = take_step(step, batches, config, steps, stop=lambda: bool(signals))
                except NotFinite as error:
                    if rank == 0:
                        run.artifact(write_diagnosis(Path(config.output_dir), model, error, step.done + 1), "diagnosis")
                    raise
                run.metrics(metrics_of(result, ranks), step.done)
                throughput.add(result)
                speed = throughput.per_second("tokens")
                compiled = f", {result.compile_seconds:.1f} s of compiling" if result.compile_seconds else ""
                stage.advance(f"loss {result.loss:.3f}, lr {result.lr:.2e}, {speed:.0f} tokens/s{compiled}")
                if result.stop:
                    screen.remark(f"asked to stop: saved as {save(None, resumable=True)}; train.resume=auto goes on")
                    raise SystemExit(TERMINATED)
                loss = None
                if is_due(train.eval_every, step.done, steps):
                    loss = measuring.eval_loss(f"after step {step.done}", step.done)
                if is_due(train.save_every, step.done, steps):
                    save(loss, resumable=True)
        loss_after, answers_after = measuring.eval_loss("after", steps), measuring.answers("after")
        with screen.stage("saving the checkpoint"):
            checkpoint = save(loss_after, resumable=train.save_every is not None)
        log_data(run, config, prepared)
        run.tags({"checkpoint": str(checkpoint)})
    answers, compile_seconds = (answers_before, answers_after), model.units.compile_seconds
    result = TrainingResult(steps, loss_before, loss_after, *answers, throughput, compile_seconds, checkpoint)
    say_result(screen, config, result)
    return loss_after
