"""As the fake train, in the launching process and untracked."""

from dscoder_exp.schema.config import Config
from dscoder_exp.schema.errors import refuse


def run(config: Config) -> None:
    if config.name == "raise":
        raise ValueError("boom")
    if config.name == "refuse":
        raise refuse("data.output", "holds something else", "give another directory")
