"""Trains small models in any layout: a script that msrun runs on each rank, and a function for a single rank.

python ranks.py OUTPUT CASE [CASE ...], each case as `Case.parse` takes it; rank 0 writes OUTPUT/CASE.npz.
"""

import gc
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from dscoder_exp.data.batch import IGNORE_INDEX, PADDING, Batch
from dscoder_exp.parallel.topology import Topology
from dscoder_exp.schema.config import MODULES, OptimConfig
from dscoder_exp.schema.llama import Lora
from dscoder_exp.weights.lora.adapter import Factors
from dscoder_exp.weights.random_init import random_factors
from dscoder_exp.weights.source import open_weights

REFERENCE = Path(__file__).parents[1] / "reference"
STEPS, SEQUENCES, LENGTH = 10, 4, 48
LR = {"all": 2e-4, "half": 2e-4, "lora": 4e-3, "dropout": 4e-3}
OPTIM = OptimConfig(
    lr=1e-3,  # unused: steps take their rate from LR
    betas=[0.9, 0.95],
    eps=1e-8,
    weight_decay=0.1,
    decay_norms=False,
    clip_norm=1.0,  # below the norms of the first steps
    schedule="constant",
    warmup_ratio=0.0,
    warmup_steps=None,
    decay_ratio=0.2,
    min_lr_ratio=0.1,
)


@dataclass(frozen=True)
class Case:
    """A model, which of its weights are trained, and a layout."""

    model: str  # a folder of tests/reference
    trains: str  # all, half (all, in fp16), lora, dropout (LoRA with dropout); or one of these, ending in _bf16
    recompute: str
    data: int
    tensor: int
    context: int
    sequence: bool

    @classmethod
    def parse(cls, text: str) -> "Case":
        """From a text such as tiny_gqa-lora-none-d2-t1-c1, which ends in -rows with parallel.sequence."""
        model, trains, recompute, *sizes = text.split("-")
        data, tensor, context = (int(size[1:]) for size in sizes[:3])
        return cls(model, trains, recompute, data, tensor, context, sizes[3:] == ["rows"])

    @property
    def precision(self) -> str:
        return "bf16" if self.trains.endswith("_bf16") else "fp16" if self.trains == "half" else "fp32"

    @property
    def lr(self) -> float:
        return LR[self.trains.removesuffix("_bf16")]

    @property
    def alone(self) -> "Case":
        return replace(self, data=1, tensor=1, context=1, sequence=False, recompute="none")


def batch_of(number: int) -> Batch:
    """Micro batch `number`: packed documents, padding, and a sequence with few counted labels."""
    rng = np.random.default_rng(number)
    ids = rng.integers(3, 96, (SEQUENCES, LENGTH)).astype(np.int32)
    documents = np.zeros_like(ids)
    documents[:, rng.integers(8, 24) :] = 1
    documents[:, rng.integers(26, 40) :] = 2
    documents[1, 42:] = PADDING
    first = np.maximum.accumulate(np.where(np.diff(documents, prepend=-2) != 0, np.arange(LENGTH), 0), 1)
    positions = np.where(documents == PADDING, 0, np.arange(LENGTH) - first).astype(np.int32)
    labels = np.where(rng.random(ids.shape) < 0.6, np.roll(ids, -1, 1), IGNORE_INDEX).astype(np.int32)
    labels[documents == PADDING] = IGNORE_INDEX
    labels[2, 3:] = IGNORE_INDEX
    return Batch(ids, labels, positions, documents)


def rows_of(batch: Batch, rank: int, ranks: int) -> Batch:
    rows = slice(rank * SEQUENCES // ranks, (rank + 1) * SEQUENCES // ranks)
    return Batch(batch.ids[rows], batch.labels[rows], batch.positions[rows], batch.documents[rows])


def factors_of(case: Case, config) -> Factors | None:
    if case.trains.startswith(("all", "half")):
        return None
    lora = Lora(4, 8.0, 0.25 if case.trains.startswith("dropout") else 0.0, MODULES)
    rng = np.random.default_rng(5)
    arrays = dict(random_factors(config, lora, 3))
    return Factors(
        lora, {n: a if a.any() else rng.standard_normal(a.shape, np.float32) * 0.02 for n, a in arrays.items()}
    )


def train(case: Case, rank: int = 0) -> dict[str, np.ndarray]:
    """Results of a training run by name: metrics of its steps, trained weights, logits, and sizes on this rank."""
    from dscoder_exp.model.build import build
    from dscoder_exp.parallel.collectives import Mesh
    from dscoder_exp.training.step import Step

    topology = Topology(rank, case.data, case.tensor, case.context, case.sequence)
    mesh, source = Mesh(topology, "cpu"), open_weights(str(REFERENCE / case.model))
    factors = factors_of(case, source.config)
    model = build(source.config, source, seed=0, device="cpu", precision=case.precision, factors=factors, mesh=mesh)
    step, results = Step(model, OPTIM, recompute=case.recompute, seed=1), []
    for number in range(STEPS):
        micro = [batch_of((2 * number + i) % 4) for i in range(2)]
        if case.trains == "half":  # the same micro batches on one rank and on two: each product is rounded to fp16
            micro = [rows_of(batch, i, 2) for batch in micro for i in range(2)][topology.data_rank :: topology.data]
        else:
            micro = [rows_of(batch, topology.data_rank, topology.data) for batch in micro]
        results.append(step(micro, case.lr))
    batch = batch_of(1000)
    inputs = model.inputs(batch.ids, batch.positions, batch.documents, batch.labels)
    loss = model.loss_sum(inputs)
    moments = sum(array.size for pair in step.adamw.moments() for array in pair)
    state = sorted(model.masters.state() if case.trains == "half" else model.whole_state(), key=lambda item: item[0])
    computes_with = [*model.groups[0], *model.groups[-1], *(t for i in range(model.num_blocks) for t in model.block(i))]
    logits = model.compiled.logits(model.hidden(inputs), model.norm, model.head) if case.context == 1 else None
    return {
        "loss": np.array([result.loss for result in results]),
        "grad_norm": np.array([result.grad_norm for result in results]),
        "counts": np.array([[r.tokens, r.useful_tokens, r.loss_tokens] for r in results]),
        "eval": np.array(mesh.sums(loss / case.data if topology.tensor_rank == 0 else 0.0)),
        "moments": np.array(moments),
        "table": np.array(model.head.shape),
        **({} if logits is None else {"logits": logits.asnumpy()}),
        "computes_with": np.concatenate([tensor.float().asnumpy().reshape(-1) for tensor in computes_with]),
        "held": np.array(sum(tensor.nbytes for group in model.groups for tensor in group)),
        **{f"weight {name}": array.copy() for name, array in state},
    }


def main(output: str, *cases: str) -> None:
    from mindspore.communication import get_rank, init

    from dscoder_exp.device.start import start_device

    gc.disable()  # each rank has to compile all functions, and would search MindSpore's modules again and again
    start_device("cpu")
    init()
    for text in cases:
        found = train(Case.parse(text), get_rank())
        np.savez(Path(output) / f"{text}.{get_rank()}.npz", **found)
        print(text, "done", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
