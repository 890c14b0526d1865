"""Downloading what jobs read from the Hugging Face Hub before they start, and pinning it to a commit."""

import logging

from dscoder_exp.hub.address import SCHEME, parse
from dscoder_exp.schema.config import Config
from dscoder_exp.schema.errors import Problem, Refused
from dscoder_exp.schema.paths import with_value
from dscoder_exp.weights.resolve import fetch


def hub_addresses(config: Config) -> dict[str, str]:
    """Config key -> hf:// address, for the keys that the task reads."""
    if config.task.name == "evaluate" and config.evaluate.completions is not None:
        return {}
    read = {"tokenizer.path": config.tokenizer.path}
    if config.task.name == "convert":
        read["weights.source"] = config.weights.source
    else:
        read["model.path"] = config.model.path
    return {key: path for key, path in read.items() if path is not None and path.startswith(SCHEME)}


def address_problems(config: Config) -> list[Problem]:
    """A problem for each malformed hf:// address; sends no request."""
    problems: list[Problem] = []
    for key, address in hub_addresses(config).items():
        try:
            parse(address, key)
        except Refused as refused:
            problems += refused.problems
    return problems


class Downloads:
    """The downloads of a launch: each address is resolved once, so that all jobs of a sweep get the same commit."""

    def __init__(self) -> None:
        for library in ("huggingface_hub", "httpx2"):  # Hydra would print their INFO logs, one per request, on stdout
            logging.getLogger(library).propagate = False
        self._results: dict[tuple[str, str], tuple[str, list[Problem]]] = {}

    def download(self, config: Config) -> tuple[Config, list[Problem]]:
        """Download to the cache; returns the configuration with the commit in each address, and what went wrong."""
        problems: list[Problem] = []
        for key, address in hub_addresses(config).items():
            pinned, found = self._download_once(address, key)
            problems += found
            config = with_value(config, key, pinned)
        return config, problems

    def _download_once(self, address: str, key: str) -> tuple[str, list[Problem]]:
        if (address, key) not in self._results:
            try:
                self._results[address, key] = fetch(address, key), []
            except Refused as refused:
                self._results[address, key] = address, list(refused.problems)
        return self._results[address, key]
