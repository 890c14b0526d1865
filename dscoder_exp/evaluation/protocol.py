"""What a score depends on besides the model: scores of different protocols can't be ranked."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from hashlib import blake2b
from typing import Any

from dscoder_exp.evaluation.extraction import VERSION
from dscoder_exp.evaluation.jail.walls import Limits
from dscoder_exp.evaluation.programs import LEAST_SECONDS, TIMES_REFERENCE
from dscoder_exp.evaluation.suites import Suite
from dscoder_exp.schema.config import EvaluateConfig

GIVEN = "given"  # the form of completions whose prompts aren't known


@dataclass(frozen=True)
class Protocol:
    """
    Attributes:
        suite: its name.
        problems: a hash of the problems' ids and tests.
        form: completion, instruct, or GIVEN.
        prompts: a hash of what was asked, without the model's own chat template; "" where it isn't known.
        extraction: the version of how programs are taken out of answers.
        limits: how programs' limits are set.
        sampling: the lengths and settings of answers, by config key; empty where they aren't known.
    """

    suite: str
    problems: str
    form: str
    prompts: str
    extraction: int
    limits: dict[str, Any]
    sampling: dict[str, Any]

    @property
    def hash(self) -> str:
        return _hash(asdict(self))

    def differences(self, other: dict[str, Any]) -> list[str]:
        """The names of the fields in which another one, as a summary has it, differs."""
        own = json.loads(json.dumps(asdict(self)))
        return [name for name in own if own[name] != other.get(name)]


def protocol_of(suite: Suite, evaluate: EvaluateConfig, form: str, prompts: Sequence[str] = ()) -> Protocol:
    """The protocol of a suite; form: GIVEN where completions are scored, else as the model is asked."""
    names = () if form == GIVEN else ("max_new_tokens", "temperature", "top_p")
    return Protocol(
        suite=suite.name,
        problems=_hash([[problem.key, problem.tests] for problem in suite.problems]),
        form=form,
        prompts=_hash(list(prompts)) if prompts else "",
        extraction=VERSION,
        limits={"least_seconds": LEAST_SECONDS, "times_reference": TIMES_REFERENCE, **asdict(Limits())},
        sampling={name: getattr(evaluate, name) for name in names},
    )


def _hash(value: Any) -> str:
    return blake2b(json.dumps(value, sort_keys=True).encode(), digest_size=8).hexdigest()
