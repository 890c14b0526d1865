"""A text encoded in overlapping windows has the ids of the whole text."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from data_support import EOS, SCRATCH, format_named
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from dscoder_exp.data import encode_text, text_files
from dscoder_exp.data.documents import DocumentBuilder, Documents
from dscoder_exp.data.encode_text import TextSplitter, add_texts
from dscoder_exp.data.rows import Text
from dscoder_exp.data.text_files import TextFile, scan_text

CORPUS = sorted(file for file in Path(encode_text.__file__).parent.glob("*.py") if file.stat().st_size > 1000)


def sentencepiece_like() -> Tokenizer:
    """Spaces become ▁, one is prepended, and there is no pre-tokenizer, as in Llama 2's."""
    built = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    built.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    built.decoder = decoders.Metaspace()
    return built


def wordpiece_like() -> Tokenizer:
    built = Tokenizer(models.WordPiece(unk_token="<unk>"))
    built.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return built


def byte_level() -> Tokenizer:
    built = Tokenizer(models.BPE())
    built.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return built


@pytest.fixture(scope="module", params=[byte_level, sentencepiece_like, wordpiece_like])
def any_tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    """Trained on this project's code."""
    built = request.param()
    kind = trainers.WordPieceTrainer if isinstance(built.model, models.WordPiece) else trainers.BpeTrainer
    lines = [line for file in CORPUS for line in file.read_text().splitlines()]
    built.train_from_iterator(lines, kind(vocab_size=600, special_tokens=["<unk>", "<end>"], show_progress=False))
    return adding_bos(built)


def adding_bos(tokenizer: Tokenizer) -> Tokenizer:
    """A copy that puts token 7 before each text."""
    copy = Tokenizer.from_str(tokenizer.to_str())
    text = copy.id_to_token(7)
    copy.post_processor = processors.TemplateProcessing(f"{text}:0 $A:0", None, [(text, 7)])  # type: ignore[assignment]
    return copy


@pytest.fixture(autouse=True)
def small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encode_text, "OVERLAP", 64)
    monkeypatch.setattr(encode_text, "BATCH_CHARACTERS", 1000)
    monkeypatch.setattr(text_files, "CHUNK_BYTES", 300)


def documents_of(rows: list[Text | TextFile], tokenizer: Tokenizer, limit: int = 10**9) -> Documents:
    builder = DocumentBuilder(SCRATCH)
    prompt_format = format_named("none", tokenizer, bos=7)
    add_texts(builder, list(enumerate(rows)), prompt_format, limit=limit)
    return builder.documents()


def test_windows_have_the_ids_of_the_whole(any_tokenizer: Tokenizer) -> None:
    rows: list[Text | TextFile] = [scan_text(file) for file in CORPUS]
    assert len(rows) > 10
    found = documents_of(rows, any_tokenizer)
    for index, file in enumerate(CORPUS):
        (document,) = np.flatnonzero(found.rows == index)
        ids = found.ids[found.starts[document] :][: found.lengths[document]]
        text = any_tokenizer.encode(file.read_text(), add_special_tokens=False)
        assert ids.tolist() == [7, *text.ids, EOS], file.name


LETTERS = st.text(alphabet="ab \n\té你😀(.", max_size=2000)


@given(text=LETTERS)
def test_any_text_in_chunks_has_the_ids_of_the_whole(text: str, tokenizer: Tokenizer) -> None:
    chunks = (text[first : first + 300] for first in range(0, len(text), 300))

    class InChunks(TextFile):
        def text(self) -> Iterator[str]:
            yield from chunks

    found = documents_of([InChunks(Path(), "", blank=False)], adding_bos(tokenizer))
    assert found.ids.tolist() == [7, *tokenizer.encode(text, add_special_tokens=False).ids, EOS]


@given(sizes=st.lists(st.integers(0, 9), max_size=12), limit=st.integers(2, 70))
def test_each_token_of_a_text_is_a_target_once(sizes: list[int], limit: int) -> None:
    """However the ids are divided over calls of `add`."""
    builder, ids = DocumentBuilder(SCRATCH), np.arange(sum(sizes), dtype=np.int32)
    splitter = TextSplitter(builder, [99], limit)
    for some in np.split(ids, np.cumsum(sizes)):
        splitter.add(0, some)
    splitter.end(0, eos_token_id=98)
    documents = builder.documents()
    cut = [part.tolist() for part in np.split(documents.ids, np.cumsum(documents.lengths)[:-1])]
    assert [part[0] for part in cut] == [99, *(part[-1] for part in cut[:-1])]
    assert [token for part in cut for token in part[1:]] == [*ids.tolist(), 98]
    assert all(len(part) == limit for part in cut[:-1])
    assert len(cut[-1]) >= 2
    assert builder.split == (len(cut) > 1)
    assert documents.loss_tokens.sum() == len(ids) + 1
