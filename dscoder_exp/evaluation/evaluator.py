"""Evaluating a model on a suite: its answers are generated, and scored while others are being generated."""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from dscoder_exp.console import Screen, Stage
from dscoder_exp.evaluation.extraction import stop_strings
from dscoder_exp.evaluation.keeper import Keeper
from dscoder_exp.evaluation.kept_results import (
    collect_parts,
    finish_part,
    open_part,
    origin_of,
    take_up,
    wait_for_results,
)
from dscoder_exp.evaluation.prompts import Prompts
from dscoder_exp.evaluation.protocol import protocol_of
from dscoder_exp.evaluation.results import Evaluation
from dscoder_exp.evaluation.sandbox import Sandbox
from dscoder_exp.evaluation.scoring import preloaded
from dscoder_exp.evaluation.suites import Suite
from dscoder_exp.generation.answer_file import AnswerFile, Place
from dscoder_exp.generation.answers import Answering, Ending
from dscoder_exp.generation.batching import Batch
from dscoder_exp.generation.engine import Engine
from dscoder_exp.generation.sampling import Sampling
from dscoder_exp.parallel.collectives import Mesh
from dscoder_exp.schema.config import Config, EvaluateConfig

NONE: Mapping[str, Any] = {}
MakeEngine = Callable[[int], Engine]  # number of slots -> an engine of the model
Publish = Callable[[Evaluation], None]


def answering_of(
    prompts: Prompts, suite: Suite, evaluate: EvaluateConfig, tokenizer: Tokenizer, context: int, seed: int
) -> Answering:
    """How a model answers the prompts; context: the model's, in tokens."""
    asked, continues = prompts.prompt_format, prompts.form == "completion"
    ending = Ending(asked.stop_token_ids, stop_strings(suite.family, prompts.form), asked.control_ids)
    return Answering(tokenizer, ending, context, evaluate.max_new_tokens, seed, continues)


@dataclass(frozen=True)
class SuiteEvaluator:
    """Evaluates a model on a suite. All ranks call it; the replicas share the problems.

    Attributes:
        answering: how the model answers, with what ends an answer in the prompts' form.
    """

    config: Config
    suite: Suite
    prompts: Prompts
    answering: Answering
    mesh: Mesh
    screen: Screen

    def __call__(
        self, engine: MakeEngine, directory: Path, publish: Publish, origin: Mapping[str, Any] = NONE
    ) -> Evaluation | None:
        """Generate and score what earlier runs left, and write results.jsonl.

        Args:
            engine: called only where there are answers to generate.
            directory: of results.jsonl.
            publish: called on rank 0 before results.jsonl is written, which says that all is done.
            origin: what the results depend on besides the configuration.

        Returns:
            The evaluation; None on ranks other than 0, once rank 0 has written the results.

        Raises:
            Refused: the results exist, were begun otherwise, or can't be written; the sandbox isn't complete.
        """
        topology, evaluate = self.mesh.topology, self.config.evaluate
        own = {**origin_of(self.config, self.suite.name), **origin}
        with ExitStack() as stack:
            file = keeper = None
            if topology.rank == 0:
                file = stack.enter_context(take_up(directory, own))
            left = self._left(file)
            mine = left[topology.data_rank :: topology.data]
            if topology.rank and topology.tensor_rank == 0:
                file = stack.enter_context(open_part(directory, topology.data_rank, own))
            if file is not None:
                strict = evaluate.sandbox == "strict"
                sandbox = Sandbox(jobs=evaluate.jobs, strict=strict, imports=preloaded(self.suite))
                keeper = Keeper(file, self.suite, stack.enter_context(sandbox), mine)
            started = time.perf_counter()
            generated = self._evaluate(engine, mine, keeper)
            if file is not None and keeper is not None and topology.rank == 0:
                if collect_parts(directory, topology, file):
                    generated = time.perf_counter() - started
                evaluation = self._evaluation(keeper, left, generated)
                publish(evaluation)
                keeper.finish(evaluation.rows)
                return evaluation
            if file is not None:
                finish_part(file)
        wait_for_results(directory)
        return None

    @property
    def _places(self) -> list[Place]:
        samples = self.config.evaluate.num_samples
        return [(number, sample) for number in range(len(self.suite.problems)) for sample in range(samples)]

    def _left(self, file: AnswerFile | None) -> list[Place]:
        """The samples that are still to be generated: rank 0 knows, and tells the others."""
        known = file.answers if file is not None and self.mesh.topology.rank == 0 else {}
        kept = self.mesh.sums(*(float(place in known) for place in self._places))
        return [place for place, is_kept in zip(self._places, kept, strict=True) if not is_kept]

    def _evaluate(self, engine: MakeEngine, left: Sequence[Place], keeper: Keeper | None) -> float:
        """Generate and score; returns the seconds of generation."""
        total, done = (keeper.total, keeper.scored) if keeper else (len(left), 0)
        try:
            with self.screen.stage("evaluating", total, done) as stage:
                seconds = self._generate(engine, left, keeper, stage) if left else 0.0
                if keeper is not None:
                    keeper.score_rest(stage.advance)
        except BaseException:
            if keeper is not None:
                self.screen.remark(f"{keeper.kept} answers are kept; the same command goes on after them")
            raise
        return seconds

    def _generate(self, make: MakeEngine, left: Sequence[Place], keeper: Keeper | None, stage: Stage) -> float:
        answers = {place: self.answering.answer(self.prompts.ids[place[0]], place[1]) for place in left}
        places = {id(answer): place for place, answer in answers.items()}
        evaluate = self.config.evaluate
        sampling = Sampling(evaluate.temperature, top_p=evaluate.top_p)
        batch = Batch(make(min(evaluate.batch_size, len(answers))), sampling)
        started = time.perf_counter()
        for finished in batch.run(list(answers.values())):
            if keeper is None:
                continue
            keeper.speed = batch.tokens / (time.perf_counter() - started)
            for place in (places[id(row)] for row in finished):
                keeper.add(place, {**answers[place].fields(), "form": self.prompts.form})
            keeper.score(stage.advance)
            stage.note(keeper.note)
        return time.perf_counter() - started

    def _evaluation(self, keeper: Keeper, generated: Sequence[Place], seconds: float) -> Evaluation:
        """Of what is kept; generated: what this run added, in so many seconds."""
        tokens = sum(keeper.answers[place]["tokens"] for place in generated)
        evaluate, prompts = self.config.evaluate, self.prompts
        return Evaluation(
            self.suite,
            keeper.rows(self._places, evaluate.num_samples),
            protocol_of(self.suite, evaluate, prompts.form, prompts.texts),
            keeper.isolation,
            keeper.failing,
            evaluate.k,
            tokens / seconds if tokens else None,
        )
