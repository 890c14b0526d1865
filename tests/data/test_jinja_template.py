"""A prompt format in a file: what is taken, and how another one is refused."""

from pathlib import Path

import pytest
from data_support import BOS, config, write_rows
from tokenizers import Tokenizer

from dscoder_exp.data.conversation import Specials, UnfitConversation, messages_of
from dscoder_exp.data.encode import encode_prompts
from dscoder_exp.data.jinja_template import JinjaTemplate
from dscoder_exp.data.prepare import prepare
from dscoder_exp.data.rows import Chat, Message, Row
from dscoder_exp.data.templates import PLAIN, template_named
from dscoder_exp.schema.errors import Refused

ONE_TURN = """{% if messages | length > 2 %}{{ raise_exception('one turn only') }}{% endif %}
{{ messages[0]['content'] }}: {% if not add_generation_prompt %}{{ messages[1]['content'] }}{% endif %}"""


def refusal(path: Path, source: str | bytes) -> tuple[str, str]:
    path.write_bytes(source if isinstance(source, bytes) else source.encode())
    with pytest.raises(Refused) as caught:
        template_named(str(path), "predict.template")
    (problem,) = caught.value.problems
    assert problem.remedy
    return problem.where, problem.what


def test_named_by_its_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.jinja"
    path.write_text(ONE_TURN)
    template = template_named(str(path))
    assert template.render_prompt("Say é", "to me") == "Say é\nto me: "
    before = template.identity
    assert before.startswith("mine.jinja ")
    path.write_text(ONE_TURN.replace(": ", " - "))
    assert template_named(str(path)).identity != before
    with pytest.raises(Refused, match=r"predict\.template: no such file or directory"):
        template_named("none.jinja", "predict.template")


def test_refused_files(tmp_path: Path) -> None:
    path = tmp_path / "mine.jinja"
    where, what = refusal(path, "a\n{% for %}")
    assert (where, what.partition(":")[0]) == (f"{path}:2", "not a Jinja2 template")
    assert refusal(path, b"\xff") == (str(path), "not UTF-8: invalid start byte")
    assert refusal(path, "{{ raise_exception('never') }}") == (str(path), "the template fails: never")
    assert refusal(path, "{{ messages.append(1) }}")[1].startswith("the template fails: access to")
    without_answer = "{{ messages[0]['content'] }}"
    assert refusal(path, without_answer) == (str(path), "the answer is not in what the template writes: ''")
    without_request = "{% if not add_generation_prompt %}{{ messages[1]['content'] }}{% endif %}"
    assert refusal(path, without_request) == (str(path), "the request is not in what the template writes: ''")
    changing = "{{ messages | length }} {% for m in messages %}{{ m['content'] }}{% endfor %}"
    assert refusal(path, changing) == (
        str(path),
        "the text up to the answer of message 2 doesn't begin with the text up to the prompt",
    )
    path.unlink()
    path.mkdir()
    with pytest.raises(Refused, match=r"cannot be read: .* \(Is a directory\)"):
        template_named(str(path))


def test_a_conversation_that_a_template_does_not_take(tmp_path: Path, tokenizer: Tokenizer) -> None:
    path, source = tmp_path / "one.jinja", tmp_path / "rows.jsonl"
    path.write_text(ONE_TURN)
    turn = '{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}'
    source.write_text(f'{{"messages": [{turn}]}}\n\n{{"messages": [{turn}, {turn}]}}\n')
    with pytest.raises(Refused) as caught:
        prepare(
            config(source, template=str(path)),
            seq_length=64,
            max_document=64,
            tokenizer=tokenizer,
            eos_token_id=1,
            bos_token_id=0,
            pad_token_id=2,
            cache_dir=tmp_path / "cache",
        )
    (problem,) = caught.value.problems
    assert (problem.where, problem.what) == (
        f"{source}:3",
        "data.template=one.jinja: the template fails: one turn only",
    )
    assert not (tmp_path / "cache").exists()


def test_what_is_taken_back_later_is_refused() -> None:
    """Some formats drop what an earlier answer thought aloud: then no document says what the model was given."""
    forgetting = JinjaTemplate("forgetting.jinja", "{% for m in messages[-2:] %}{{ m['content'] }} {% endfor %}")
    messages = [*messages_of(Row("a", "", "b")), *messages_of(Row("c", "", "d"))]
    with pytest.raises(UnfitConversation, match="the text up to the prompt of message 4 doesn't begin with"):
        forgetting.turns(Chat(tuple(Message(**message) for message in messages)), Specials("", ""))


def test_special_tokens_of_a_prompt(tokenizer: Tokenizer) -> None:
    template = JinjaTemplate("x.jinja", "{{ bos_token }}{{ messages[0]['content'] }}{{ eos_token }}")
    prompt = template.render_prompt("ab")
    assert encode_prompts(tokenizer, template, [prompt], BOS, 1) == [tokenizer.encode("<|begin|>ab<|end|>").ids]
    assert encode_prompts(tokenizer, template, [prompt], None, 1) == [tokenizer.encode("ab<|end|>").ids]
    with pytest.raises(Refused, match="writes eos_token"):
        encode_prompts(tokenizer, template, [prompt], BOS)
    assert encode_prompts(tokenizer, PLAIN, ["ab"], BOS) == [tokenizer.encode("ab").ids]


def test_conventions() -> None:
    source = "{% for m in messages %}{% if loop.index > 1 %}{% break %}{% endif %}{{ m | tojson }}{% endfor %}"
    assert JinjaTemplate("x.jinja", source).render_prompt("<é>") == '{"role": "user", "content": "<é>"}'


def test_a_template_s_content_names_the_data(tmp_path: Path, tokenizer: Tokenizer, rows: list[Row]) -> None:
    source, path = write_rows(tmp_path / "rows.json", rows), tmp_path / "mine.jinja"
    options = {"seq_length": 256, "max_document": 256, "eos_token_id": 1, "bos_token_id": 0, "pad_token_id": 2}
    data = config(source, template=str(path), output=str(tmp_path / "prepared"))
    path.write_text(ONE_TURN)
    prepare(data, tokenizer=tokenizer, cache_dir=tmp_path, **options)
    assert prepare(data, tokenizer=tokenizer, cache_dir=tmp_path, **options).reused
    path.write_text(ONE_TURN.replace(": ", " -> "))
    with pytest.raises(Refused, match=r"holds data prepared with other settings \(another mine\.jinja\)"):
        prepare(data, tokenizer=tokenizer, cache_dir=tmp_path, **options)
