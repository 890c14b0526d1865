"""Chat templates are rendered as transformers renders them; what can't be used is refused."""

from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from data_support import own_format, text_setup
from tokenizers import Tokenizer

from dscoder_exp.data.chat_template import ChatTemplate, TemplateFailed
from dscoder_exp.data.prompt_format import choose_format
from dscoder_exp.schema.errors import Refused
from dscoder_exp.weights.chat_template import template_in

MESSAGES = [{"role": "user", "content": "<é>"}, {"role": "assistant", "content": "b"}]


def render(source: str, **changes: Any) -> str:
    options: dict[str, Any] = {"add_generation_prompt": False} | changes
    return ChatTemplate(source).render(MESSAGES, {"bos_token": "<s>", "eos_token": "</s>"}, **options).text


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("{{ bos_token }}{{ messages[0]['content'] }}{{ eos_token }}", "<s><é></s>"),
        ("{{ pad_token }}|{{ tools }}", "|None"),
        (
            "{% for m in messages %}\n  {% if m.role == 'user' %}\nQ{{ m.content }}\n  {% endif %}\n{% endfor %}",
            "Q<é>\n",
        ),
        ("{% for m in messages %}{% if loop.index > 1 %}{% break %}{% endif %}{{ m.role }}{% endfor %}", "user"),
        ("{{ messages[0] | tojson }}", '{"role": "user", "content": "<é>"}'),
        ("{{ {'b': 1, 'a': 'é'} | tojson(ensure_ascii=true, sort_keys=true) }}", '{"a": "\\u00e9", "b": 1}'),
        ("{{ [1] | tojson(indent=2) }}", "[\n  1\n]"),
        ("{{ strftime_now('%Y') }}", f"{datetime.now():%Y}"),
        ("{% generation %}a{% endgeneration %}b", "ab"),
        ("{% if add_generation_prompt is defined and not add_generation_prompt %}x{% endif %}", "x"),
        ("{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}", "2"),
    ],
)
def test_conventions(source: str, text: str) -> None:
    assert render(source) == text


def test_tools() -> None:
    assert render("{{ tools[0].name }}", tools=[{"name": "add"}]) == "add"


def test_generation_blocks_are_located() -> None:
    source = "{% for m in messages %}{{ m.role }}:{% generation %}{{ m.content }}{{ eos_token }}{% endgeneration %}\n"
    rendered = ChatTemplate(source + "{% endfor %}").render(
        MESSAGES, {"eos_token": "</s>"}, add_generation_prompt=False
    )
    assert [rendered.text[first:end] for first, end in rendered.generated] == ["<é></s>", "b</s>"]


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("{{ raise_exception('one turn only') }}", "one turn only"),
        ("{{ messages.append(1) }}", "access to attribute 'append'"),
        ("{{ ''.__class__.__mro__ }}", "access to attribute '__class__'"),
        ("{{ messages[0].nothing.more }}", "has no attribute 'nothing'"),
    ],
)
def test_a_template_that_fails(source: str, why: str) -> None:
    with pytest.raises(TemplateFailed, match=why):
        render(source)


def test_the_date_is_part_of_the_identity(monkeypatch: pytest.MonkeyPatch) -> None:
    """Data that were prepared yesterday say yesterday."""
    import dscoder_exp.data.chat_template as module

    class Tomorrow(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:
            return datetime(2099, 1, 1, tzinfo=tz)

    sources = ["{{ messages[0].content }}", "{{ strftime_now('%d') }}{{ messages[0].content }}"]
    before = [ChatTemplate(source).identity for source in sources]
    monkeypatch.setattr(module, "datetime", Tomorrow)
    after = [ChatTemplate(source).identity for source in sources]
    assert [one == other for one, other in zip(before, after, strict=True)] == [True, False]


def refusal(source: str, tokenizer: Tokenizer) -> tuple[str, str]:
    with pytest.raises(Refused) as caught:
        own_format(source, tokenizer)
    (problem,) = caught.value.problems
    assert problem.remedy
    return problem.where, problem.what


def test_refused_templates(tokenizer: Tokenizer) -> None:
    where = "tokenizer_config.json"
    assert refusal("a\n{% for %}", tokenizer)[0] == f"{where}:2"
    assert "not a Jinja2 template" in refusal("a\n{% for %}", tokenizer)[1]
    assert refusal("{{ raise_exception('never') }}", tokenizer) == (where, "the chat template fails: never")
    without_answer = "{{ messages[0]['content'] }}"
    assert refusal(without_answer, tokenizer)[1] == "the answer is not in what the template writes: ''"
    without_request = "{% if not add_generation_prompt %}{{ messages[1]['content'] }}{% endif %}"
    assert refusal(without_request, tokenizer)[1] == "the request is not in what the template writes: 'It is 4.'"
    ends = "{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}"
    text = text_setup(tokenizer, eos=5000, source=ends)
    with pytest.raises(Refused, match="writes eos_token, but the tokenizer has no 5000"):
        choose_format(text, None, "data.template")


def test_a_file_of_ones_own(tmp_path: Path, tokenizer: Tokenizer) -> None:
    path = tmp_path / "mine.jinja"
    text = text_setup(tokenizer, source="{{ raise_exception('not asked') }}")
    path.write_text("{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}")
    chosen = choose_format(text, str(path), "data.template")
    assert (chosen.name, chosen.origin) == ("mine.jinja", str(path))
    assert chosen.request("ab") == tokenizer.encode("ab<|end|>").ids
    path.write_bytes(b"\xff")
    for make, message in (
        (lambda: None, "not UTF-8"),
        (path.unlink, r"data\.template: no such file or directory"),
        (path.mkdir, r"cannot be read: .* \(Is a directory\)"),
    ):
        make()
        with pytest.raises(Refused, match=message):
            choose_format(text, str(path), "data.template")


def test_where_a_models_template_lies(tmp_path: Path) -> None:
    """As transformers finds it: the file before the JSON, `default` of several."""
    assert template_in(tmp_path, "model.path") is None
    config = tmp_path / "tokenizer_config.json"
    config.write_text(
        '{"chat_template": [{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}]}'
    )
    found = template_in(tmp_path, "model.path")
    assert found is not None
    assert (found.source, found.origin) == ("d", str(config))
    (tmp_path / "chat_template.jinja").write_text("file")
    found = template_in(tmp_path, "model.path")
    assert found is not None
    assert (found.source, found.origin) == ("file", str(tmp_path / "chat_template.jinja"))
    (tmp_path / "chat_template.jinja").unlink()
    config.write_text('{"chat_template": [{"name": "rag", "template": "t"}]}')
    with pytest.raises(Refused, match="none of the chat templates is named default, but rag"):
        template_in(tmp_path, "model.path")
    config.write_text('{"chat_template": 5}')
    with pytest.raises(Refused, match="chat_template is neither text nor a list"):
        template_in(tmp_path, "model.path")
