"""Preparing a data set: read, encode, split, pack, and write MindRecord files; or find them already written."""

import shutil
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from dscoder_exp.data import mindrecord
from dscoder_exp.data.cache import FORMAT, CacheKey, find_prepared, refuse_occupied
from dscoder_exp.data.documents import Documents
from dscoder_exp.data.encode import UnfitRow, encode_rows
from dscoder_exp.data.packing import assemble, pack
from dscoder_exp.data.report import Prepared, write_report
from dscoder_exp.data.rows import AnyRow, is_blank
from dscoder_exp.data.source import Rows, Source, read_source
from dscoder_exp.data.split import document_hashes, hold_out
from dscoder_exp.data.statistics import SequencePlan, statistics_of
from dscoder_exp.data.templates import PLAIN, PromptFormat, template_named
from dscoder_exp.schema.config import DataConfig
from dscoder_exp.schema.errors import refuse
from dscoder_exp.storage.atomic_directory import atomic_directory
from dscoder_exp.weights.tokenizer import fingerprint

if TYPE_CHECKING:
    from tokenizers import Tokenizer

BATCH_POSITIONS = 1 << 20  # assembled and written at once; bounds the memory


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
    """Write train.mindrecord, eval.mindrecord (if rows are held out) and data.json, unless they are there already.

    The files are in `data.output`, or else in `cache_dir`/data, in a directory named by the fingerprint of everything
    they depend on. The seed isn't part of it: which rows are held out depends on their text alone, so runs with another
    seed, or with rows added to the source, have comparable eval losses. The directory appears complete or not at all.
    If several processes need the same directory, the first prepares it and the others wait.

    Args:
        seq_length: positions of a sequence.
        max_document: the most tokens of a document (the model's max_position_embeddings); seq_length bounds it too.
        cache_dir: where prepared data is kept between runs.

    Raises:
        Refused: the source is missing, malformed, empty, or has no row that can be kept; `data.output` holds something
            else; the directory can't be written.
    """
    if data.source is None:
        raise refuse(
            "data.source", "no data set is given", "data.source=FILE.json (or .jsonl, .txt, a directory of texts)"
        )
    source = read_source(data.source)
    template = PLAIN if source.is_text else template_named(data.template)
    cache_key = CacheKey(
        format=FORMAT,
        source=source.digest(),
        form=source.form,
        tokenizer=fingerprint(tokenizer),
        around=tokenizer.encode("").ids,
        template=template.identity,
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
    return _find_or_make(cache_key, source, template, tokenizer, data.output, cache_dir)


def _find_or_make(
    cache_key: CacheKey,
    source: Source,
    template: PromptFormat,
    tokenizer: "Tokenizer",
    output: str | None,
    cache_dir: Path,
) -> Prepared:
    fingerprint = cache_key.fingerprint
    target = (Path(output) if output else cache_dir / "data" / fingerprint).expanduser().resolve()
    if report := find_prepared(target, fingerprint):
        return Prepared(target, report, reused=True)
    if output:
        refuse_occupied(target, fingerprint, asdict(cache_key))
    found = source.rows()
    rows = Rows(found.kind, found.rows[: cache_key.max_rows])
    with atomic_directory(target, "data.output" if output else "runtime.cache_dir") as partial:
        if report := find_prepared(target, fingerprint):  # another process made it while this one waited
            return Prepared(target, report, reused=True)
        plan = _plan(rows.rows, cache_key, source, template, tokenizer, scratch=partial.parent)
        _write_sequences(partial, plan, cache_key)
        report = statistics_of(rows, plan, cache_key, source.skipped, tokenizer)
        write_report(partial, report, asdict(cache_key))
        if target.exists():
            shutil.rmtree(target)  # an empty directory, or this data with a file missing or cut short
        partial.rename(target)
    return Prepared(target, report, reused=False)


def _plan(
    rows: list[AnyRow],
    cache_key: CacheKey,
    source: Source,
    template: PromptFormat,
    tokenizer: "Tokenizer",
    *,
    scratch: Path,
) -> SequencePlan:
    """Encode the rows, choose the held-out ones, and pack each split.

    Args:
        scratch: directory for temporary files, 8 bytes a token.
    """
    try:
        documents = encode_rows(
            rows,
            template,
            tokenizer,
            bos_token_id=cache_key.bos_token_id,
            eos_token_id=cache_key.eos_token_id,
            limit=cache_key.max_document,
            overlong=cache_key.overlong,
            loss=cache_key.loss,
            scratch=scratch,
        )
    except UnfitRow as error:
        where, remedy = source.where(error.index), "correct the row, or choose another data.template"
        raise refuse(where, f"data.template={cache_key.template.rpartition(' ')[0]}: {error}", remedy) from None
    if not len(documents):
        blank = sum(map(is_blank, rows))
        too_long = f"{len(rows) - blank} exceed {cache_key.max_document} tokens with their prompt"
        why = f"no row can be kept: of {len(rows)} rows, {blank} are blank and {too_long}: {source.path}"
        remedy = "raise seq_length (model.max_position_embeddings bounds a document too)"
        remedy = "give rows with a request and an answer" if blank == len(rows) else remedy
        raise refuse("data.source", why, remedy)
    held_out = hold_out(document_hashes(rows, documents.rows), cache_key.eval_fraction)
    train, evaluation = (_sequences(documents, np.flatnonzero(part), cache_key) for part in (~held_out, held_out))
    return SequencePlan(documents, train, evaluation)


def _sequences(documents: Documents, chosen: NDArray[np.int64], cache_key: CacheKey) -> list[list[int]]:
    """Group the chosen documents into sequences: the document indices of each, in shuffled order."""
    if cache_key.packing:
        groups = [chosen[group].tolist() for group in pack(documents.lengths[chosen], cache_key.seq_length)]
    else:
        groups = [[document] for document in chosen.tolist()]
    # Packing puts the longest documents first, and the source may be sorted too: train.max_eval_sequences takes the
    # first sequences, and these should be a fair sample of all.
    return [groups[index] for index in np.random.default_rng(0).permutation(len(groups))]


def _write_sequences(directory: Path, plan: SequencePlan, cache_key: CacheKey) -> None:
    """Write each split's sequences to its file; an empty split gets no file."""
    at_once = max(1, BATCH_POSITIONS // cache_key.seq_length)
    for name, groups in (("train", plan.train), ("eval", plan.held_out)):
        if groups:
            parts = (groups[first : first + at_once] for first in range(0, len(groups), at_once))
            batches = (assemble(plan.documents, part, cache_key.seq_length, cache_key.pad_token_id) for part in parts)
            mindrecord.write(directory / f"{name}.mindrecord", batches, cache_key.seq_length)
