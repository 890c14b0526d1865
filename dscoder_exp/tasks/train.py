"""task=train: fine-tune a model, with evaluation before, during and after training."""

from dataclasses import replace

from dscoder_exp.console import Screen
from dscoder_exp.data.loader import load, refuse_too_many_documents, train_batches
from dscoder_exp.data.prepare import data_format
from dscoder_exp.device.start import start_device
from dscoder_exp.parallel.collectives import join
from dscoder_exp.schema.config import Config
from dscoder_exp.schema.llama import training_flops_per_token
from dscoder_exp.signals import ends_at_once
from dscoder_exp.tasks.evaluation_summary import print_scores
from dscoder_exp.tasks.model_setup import set_up_model
from dscoder_exp.tasks.prepare import log_data, prepare_data
from dscoder_exp.tasks.summary import (
    TrainingResult,
    lineage_of,
    print_beyond,
    print_data,
    print_kernels,
    print_result,
    print_tokens,
    print_trainable_parameters,
)
from dscoder_exp.tracking.run import open_run
from dscoder_exp.training.checkpoint_scores import CheckpointScores
from dscoder_exp.training.checkpoints import Checkpoints
from dscoder_exp.training.context import JobContext
from dscoder_exp.training.resume import checked_recipe, factors_of, find_resumed, weights_of
from dscoder_exp.training.step import Step
from dscoder_exp.training.trainer import Baseline, Trainer, is_due, total_steps
from dscoder_exp.training.training_evaluation import TrainingEvaluation
from dscoder_exp.weights.lora.setup import open_adapted
from dscoder_exp.weights.resolve import open_text_setup
from msrun_launcher.heartbeat import beat


def run(config: Config) -> float | None:
    """Train; returns the eval loss afterwards, a sweep's objective, or None without held-out rows."""
    train = config.train
    runtime = config.runtime
    start_device(runtime.device, jit_level=runtime.jit_level, deterministic=runtime.deterministic)
    resumed = find_resumed(config)
    opened = open_adapted(config)
    with ends_at_once():  # it waits for the other ranks
        mesh = join(config.parallel, runtime.device, opened.config.num_key_value_heads)
    rank = mesh.topology.rank
    screen = Screen(quiet=rank != 0, on_advance=beat)
    text = open_text_setup(config.model, config.tokenizer, opened)
    prompt_format = data_format(text, config.data)
    print_beyond(screen, text)
    with open_run(config.tracking, config.output_dir, rank) as run:
        with screen.stage("preparing the data"):
            prepared = prepare_data(config, text)
        print_tokens(screen, text, prompt_format)
        print_data(screen, prepared, prompt_format)
        if config.runtime.device == "ascend":
            refuse_too_many_documents(prepared, train.micro_batch_size)
        print_kernels(screen, runtime)
        with ends_at_once():  # here ranks wait for each other and much is compiled; there is nothing to save
            recipe = checked_recipe(config, opened.config, prepared, resumed)
            factors = factors_of(config, opened, resumed)
            weights = weights_of(config, opened, resumed)
            job = JobContext(config, mesh, run, screen)
            model = set_up_model(job, weights, factors=factors)
            print_trainable_parameters(screen, model)
            run.tags({"flops_per_token": str(training_flops_per_token(model.config, model.lora))})
            evaluation = TrainingEvaluation(job, model, text, prompt_format, prepared)
            scores = None if train.evaluate is None else CheckpointScores(job, model, text, prompt_format)
            lineage = lineage_of(config, prepared, prompt_format)
            checkpoints = Checkpoints(
                config,
                mesh,
                text.tokenizer,
                prompt_format.template,
                lineage,
                resumed,
                special_tokens=text.special_tokens,
                generation=replace(opened.generation, stop_token_ids=prompt_format.stop_token_ids),
            )
            step = Step(
                model,
                config.optim,
                recompute=train.recompute,
                seed=config.seed,
                resumed=resumed,
                before_update=checkpoints.wait,
            )

            sequences = load(prepared, "train")
            steps = total_steps(train, len(sequences))
            if resumed is None:
                before = Baseline(evaluation.eval_loss("before", 0), evaluation.answers("before"))
            else:
                before = Baseline(resumed.state.loss_before, resumed.state.answers_before)
                screen.print(f"resuming after step {step.done}, from {resumed.checkpoint}")
                if resumed.state.eval_loss is None and is_due(train.eval_every, step.done, steps):
                    eval_loss = evaluation.eval_loss(f"after step {step.done}", step.done)
                    checkpoints.update_best(resumed.checkpoint, eval_loss)
                if scores is not None and is_due(train.evaluate_every, step.done, steps):
                    scores(resumed.checkpoint, step.done)
            start = step.done * config.accumulation_steps
            shares = {"rank": mesh.topology.data_rank, "ranks": mesh.topology.data}
            batches = train_batches(sequences, train.micro_batch_size, seed=config.seed, start=start, **shares)
            own = {"recipe": recipe, "before": before, "scores": scores}
            trainer = Trainer(job, model, step, evaluation, checkpoints, **own)
        throughput = trainer(batches, steps)
        loss, answers = evaluation.eval_loss("after", steps), evaluation.answers("after")
        with screen.stage("saving the checkpoint"):
            checkpoint = trainer.save(loss, resumable=train.save_every is not None)
            checkpoints.wait()
        if scores is not None:
            scores(checkpoint, steps)
        log_data(run, config, prepared)
        run.tags({"checkpoint": str(checkpoint)})
    if rank == 0:
        compiling = model.compiled.compile_seconds
        result = TrainingResult(steps, before.loss, loss, before.answers, answers, throughput, compiling, checkpoint)
        print_result(screen, config, result)
        if scores is not None:
            print_scores(screen, config, scores.scores)
    return loss
