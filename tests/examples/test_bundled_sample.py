"""The sample and the tokenizer that come with the package: what they promise, and that they belong together."""

import ast
import importlib.util
import json
import re
from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from omegaconf import OmegaConf
from tokenizers import Tokenizer

from dscoder_exp.data.rows import exchange
from dscoder_exp.data.source import read_source
from dscoder_exp.hub.locate import locate

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
SAMPLE = EXAMPLES / "code_instructions.json"
TOKENIZER = EXAMPLES / "tiny_tokenizer.json"
FIELDS = ("instruction", "input", "output")
BESIDE_PYTHON = ("bash", "c", "cpp", "css", "dockerfile", "go", "html", "java", "javascript", "makefile", "rust", "sql")
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def rows() -> list[dict[str, str]]:
    return json.loads(SAMPLE.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def blocks(rows: list[dict[str, str]]) -> list[tuple[str, str]]:
    """Language (may be empty) and content of every fenced block of the answers."""
    return [(block[1], block[2]) for row in rows for block in BLOCK.finditer(row["output"])]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(TOKENIZER))


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("train_tokenizer", EXAMPLES / "train_tokenizer.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_rows_are_whole(rows: list[dict[str, str]]) -> None:
    assert len(rows) >= 300
    for row in rows:
        assert tuple(row) == FIELDS
        assert all(isinstance(row[field], str) for field in FIELDS)
        assert row["instruction"].strip(), row
        assert row["output"].strip(), row
        assert all(row[field] == row[field].strip("\n") for field in FIELDS), row


def test_a_third_has_an_input(rows: list[dict[str, str]]) -> None:
    assert sum(bool(row["input"].strip()) for row in rows) >= len(rows) / 3


def test_no_row_occurs_twice(rows: list[dict[str, str]]) -> None:
    requests = Counter(" ".join(f"{row['instruction']} {row['input']}".casefold().split()) for row in rows)
    assert [text for text, count in requests.items() if count > 1] == []
    answers = Counter(" ".join(row["output"].split()) for row in rows)
    assert [text for text, count in answers.items() if count > 1] == []


def test_instructions_vary(rows: list[dict[str, str]]) -> None:
    openings = Counter(" ".join(row["instruction"].casefold().split()[:3]) for row in rows)
    opening, count = openings.most_common(1)[0]
    assert count <= 0.05 * len(rows), f"{count} instructions begin with {opening!r}"
    assert len(openings) >= 0.7 * len(rows)


def test_answers_vary_in_language_and_length(rows: list[dict[str, str]], blocks: list[tuple[str, str]]) -> None:
    languages = Counter(language for language, _ in blocks)
    assert languages["python"] >= 150
    for language in BESIDE_PYTHON:
        assert languages[language] >= 3, language
    lengths = sorted(len(row["output"]) for row in rows)
    assert lengths[-1] <= 1500  # characters; the longest documents still fit short sequences
    assert lengths[len(lengths) // 10] * 2 < lengths[-len(lengths) // 10]


def test_fences_are_closed(rows: list[dict[str, str]]) -> None:
    for row in rows:
        fences = sum(line.startswith("```") for line in row["output"].split("\n"))
        assert fences == 2 * len(BLOCK.findall(row["output"])), row["output"]


def test_python_parses(blocks: list[tuple[str, str]]) -> None:
    for language, code in blocks:
        if language == "python":
            try:
                ast.parse(code)
            except SyntaxError as error:
                pytest.fail(f"{error}:\n{code}")


def test_json_parses(blocks: list[tuple[str, str]]) -> None:
    contents = [code for language, code in blocks if language == "json"]
    assert contents
    assert all(json.loads(code) for code in contents)


def test_config_names_these_files(rows: list[dict[str, str]]) -> None:
    source = OmegaConf.load(ROOT / "conf/data/sample.yaml").source
    assert read_source(source).rows().rows == [exchange(*(row[field] for field in FIELDS)) for row in rows]
    path = OmegaConf.load(ROOT / "conf/tokenizer/tiny.yaml").path
    assert locate(path, "tokenizer.path").read_bytes() == TOKENIZER.read_bytes()


def test_tokenizer_agrees_with_the_tiny_model(tokenizer: Tokenizer) -> None:
    model = OmegaConf.load(ROOT / "conf/model/tiny.yaml")
    assert tokenizer.get_vocab_size(with_added_tokens=True) == model.vocab_size == 1024
    assert sorted(tokenizer.get_vocab().values()) == list(range(1024))
    specials = [model.bos_token_id, model.eos_token_id, model.pad_token_id]
    assert specials == [0, 1, 2]
    assert [tokenizer.id_to_token(i) for i in specials] == ["<|begin|>", "<|end|>", "<|pad|>"]
    assert [i for i, token in tokenizer.get_added_tokens_decoder().items() if token.special] == specials


def test_tokenizer_adds_nothing_of_its_own(tokenizer: Tokenizer) -> None:
    assert tokenizer.post_processor is None
    assert tokenizer.encode("a").ids == tokenizer.encode("a", add_special_tokens=False).ids
    assert tokenizer.encode("").ids == []


def test_special_tokens_are_read_and_left_out(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("<|begin|>x = 1<|end|><|pad|>").ids
    assert (ids[0], ids[-2], ids[-1]) == (0, 1, 2)
    assert tokenizer.decode(ids) == "x = 1"


def test_the_sample_round_trips_and_gets_shorter(tokenizer: Tokenizer, rows: list[dict[str, str]]) -> None:
    texts = [row[field] for row in rows for field in FIELDS]
    encodings = tokenizer.encode_batch(texts)
    assert [tokenizer.decode(encoding.ids) for encoding in encodings] == texts
    tokens = sum(len(encoding.ids) for encoding in encodings)
    assert sum(len(text.encode()) for text in texts) > 2 * tokens


@given(st.text())
@example("naïve Ωmega 漢字 🚀\r\n\t\0")
@example("  leading, trailing  ")
@example("<|end|>")
def test_any_text_round_trips(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text).ids, skip_special_tokens=False) == text


@given(st.integers(min_value=0))
def test_digits_stand_alone(tokenizer: Tokenizer, number: int) -> None:
    tokens = tokenizer.encode(f"x = {number}\n").tokens
    assert [token for token in tokens if any(char.isdigit() for char in token)] == list(str(number))


def test_tokenizer_is_what_the_script_makes(script: ModuleType, tmp_path: Path) -> None:
    made = tmp_path / "tokenizer.json"
    script.write(script.train(), made)
    assert [path.name for path in tmp_path.iterdir()] == ["tokenizer.json"]
    assert made.read_bytes() == TOKENIZER.read_bytes(), "run examples/train_tokenizer.py"
