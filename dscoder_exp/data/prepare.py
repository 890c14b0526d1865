"""Alpaca rows to MindRecord files: read, encode, split, pack, write, once for each set of options."""

import json
import shutil
from dataclasses import asdict, dataclass
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from dscoder_exp.data import mindrecord
from dscoder_exp.data.alpaca import Row, parse_rows, read_source
from dscoder_exp.data.directory import find, refuse_foreign
from dscoder_exp.data.encode import NOT_COUNTED, Documents, encode_rows, is_blank
from dscoder_exp.data.packing import assemble, pack
from dscoder_exp.data.report import DataReport, Prepared, write_report
from dscoder_exp.data.templates import Template, template_named
from dscoder_exp.schema.config import DataConfig
from dscoder_exp.schema.errors import refuse
from dscoder_exp.schema.making import making
from dscoder_exp.weights.tokenizer import Fingerprint, fingerprint

if TYPE_CHECKING:
    from tokenizers import Tokenizer

FORMAT = 2  # raise it when what is written changes: older caches are then left alone
POSITIONS_AT_A_TIME = 1 << 20  # written at once: bounds the memory


@dataclass(frozen=True)
class Recipe:
    """All that prepared data depends on, so that its hash names the data. Source and tokenizer stand in by hashes.

    around: the ids that the tokenizer itself puts around a text.
    """

    format: int
    source: str
    json_lines: bool
    tokenizer: Fingerprint
    around: list[int]
    template: Template
    loss: str
    packing: bool
    eval_fraction: float
    max_rows: int | None
    overlong: str
    seq_length: int
    max_document: int
    bos_token_id: int | None
    eos_token_id: int
    pad_token_id: int

    @property
    def fingerprint(self) -> str:
        return _hash(json.dumps(asdict(self), sort_keys=True).encode())


@dataclass(frozen=True)
class Plan:
    """Encoded documents, and which of them make up each sequence of each split."""

    documents: Documents
    train: list[list[int]]
    held_out: list[list[int]]


def prepare(
    data: DataConfig,
    *,
    seq_length: int,
    max_document: int,
    tokenizer: "Tokenizer",
    eos_token_id: int,
    bos_token_id: int | None,
    pad_token_id: int,
    cache_dir: Path,
) -> Prepared:
    """Prepare `data.source`, or find it prepared: train.mindrecord, eval.mindrecord if rows are held out, data.json.

    They lie in `data.output`, else in a folder of `cache_dir`/data named by the fingerprint of everything that they
    depend on. No seed is among that: which rows are held out depends on their text alone, so runs that differ in
    their seed, or in rows added to the source, are measured alike. The directory appears whole or not at all. Of
    several processes that want the same one, the first prepares it and the others wait.

    Args:
        seq_length: positions of a sequence.
        max_document: tokens a document may have (the model's max_position_embeddings); seq_length bounds it too.
        cache_dir: where prepared data is kept between runs.

    Raises:
        Refused: a source that is missing, malformed, empty, or has no row that can be kept; a `data.output` that holds
            something else; a directory that can't be written.
    """
    if data.source is None:
        raise refuse("data.source", "no data set is given", "data.source=FILE.json (alpaca rows, .json or .jsonl)")
    source, raw = read_source(data.source)
    recipe = Recipe(
        format=FORMAT,
        source=_hash(raw),
        json_lines=source.suffix == ".jsonl",
        tokenizer=fingerprint(tokenizer),
        around=tokenizer.encode("").ids,
        template=template_named(data.template),
        loss=data.loss,
        packing=data.packing,
        eval_fraction=data.eval_fraction,
        max_rows=data.max_rows,
        overlong=data.overlong,
        seq_length=seq_length,
        max_document=min(seq_length, max_document),
        bos_token_id=bos_token_id,
        eos_token_id=eos_token_id,
        pad_token_id=pad_token_id,
    )
    return _find_or_make(recipe, raw, source, data.output, cache_dir, tokenizer)


def _find_or_make(
    recipe: Recipe, raw: bytes, source: Path, output: str | None, cache_dir: Path, tokenizer: "Tokenizer"
) -> Prepared:
    fingerprint = recipe.fingerprint
    target = (Path(output) if output else cache_dir / "data" / fingerprint).expanduser().resolve()
    if report := find(target, fingerprint):
        return Prepared(target, report, reused=True)
    if output:
        refuse_foreign(target, fingerprint, asdict(recipe))
    rows = parse_rows(raw, source)[: recipe.max_rows]
    with making(target, "data.output" if output else "runtime.cache_dir") as partial:
        if report := find(target, fingerprint):  # another process was faster
            return Prepared(target, report, reused=True)
        plan = _plan(rows, recipe, tokenizer, source)
        _write_sequences(partial, plan, recipe)
        report = _report(plan, rows, recipe)
        write_report(partial, report, asdict(recipe))
        if target.exists():
            shutil.rmtree(target)  # empty, or this very data with a file missing or cut short
        partial.rename(target)
    return Prepared(target, report, reused=False)


def _plan(rows: list[Row], recipe: Recipe, tokenizer: "Tokenizer", source: Path) -> Plan:
    documents = encode_rows(
        rows,
        recipe.template,
        tokenizer,
        bos_token_id=recipe.bos_token_id,
        eos_token_id=recipe.eos_token_id,
        limit=recipe.max_document,
        overlong=recipe.overlong,
        loss=recipe.loss,
    )
    if not len(documents):
        blank = sum(map(is_blank, rows))
        why = f"of {len(rows)}, {blank} are blank and {len(rows) - blank} exceed {recipe.max_document} tokens"
        remedy = "raise seq_length (model.max_position_embeddings bounds a document too)"
        raise refuse("data.source", f"no row can be kept: {why} with their prompt: {source}", remedy)
    held_out = hold_out([rows[index] for index in documents.rows.tolist()], recipe.eval_fraction)
    train, evaluation = (_sequences(documents, np.flatnonzero(part), recipe) for part in (~held_out, held_out))
    return Plan(documents, train, evaluation)


def hold_out(rows: list[Row], fraction: float) -> NDArray[np.bool_]:
    """Which rows are for evaluation: those whose text's hash lies in the lowest `fraction`. bool [rows].

    Equal rows always fall together. Where rows differ at all, both splits get one at least (if `fraction` isn't 0).
    """
    texts = (json.dumps([row.instruction, row.input, row.output]).encode() for row in rows)
    hashes = np.array([int.from_bytes(blake2b(text, digest_size=8).digest()) for text in texts], np.uint64)
    if fraction == 0 or hashes.min() == hashes.max():
        return np.zeros(len(rows), np.bool_)
    chosen = hashes < np.uint64(fraction * 2**64)
    return (chosen | (hashes == hashes.min())) & (hashes != hashes.max())


def _sequences(documents: Documents, chosen: NDArray[np.int64], recipe: Recipe) -> list[list[int]]:
    """The chosen documents, in groups that make up a sequence each."""
    if recipe.packing:
        groups = [chosen[group].tolist() for group in pack(documents.lengths[chosen], recipe.seq_length)]
    else:
        groups = [[document] for document in chosen.tolist()]
    # Packing puts the longest documents first, and a source may be sorted too: the first few sequences, which is what
    # train.max_eval_sequences takes, should look like all of them.
    return [groups[index] for index in np.random.default_rng(0).permutation(len(groups))]


def _write_sequences(directory: Path, plan: Plan, recipe: Recipe) -> None:
    """Write each split's sequences; a split without any gets no file."""
    at_once = max(1, POSITIONS_AT_A_TIME // recipe.seq_length)
    for name, groups in (("train", plan.train), ("eval", plan.held_out)):
        if groups:
            parts = (groups[first : first + at_once] for first in range(0, len(groups), at_once))
            batches = (assemble(plan.documents, part, recipe.seq_length, recipe.pad_token_id) for part in parts)
            mindrecord.write(directory / f"{name}.mindrecord", batches, recipe.seq_length)


def _report(plan: Plan, rows: list[Row], recipe: Recipe) -> DataReport:
    documents = plan.documents
    held_out = np.zeros(len(documents), np.bool_)
    held_out[[document for group in plan.held_out for document in group]] = True
    of_eval = np.repeat(held_out, documents.lengths)  # per token
    counted = documents.labels != NOT_COUNTED
    positions = len(plan.train) * recipe.seq_length
    tokens, loss_tokens = int((~of_eval).sum()), int((counted & ~of_eval).sum())
    return DataReport(
        rows=len(rows),
        kept=len(documents),
        dropped=len(rows) - len(documents),
        blank=sum(map(is_blank, rows)),
        truncated=documents.truncated,
        duplicates=len(rows) - len(set(rows)),
        train_rows=int((~held_out).sum()),
        eval_rows=int(held_out.sum()),
        longest=int(documents.lengths.max()),
        seq_length=recipe.seq_length,
        pad_token_id=recipe.pad_token_id,
        sequences=len(plan.train),
        tokens=tokens,
        loss_tokens=loss_tokens,
        useful_fraction=tokens / positions,
        loss_fraction=loss_tokens / positions,
        eval_sequences=len(plan.held_out),
        eval_tokens=int(of_eval.sum()),
        eval_loss_tokens=int((counted & of_eval).sum()),
        fingerprint=recipe.fingerprint,
    )


def _hash(content: bytes) -> str:
    """32 hex digits: an MLflow dataset digest takes up to 36 characters."""
    return blake2b(content, digest_size=16).hexdigest()
