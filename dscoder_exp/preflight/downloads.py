"""What jobs take from the Hugging Face Hub: brought here before they start, and named by its commit from then on."""

import logging

from dscoder_exp.hub.address import SCHEME, parse
from dscoder_exp.schema.config import Config
from dscoder_exp.schema.errors import Problem, Refused
from dscoder_exp.schema.paths import with_value
from dscoder_exp.weights.resolve import fetch


def addresses(config: Config) -> dict[str, str]:
    """Key -> hf:// address, of those that the task reads."""
    read = {"tokenizer.path": config.tokenizer.path}
    if config.task.name == "convert":
        read["weights.source"] = config.weights.source
    else:
        read["model.path"] = config.model.path
    return {key: path for key, path in read.items() if path is not None and path.startswith(SCHEME)}


def address_problems(config: Config) -> list[Problem]:
    """The malformed ones; asks nobody."""
    problems: list[Problem] = []
    for key, address in addresses(config).items():
        try:
            parse(address, key)
        except Refused as refused:
            problems += refused.problems
    return problems


class Downloads:
    """Of all jobs of a launch: each address is looked up once, so that a sweep's jobs have the same commit."""

    def __init__(self) -> None:
        for library in ("huggingface_hub", "httpx2"):  # Hydra would print what they log on stdout, each request even
            logging.getLogger(library).propagate = False
        self._found: dict[tuple[str, str], tuple[str, list[Problem]]] = {}

    def pinned(self, config: Config) -> tuple[Config, list[Problem]]:
        """The configuration with the addresses of what is now in the cache; or what keeps it from getting there."""
        problems: list[Problem] = []
        for key, address in addresses(config).items():
            pinned, found = self._once(address, key)
            problems += found
            config = with_value(config, key, pinned)
        return config, problems

    def _once(self, address: str, key: str) -> tuple[str, list[Problem]]:
        if (address, key) not in self._found:
            try:
                self._found[address, key] = fetch(address, key), []
            except Refused as refused:
                self._found[address, key] = address, list(refused.problems)
        return self._found[address, key]
