"""task=evaluate with a model: its programs for the problems of a suite, or its loss on rows."""

from pathlib import Path

from dscoder_exp.console import Screen
from dscoder_exp.device.start import start_device
from dscoder_exp.evaluation.evaluator import SuiteEvaluator, answering_of
from dscoder_exp.evaluation.loss_data import loss_data
from dscoder_exp.evaluation.prompts import make_prompts
from dscoder_exp.evaluation.report import comparison_of, publish, publish_loss
from dscoder_exp.evaluation.suites import read_suite
from dscoder_exp.generation.engine import Engine
from dscoder_exp.parallel.collectives import Mesh, join
from dscoder_exp.schema.config import Config
from dscoder_exp.signals import ends_at_once
from dscoder_exp.tasks.evaluation_summary import print_asked, print_evaluation, print_loss
from dscoder_exp.tasks.model_setup import set_up_model
from dscoder_exp.tasks.summary import print_beyond, print_tokens
from dscoder_exp.tracking.run import open_run
from dscoder_exp.training.context import JobContext
from dscoder_exp.training.training_evaluation import Evaluator
from dscoder_exp.weights.lora.setup import open_adapted
from dscoder_exp.weights.resolve import OpenedModel, TextSetup, open_text_setup


def evaluate_suite(config: Config) -> float | None:
    """Evaluate a suite of programs; returns pass@1, on ranks other than 0 None."""
    opened, text, mesh, screen = _open(config)
    evaluate, context = config.evaluate, opened.config.max_position_embeddings
    suite = read_suite(evaluate.suite, Path(evaluate.source or ""), evaluate.max_problems)
    prompts = make_prompts(evaluate, suite, text, context)
    print_asked(screen, suite, prompts)
    print_tokens(screen, text, prompts.prompt_format)
    answering = answering_of(prompts, suite, evaluate, text.tokenizer, context, config.seed)
    with open_run(config.tracking, config.output_dir, mesh.topology.rank) as run:
        job = JobContext(config, mesh, run, screen)

        def engine(slots: int) -> Engine:
            return Engine(set_up_model(job, opened, frozen=True), slots)

        evaluator = SuiteEvaluator(config, suite, prompts, answering, mesh, screen)
        evaluation = evaluator(engine, Path(evaluate.output), lambda evaluation: publish(run, evaluation, config))
    if evaluation is None:
        return None
    print_evaluation(screen, config, evaluation, comparison_of(evaluation, config))
    return evaluation.score.pass_at_1


def evaluate_loss(config: Config) -> float:
    """Measure the mean loss on rows, in nats a token."""
    opened, text, mesh, screen = _open(config)
    with open_run(config.tracking, config.output_dir, mesh.topology.rank) as run:
        with screen.stage("preparing the data"):
            data = loss_data(config, text)
        model = set_up_model(JobContext(config, mesh, run, screen), opened, frozen=True)
        evaluator = Evaluator(data.sequences, mesh, batch_size=config.train.micro_batch_size, limit=None)
        with screen.stage("measuring the loss", evaluator.batches) as stage:
            loss = evaluator(model, stage.advance)
        publish_loss(run, loss, data, config)
    print_loss(screen, config, loss, data)
    return loss


def _open(config: Config) -> tuple[OpenedModel, TextSetup, Mesh, Screen]:
    """Start the device, join the other ranks, and open the model and its tokenizer."""
    runtime = config.runtime
    start_device(runtime.device, jit_level=runtime.jit_level, deterministic=runtime.deterministic)
    opened = open_adapted(config)
    with ends_at_once():  # it waits for the other ranks
        mesh = join(config.parallel, runtime.device, opened.config.num_key_value_heads)
    screen = Screen(quiet=mesh.topology.rank != 0)
    text = open_text_setup(config.model, config.tokenizer, opened)
    print_beyond(screen, text)
    return opened, text, mesh, screen
