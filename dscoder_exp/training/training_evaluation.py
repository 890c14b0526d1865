"""Evaluation during a training run: the loss on held-out rows, and answers to a few prompts."""

import math
from collections.abc import Callable

from dscoder_exp.data.loader import SequenceDataset, eval_batches, load
from dscoder_exp.data.prompt_format import PromptFormat
from dscoder_exp.data.report import Prepared
from dscoder_exp.generation.answers import Answering, Ending
from dscoder_exp.generation.batching import Batch
from dscoder_exp.generation.engine import Engine
from dscoder_exp.generation.sampling import Sampling
from dscoder_exp.model.llama import Llama
from dscoder_exp.parallel.collectives import Mesh
from dscoder_exp.training.context import JobContext
from dscoder_exp.weights.resolve import TextSetup


class TrainingEvaluation:
    """Evaluates the model with its current weights; logs results to the MLflow run and the screen."""

    def __init__(
        self,
        job: JobContext,
        model: Llama,
        text: TextSetup,
        prompt_format: PromptFormat,
        prepared: Prepared,
    ) -> None:
        """
        Args:
            text: tokenizer and special tokens.
            prompt_format: the one that the rows were rendered with.
            prepared: the prepared data, whose eval split is held out.
        """
        train = job.config.train
        self._model, self._run, self._screen = model, job.run, job.screen
        self._evaluator = Evaluator(
            load(prepared, "eval"), model.mesh, batch_size=train.micro_batch_size, limit=train.max_eval_sequences
        )
        self._prompts = train.prompts if model.mesh.topology.replica == 0 else []
        self._ids = [prompt_format.request(prompt) for prompt in self._prompts]
        ending = Ending(prompt_format.stop_token_ids, hidden_ids=prompt_format.control_ids)
        self._answering = Answering(text.tokenizer, ending, model.config.max_position_embeddings, train.prompt_tokens)
        self._engine = Engine(model, max(1, min(len(self._prompts), job.config.predict.batch_size)))

    def eval_loss(self, when: str, step: int) -> float | None:
        """Mean loss over the held-out rows' counted labels, nats; None: no rows are held out. Call it on all ranks.

        Args:
            when: part of the progress line, such as "after step 10".
            step: MLflow step that the loss is logged at.
        """
        if not self._evaluator.batches:
            return None
        with self._screen.stage(f"eval loss {when}", self._evaluator.batches) as stage:
            loss = self._evaluator(self._model, stage.advance)
        self._run.metrics({"eval/loss": loss}, step)
        return loss

    def answers(self, when: str) -> list[str]:
        """Greedy answers to train.prompts, logged as predictions/WHEN.md; none on replicas other than the first."""
        if not self._prompts:
            return []
        answers = [self._answering.answer(ids) for ids in self._ids]
        with self._screen.stage(f"answers {when}", len(answers)) as stage:
            for finished in Batch(self._engine, Sampling()).run(answers):
                for answer in finished:
                    stage.advance(f"{len(answer.tokens) / answer.seconds:.0f} tokens/s")
        texts = [answer.text for answer in answers]
        pairs = zip(self._prompts, texts, strict=True)
        self._run.text("\n".join(f"## {prompt}\n\n{text}\n" for prompt, text in pairs), f"predictions/{when}.md")
        return texts


class Evaluator:
    """Mean loss over the same sequences each time, divided among the data ranks; each is counted once."""

    def __init__(self, sequences: SequenceDataset, mesh: Mesh, *, batch_size: int, limit: int | None) -> None:
        """
        Args:
            batch_size: sequences a batch, on each data rank.
            limit: number of sequences to use, the first ones; None: all.
        """
        self._sequences, self._mesh = sequences, mesh
        self._batch_size, self._limit = batch_size, limit

    @property
    def batches(self) -> int:
        """Batches that each data rank evaluates."""
        count = min(len(self._sequences), self._limit or len(self._sequences))
        return math.ceil(count / (self._batch_size * self._mesh.topology.data))

    def __call__(self, model: Llama, on_batch: Callable[[], None] = lambda: None) -> float:
        """Mean negative log-likelihood of the counted labels over all ranks, nats. Call it on all ranks."""
        topology, loss, tokens = self._mesh.topology, 0.0, 0
        rank, ranks = topology.data_rank, topology.data
        for batch in eval_batches(self._sequences, self._batch_size, rank=rank, ranks=ranks, limit=self._limit):
            loss += model.loss_sum(model.inputs(batch.ids, batch.positions, batch.documents, batch.labels))
            tokens += batch.loss_tokens
            on_batch()
        own = loss if topology.tensor_rank == 0 else 0.0, tokens if topology.counts_batch else 0
        loss, counted = self._mesh.sums(*own)
        return loss / counted
