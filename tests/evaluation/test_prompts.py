"""How a model is asked: which form, in which words, with which examples."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from evaluation_support import HUMANEVAL, MBPP, write_rows
from tokenizers import Tokenizer

from dscoder_exp.evaluation.extraction import stop_strings
from dscoder_exp.evaluation.prompts import Prompts, make_prompts
from dscoder_exp.evaluation.suites import Suite, read_suite
from dscoder_exp.schema.errors import Refused
from dscoder_exp.weights.chat_template import ModelTemplate
from dscoder_exp.weights.resolve import TextSetup

TINY = Path(__file__).parents[2] / "examples" / "tiny_tokenizer.json"
CHATML = ModelTemplate("chatml", None, "chat_template.jinja")
KEYED = ModelTemplate("chatml", None, "model.template")


def text_setup(template: ModelTemplate | None) -> TextSetup:
    tokenizer = Tokenizer.from_file(str(TINY))
    special = {"bos_token": str(tokenizer.id_to_token(0)), "eos_token": str(tokenizer.id_to_token(1))}
    return TextSetup(tokenizer, special, 0, 1, 2, 4096, template, stop_token_ids=(1,))


def asked(suite: Suite, template: ModelTemplate | None, context: int = 4096, **changes: Any) -> Prompts:
    evaluate: Any = SimpleNamespace(**{"prompt": "auto", "instruction": None, **changes})
    return make_prompts(evaluate, suite, text_setup(template), context)


def shown(prompts: Prompts) -> list[str]:
    return [prompts.prompt_format.decode(ids) for ids in prompts.ids]


@pytest.fixture
def humaneval(tmp_path: Path) -> Suite:
    return read_suite("humaneval", write_rows(tmp_path / "h.jsonl", HUMANEVAL))


@pytest.fixture
def mbpp(tmp_path: Path) -> Suite:
    return read_suite("mbpp", write_rows(tmp_path / "m.jsonl", MBPP))


def test_a_base_model_goes_on_with_the_prompt_itself(humaneval: Suite) -> None:
    prompts = asked(humaneval, None)
    assert prompts.form == "completion"
    assert shown(prompts) == [row["prompt"] for row in HUMANEVAL]


def test_an_instruct_model_is_asked_through_its_template(humaneval: Suite) -> None:
    """The chat template left out for an instruct model is a known way to a wrong score."""
    prompts = asked(humaneval, CHATML)
    assert prompts.form == "instruct"
    for text, row in zip(shown(prompts), HUMANEVAL, strict=True):
        assert "<|im_start|>user\n" in text
        assert text.endswith("<|im_end|>\n<|im_start|>assistant\n")
        assert f"```python\n{row['prompt'].rstrip()}\n```" in text
    assert not stop_strings("humaneval", "instruct")


def test_a_format_that_only_the_configuration_names_is_told(humaneval: Suite) -> None:
    prompts = asked(humaneval, KEYED)
    assert (prompts.form, prompts.unused) == ("completion", "chatml")
    prompts = asked(humaneval, KEYED, prompt="instruct")
    assert (prompts.form, prompts.unused) == ("instruct", "")
    assert "<|im_start|>user\n" in shown(prompts)[0]


def test_the_form_can_be_chosen(humaneval: Suite) -> None:
    assert shown(asked(humaneval, CHATML, prompt="completion")) == [row["prompt"] for row in HUMANEVAL]
    with pytest.raises(Refused, match=r"evaluate\.prompt: instruct, but the model brings no prompt format"):
        asked(humaneval, None, prompt="instruct")


def test_words_of_one_s_own(humaneval: Suite, mbpp: Suite) -> None:
    text = "Do {this}:\n{prompt}!"
    prompts = asked(humaneval, CHATML, instruction=text)
    assert prompts.texts[2] == f"Do {{this}}:\n{HUMANEVAL[2]['prompt'].rstrip()}!"
    prompts = asked(mbpp, CHATML, instruction="{prompt} {tests}")
    assert prompts.texts[0] == f"{MBPP[4]['text']} {MBPP[4]['test_list'][0]}\n{MBPP[4]['test_list'][1]}"


def test_mbpp_shows_three_solved_examples(mbpp: Suite) -> None:
    for template in (None, CHATML):
        prompts = asked(mbpp, template)
        assert len(prompts.texts) == 2
        for text, row in zip(prompts.texts, (MBPP[4], MBPP[5]), strict=True):
            places = [text.index(example["text"]) for example in (MBPP[1], MBPP[2], MBPP[3], row)]
            assert places == sorted(places)
            assert "def add_2(x):\n    return x + 2" in text
            assert all(test in text for test in row["test_list"])
            assert row["code"].replace("\r\n", "\n") not in text, "its solution isn't shown"
    assert asked(mbpp, None).texts[0].endswith("\n[BEGIN]\n")
    assert stop_strings("mbpp", "completion")[0] == "[DONE]"


def test_a_prompt_that_leaves_no_room(humaneval: Suite) -> None:
    with pytest.raises(Refused, match=r"the prompt of Own/0 has \d+ tokens, and the model's context 20"):
        asked(humaneval, None, context=20)
