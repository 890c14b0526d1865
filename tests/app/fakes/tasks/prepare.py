"""As the fake train, in the launching process and untracked."""

from pathlib import Path

from dscoder_exp.console import Screen
from dscoder_exp.schema.config import Config
from dscoder_exp.schema.errors import refuse


def run(config: Config) -> None:
    if config.name == "raise":
        raise ValueError("boom")
    if config.name == "print":
        print_lines()
    if config.name == "refuse":
        raise refuse("data.output", "holds something else", "give another directory")


def print_lines() -> None:
    """More than a pipe holds."""
    screen = Screen(quiet=False)
    for number in range(20_000):
        screen.print(f"数据 {number}")
    print("the end", flush=True)
    Path("printed").write_text("all")
