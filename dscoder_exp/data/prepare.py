"""Preparing a data set: read, encode, split, pack, and write MindRecord files; or find them already written."""

import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from dscoder_exp.data import mindrecord
from dscoder_exp.data.cache import FORMAT, CacheKey, find_prepared, refuse_occupied
from dscoder_exp.data.documents import Documents
from dscoder_exp.data.encode import UnfitRows, encode_rows
from dscoder_exp.data.json_rows import Fault
from dscoder_exp.data.packing import assemble, pack
from dscoder_exp.data.prompt_format import PromptFormat, choose_format
from dscoder_exp.data.report import Prepared, write_report
from dscoder_exp.data.rows import is_blank
from dscoder_exp.data.source import Rows, Source, read_source
from dscoder_exp.data.split import document_hashes, hold_out
from dscoder_exp.data.statistics import SequencePlan, statistics_of
from dscoder_exp.schema.config import DataConfig
from dscoder_exp.schema.errors import Problem, Refused, refuse
from dscoder_exp.storage.atomic_directory import atomic_directory
from dscoder_exp.storage.disk_space import disk_full, is_full, naming_full_disk
from dscoder_exp.weights.tokenizer import fingerprint

if TYPE_CHECKING:
    from dscoder_exp.weights.resolve import TextSetup

BATCH_POSITIONS = 1 << 20  # assembled and written at once; bounds the memory


def prepare(data: DataConfig, text: "TextSetup", *, seq_length: int, cache_dir: Path) -> Prepared:
    """Write train.mindrecord, eval.mindrecord (if rows are held out) and data.json, unless they are there already.

    The files are in `data.output`, or else in `cache_dir`/data, in a directory named by the fingerprint of everything
    they depend on. The seed isn't part of it: which rows are held out depends on their text alone, so runs with another
    seed, or with rows added to the source, have comparable eval losses. The directory appears complete or not at all.
    If several processes need the same directory, the first prepares it and the others wait.

    Args:
        text: the model's tokenizer, special tokens and context, which bounds a document as seq_length does.
        seq_length: positions of a sequence.
        cache_dir: where prepared data is kept between runs.

    Raises:
        Refused: the source is missing, malformed, empty, or has no row that can be kept; the prompt format can't be
            used; `data.output` holds something else; the directory can't be written.
        DiskFull: nothing is left of it.
    """
    source = read_source(data.source)
    prompt_format = data_format(text, data, of_text=source.is_text)
    cache_key = CacheKey(
        format=FORMAT,
        source=source.digest(),
        form=source.form,
        columns=dict(data.columns or {}),
        bad_rows=data.bad_rows,
        tokenizer=fingerprint(text.tokenizer),
        template=prompt_format.identity,
        special_tokens=dict(text.special_tokens),
        allow_special_tokens=data.special_tokens == "allow",
        loss=data.loss,
        packing=data.packing,
        eval_fraction=data.eval_fraction,
        max_rows=data.max_rows,
        overlong=data.overlong,
        seq_length=seq_length,
        max_document=min(seq_length, text.context or seq_length),
        bos_token_id=text.bos_token_id,
        eos_token_id=text.eos_token_id,
        pad_token_id=text.pad_token_id,
    )
    return _find_or_make(cache_key, source, prompt_format, data.output, cache_dir)


def data_format(text: "TextSetup", data: DataConfig, *, of_text: bool = False) -> PromptFormat:
    """The prompt format of data.template, else the model's own.

    Args:
        of_text: a text has no prompt, so no format either.

    Raises:
        Refused: it can't be used.
    """
    choice = "none" if of_text else data.template
    return choose_format(text, choice, "data.template", allow_special_tokens=data.special_tokens == "allow")


def _find_or_make(
    cache_key: CacheKey, source: Source, prompt_format: PromptFormat, output: str | None, cache_dir: Path
) -> Prepared:
    fingerprint = cache_key.fingerprint
    target = (Path(output) if output else cache_dir / "data" / fingerprint).expanduser().resolve()
    if report := find_prepared(target, fingerprint):
        return Prepared(target, report, reused=True)
    if output:
        refuse_occupied(target, fingerprint, asdict(cache_key))
    rows = source.rows(cache_key.columns, drop_bad=cache_key.bad_rows == "drop", limit=cache_key.max_rows)
    key = "data.output" if output else "runtime.cache_dir"
    with atomic_directory(target, key) as partial, naming_full_disk(target, key):
        if report := find_prepared(target, fingerprint):  # another process made it while this one waited
            return Prepared(target, report, reused=True)
        if output:
            refuse_occupied(target, fingerprint, asdict(cache_key))  # or made something else
        with mindrecord.imported_in_background():
            plan = _plan(rows, cache_key, source, prompt_format, scratch=partial.parent)
        _write_sequences(partial, plan, cache_key)
        if is_full(partial):  # MindRecord reports no failed write: the file may have holes
            raise disk_full(target, key)
        report = statistics_of(rows, plan, cache_key, source, prompt_format)
        write_report(partial, report, asdict(cache_key))
        if target.exists():
            shutil.rmtree(target)  # an empty directory, or this data with a file missing or cut short
        partial.rename(target)
    return Prepared(target, report, reused=False)


def _plan(
    rows: Rows, cache_key: CacheKey, source: Source, prompt_format: PromptFormat, *, scratch: Path
) -> SequencePlan:
    """Encode the rows, choose the held-out ones, and pack each split.

    Args:
        scratch: directory for temporary files, 8 bytes a token.
    """
    unfit: dict[int, str] = {}
    try:
        documents = encode_rows(
            rows.rows,
            prompt_format,
            limit=cache_key.max_document,
            overlong=cache_key.overlong,
            loss=cache_key.loss,
            scratch=scratch,
            unfit=unfit if cache_key.bad_rows == "drop" else None,
        )
    except UnfitRows as error:
        raise _refusal(error.why, rows, source, prompt_format) from None
    if not len(documents) and len(unfit) == len(rows.rows):
        raise _refusal(unfit, rows, source, prompt_format)
    if not len(documents):
        blank = sum(map(is_blank, rows.rows))
        too_long = f"{len(rows.rows) - blank - len(unfit)} exceed {cache_key.max_document} tokens with their prompt"
        why = f"no row can be kept: of {len(rows.rows)} rows, {blank} are blank and {too_long}: {source.path}"
        remedy = "raise seq_length (model.max_position_embeddings bounds a document too)"
        remedy = "give rows with a request and an answer" if blank == len(rows.rows) else remedy
        raise refuse("data.source", why, remedy)
    held_out = hold_out(document_hashes(rows.rows, documents.rows), cache_key.eval_fraction)
    train, evaluation = (_sequences(documents, np.flatnonzero(part), cache_key) for part in (~held_out, held_out))
    return SequencePlan(documents, unfit, train, evaluation)


def _refusal(unfit: Mapping[int, str], rows: Rows, source: Source, prompt_format: PromptFormat) -> Refused:
    """Of rows that the prompt format can't render: the first ones are named."""
    faults = {rows.entry(index): Fault(why) for index, why in unfit.items()}
    problems = source.problems(faults)
    origin = "" if Path(prompt_format.origin).name == prompt_format.name else f" of {prompt_format.origin}"
    what = f"{problems[-1].what} ({prompt_format.name}{origin})"
    remedy = "correct the rows, leave such rows out (data.bad_rows=drop), or choose another data.template"
    return Refused([*problems[:-1], Problem(problems[-1].where, what, remedy)])


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
