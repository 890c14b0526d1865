"""What a training run measures of its model: the loss on held-out rows, and its answers to a few prompts."""

import math
from collections.abc import Callable

from dscoder_exp.data.encode import encode_prompts
from dscoder_exp.data.loader import SequenceDataset, eval_batches, load
from dscoder_exp.data.report import Prepared
from dscoder_exp.data.templates import template_named
from dscoder_exp.generation.answers import answer
from dscoder_exp.generation.engine import Engine
from dscoder_exp.generation.sampling import Sampling
from dscoder_exp.model.llama import Llama
from dscoder_exp.parallel.collectives import Mesh
from dscoder_exp.training.context import JobContext
from dscoder_exp.weights.resolve import TextSetup


class TrainingEvaluation:
    """Measures the model as it is; results go to the run and the screen."""

    def __init__(
        self,
        job: JobContext,
        model: Llama,
        text: TextSetup,
        template: str | None,
        prepared: Prepared,
    ) -> None:
        """
        Args:
            template: the prompt format that the rows were rendered with.
        """
        train = job.config.train
        self._model, self._text, self._run, self._screen = model, text, job.run, job.screen
        self._evaluator = Evaluator(
            load(prepared, "eval"), model.mesh, batch_size=train.micro_batch_size, limit=train.max_eval_sequences
        )
        self._prompts = train.prompts if model.mesh.topology.replica == 0 else []
        form = template_named(template)
        rendered = [form.render_prompt(prompt) for prompt in self._prompts]
        self._ids = encode_prompts(text.tokenizer, form, rendered, text.bos_token_id, text.eos_token_id)
        self._engine = Engine(model)
        self._prompt_tokens = train.prompt_tokens

    def eval_loss(self, when: str, step: int) -> float | None:
        """Mean over the held-out rows' counted tokens, nats; None where no rows are held out. All ranks take part."""
        if not self._evaluator.batches:
            return None
        with self._screen.stage(f"eval loss {when}", self._evaluator.batches) as stage:
            loss = self._evaluator(self._model, stage.advance)
        self._run.metrics({"eval/loss": loss}, step)
        return loss

    def answers(self, when: str) -> list[str]:
        """Greedy answers to `train.prompts`; from one replica, as the others have no use for them."""
        if not self._prompts:
            return []
        texts: list[str] = []
        with self._screen.stage(f"answers {when}", len(self._ids)) as stage:
            for ids in self._ids:
                result = answer(
                    self._engine,
                    self._text.tokenizer,
                    ids,
                    max_new_tokens=self._prompt_tokens,
                    sampling=Sampling(),
                    eos_token_id=self._text.eos_token_id,
                )
                texts.append(result.text)
                stage.advance(f"{result.tokens_per_s:.0f} tokens/s")
        pairs = zip(self._prompts, texts, strict=True)
        self._run.text("\n".join(f"## {prompt}\n\n{text}\n" for prompt, text in pairs), f"predictions/{when}.md")
        return texts


class Evaluator:
    """Measures the same sequences each time, each counted once over all ranks."""

    def __init__(self, sequences: SequenceDataset, mesh: Mesh, *, batch_size: int, limit: int | None) -> None:
        """
        Args:
            limit: only the first so many sequences; None: all.
        """
        self._sequences, self._mesh = sequences, mesh
        self._batch_size, self._limit = batch_size, limit

    @property
    def batches(self) -> int:
        """Batches that each data rank takes."""
        count = min(len(self._sequences), self._limit or len(self._sequences))
        return math.ceil(count / (self._batch_size * self._mesh.topology.data))

    def __call__(self, model: Llama, on_batch: Callable[[], None] = lambda: None) -> float:
        """Mean negative log-likelihood of the counted tokens, nats."""
        topology, loss, tokens = self._mesh.topology, 0.0, 0
        rank, ranks = topology.data_rank, topology.data
        for batch in eval_batches(self._sequences, self._batch_size, rank=rank, ranks=ranks, limit=self._limit):
            loss += model.loss_sum(model.inputs(batch.ids, batch.positions, batch.documents, batch.labels))
            tokens += batch.loss_tokens
            on_batch()
        own = loss if topology.tensor_rank == 0 else 0.0, tokens if topology.counts else 0
        loss, counted = self._mesh.sums(*own)
        return loss / counted
