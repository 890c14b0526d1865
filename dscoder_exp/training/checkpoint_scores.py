"""Scoring checkpoints by a suite of programs during a training run (train.evaluate)."""

from pathlib import Path

from dscoder_exp.data.prompt_format import PromptFormat
from dscoder_exp.evaluation.evaluator import SuiteEvaluator, answering_of
from dscoder_exp.evaluation.prompts import make_prompts
from dscoder_exp.evaluation.report import checkpoint_name, publish_checkpoint
from dscoder_exp.evaluation.results import RESULTS, Evaluation
from dscoder_exp.evaluation.scores import Score
from dscoder_exp.evaluation.suites import read_suite
from dscoder_exp.generation.engine import Engine
from dscoder_exp.model.llama import Llama
from dscoder_exp.signals import ends_at_once
from dscoder_exp.training.context import JobContext
from dscoder_exp.weights.resolve import TextSetup


class CheckpointScores:
    """Evaluates the model that is being trained. All ranks call it.

    Attributes:
        scores: of this process's evaluations, by step; on rank 0.
    """

    def __init__(self, job: JobContext, model: Llama, text: TextSetup, prompt_format: PromptFormat) -> None:
        """
        Args:
            prompt_format: the one that the model learns.

        Raises:
            Refused: the suite's file has changed since the checks, and can't be used.
        """
        config, context = job.config, model.config.max_position_embeddings
        evaluate, name = config.evaluate, config.train.evaluate
        assert name is not None
        self._model, self._run = model, job.run
        self._directory = Path(evaluate.output)
        suite = read_suite(name, Path(evaluate.source or ""), evaluate.max_problems)
        prompts = make_prompts(evaluate, suite, text, context, prompt_format)
        answering = answering_of(prompts, suite, evaluate, text.tokenizer, context, config.seed)
        self._evaluator = SuiteEvaluator(config, suite, prompts, answering, job.mesh, job.screen)
        self.scores: dict[int, Score] = {}

    def __call__(self, checkpoint: Path, step: int) -> None:
        """Evaluate the model as it is, which is what `checkpoint` holds; nothing if an earlier process did.

        To be called once the checkpoint is complete: a process that is asked to stop meanwhile ends at once, and a
        resumed run goes on with the evaluation.
        """
        directory = self._directory / checkpoint_name(step)
        if (directory / RESULTS).exists():
            return

        def publish(evaluation: Evaluation) -> None:
            publish_checkpoint(self._run, evaluation, directory, checkpoint, step)
            self.scores[step] = evaluation.score

        with ends_at_once():
            self._evaluator(lambda slots: Engine(self._model, slots), directory, publish, {"step": step})
