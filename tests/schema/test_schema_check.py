"""Checks of a configuration against the schema: typed if it is valid, else refused with all problems."""

import pickle
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields
from typing import Any, get_args, get_origin, get_type_hints

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dscoder_exp.schema.bounds import bound, bounds_of
from dscoder_exp.schema.check import to_config
from dscoder_exp.schema.config import Config
from dscoder_exp.schema.errors import Problem, Refused
from dscoder_exp.schema.suggest import dataclass_in


def leaves(schema: type = Config, prefix: str = "") -> Iterator[tuple[str, Any, dict[str, Any]]]:
    """(dotted key, type hint, limits) of every field that holds a value."""
    hints = get_type_hints(schema)
    for item in fields(schema):
        inner = dataclass_in(hints[item.name])
        if inner is None:
            yield prefix + item.name, hints[item.name], bounds_of(item)
        elif prefix + item.name != "model.rope_scaling":  # null in the default configuration
            yield from leaves(inner, f"{prefix}{item.name}.")


LEAVES = list(leaves())
NUMBERS = [(key, hint, limits) for key, hint, limits in LEAVES if {int, float} & {hint, *get_args(hint)}]
LIMITS = [(key, hint, name, limit) for key, hint, limits in NUMBERS for name, limit in limits.items()]


def problems(config: Any, **options: Any) -> dict[str, Problem]:
    with pytest.raises(Refused) as refused:
        to_config(config, **options)
    return {problem.where: problem for problem in refused.value.problems}


def test_a_valid_configuration_becomes_a_typed_config(with_values: Any, plain: dict[str, Any]) -> None:
    config = to_config(with_values({}))
    assert isinstance(config, Config)
    assert asdict(config) == plain


def test_a_hydra_node_is_ignored_at_the_top_level_only(with_values: Any) -> None:
    to_config(with_values({"hydra.job.num": 3}))
    assert set(problems(with_values({"model.hydra": 3}))) == {"model.hydra"}


@given(name=st.sampled_from(["ge", "gt", "le", "lt"]), limit=st.integers() | st.floats(allow_nan=False))
def test_bounds_of_returns_the_limits_of_bound(name: str, limit: float) -> None:
    limits: dict[str, Any] = {name: limit}

    @dataclass
    class Limited:
        value: float = field(metadata=bound(**limits))

    assert bounds_of(fields(Limited)[0]) == limits


@pytest.mark.parametrize(("key", "hint", "name", "limit"), LIMITS)
def test_every_limit_holds_at_its_edge(with_values: Any, key: str, hint: Any, name: str, limit: float) -> None:
    step = 1 if int in (hint, *get_args(hint)) else 1e-9
    outside = {"ge": limit - step, "gt": limit, "le": limit + step, "lt": limit}[name]
    inside = {"ge": limit, "gt": limit + step, "le": limit, "lt": limit - step}[name]
    in_list = get_origin(hint) is list
    assert set(problems(with_values({key: [outside] if in_list else outside}))) == {key}
    to_config(with_values({key: [inside] if in_list else inside}))


@pytest.mark.parametrize(
    ("key", "hint", "choices"), [(key, hint, limits["choices"]) for key, hint, limits in LEAVES if "choices" in limits]
)
def test_a_choice_is_one_of_those_named(with_values: Any, key: str, hint: Any, choices: tuple[str, ...]) -> None:
    in_list = list[str] in get_args(hint)
    for choice in choices:
        to_config(with_values({key: [choice] if in_list else choice}))
    wrong = choices[0] + "x"
    problem = problems(with_values({key: [choices[1], wrong] if in_list else wrong}))[key]
    assert all(choice in problem.what for choice in choices)
    assert problem.remedy.startswith(f"did you mean `{choices[0]}`")


@pytest.mark.parametrize(("key", "hint"), [(key, hint) for key, hint, _ in LEAVES])
def test_a_value_of_another_type_is_refused(with_values: Any, key: str, hint: Any) -> None:
    wrong = 3 if dict[str, str] in get_args(hint) else {"a": 1}
    found = problems(with_values({key: wrong}), launched=True)
    assert set(found) == {key}
    assert found[key].what.startswith("must be ")


@pytest.mark.parametrize("value", ["abc", "1.5.0", True, float("nan"), float("inf"), [1]])
def test_nan_infinity_and_other_types_are_refused_for_a_number(with_values: Any, value: Any) -> None:
    expected = {} if value is True else {"optim.lr"}  # OmegaConf takes true for 1.0
    if expected:
        assert set(problems(with_values({"optim.lr": value}))) == expected


@pytest.mark.parametrize(
    ("key", "hint"), [(key, hint) for key, hint, limits in LEAVES if "set_at_launch" not in limits]
)
def test_null_is_accepted_only_for_nullable_keys(with_values: Any, key: str, hint: Any) -> None:
    if type(None) in get_args(hint):
        to_config(with_values({key: None}))
    else:
        assert set(problems(with_values({key: None}))) == {key}


def test_users_cannot_set_keys_that_are_set_at_launch(with_values: Any) -> None:
    config = with_values({"tracking.run_id": "abc"})
    assert problems(config)["tracking.run_id"].what == "is set at launch"
    assert to_config(config, launched=True).tracking.run_id == "abc"


@pytest.mark.parametrize("text", ["${nothing}", "say ${x", "\\${seed}", "", "ünï", "1e5", "null", "a: b"])
def test_text_is_unchanged(with_values: Any, text: str) -> None:
    escaped = text.replace("\\", "\\\\").replace("${", "\\${")
    config = to_config(with_values({"predict.prompt": escaped, "train.prompts": [escaped, "b"]}))
    assert (config.predict.prompt, config.train.prompts) == (text, [text, "b"])


def test_unresolvable_interpolations_are_reported(with_values: Any) -> None:
    broken = {"seed": "${nowhere}", "train.prompts": ["a", "${nowhere}"], "model.template": "${oc.env:NOT_SET_HERE}"}
    found = problems(with_values(broken))
    assert set(found) == set(broken)
    assert all("can't be resolved" in problem.what for problem in found.values())


def test_missing_keys_are_reported(with_values: Any) -> None:
    config = with_values({"seed": "???"})
    del config.optim.lr
    del config.tokenizer
    assert set(problems(config)) == {"seed", "optim.lr", "tokenizer"}


def test_a_misspelling_is_one_problem_not_two(with_values: Any) -> None:
    config = with_values({"optim.wieght_decay": 0.1, "experimnt": 3})
    del config.optim.weight_decay
    found = problems(config)
    assert set(found) == {"optim.wieght_decay", "experimnt"}
    assert found["experimnt"].remedy == "did you mean `experiment`?"


def test_a_group_needs_its_keys(with_values: Any) -> None:
    assert problems(with_values({"optim": 3}))["optim"].what.startswith("must hold keys (lr, betas")
    scaling = to_config(with_values({"model.rope_scaling": {"type": "linear", "factor": 4}})).model.rope_scaling
    assert scaling is not None
    assert (scaling.type, scaling.factor, scaling.low_freq_factor) == ("linear", 4.0, None)
    assert set(problems(with_values({"model.rope_scaling": {"type": "llama3"}}))) == {"model.rope_scaling.factor"}
    assert set(problems(with_values({"model.rope_scaling": {"type": "linear", "factr": 4}}))) == {
        "model.rope_scaling.factr"
    }


MISTAKES = {
    "seed": -1,
    "seq_length": "long",
    "optim.lrr": 1,
    "train.micro_batch_size": 0,
    "data.loss": "both",
    "parallel.data": 1.5,
    "optim.betas": [0.9, 2.0],
    "nonsense": {"a": 1},
}


@settings(max_examples=20)
@given(chosen=st.sets(st.sampled_from(sorted(MISTAKES)), min_size=1))
def test_all_problems_are_reported_at_once(with_values: Any, chosen: set[str]) -> None:
    assert set(problems(with_values({key: MISTAKES[key] for key in chosen}))) == chosen


def test_refused_can_be_pickled() -> None:
    refused = Refused([Problem("a.b", "is wrong", "fix it"), Problem("c", "too")], hint="try this")
    copied = pickle.loads(pickle.dumps(refused))
    assert (copied.problems, copied.hint, str(copied)) == (refused.problems, refused.hint, str(refused))
    text = "dscoder_exp: refused, 2 problems\n  - a.b: is wrong\n      -> fix it\n  - c: too\ntry this"
    assert str(refused) == text
