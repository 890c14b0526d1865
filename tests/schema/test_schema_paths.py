"""Relative paths are resolved against the directory of the command, whatever directory a worker runs in."""

from pathlib import Path
from typing import Any

import pytest

from dscoder_exp.schema.paths import PATH_KEYS, TEMPLATE_KEYS, value_at, with_absolute_paths
from dscoder_exp.schema.suggest import all_keys

PATHLIKE = (
    "path",
    "source",
    "target",
    "input",
    "output",
    "completions",
    "baseline",
    "output_dir",
    "cache_dir",
    "merge_adapter",
    "template",
)


def test_every_key_that_names_a_path_is_listed() -> None:
    assert set(PATH_KEYS) == {key for key in all_keys() if key.rpartition(".")[2] in PATHLIKE}


@pytest.mark.parametrize("key", PATH_KEYS)
def test_a_relative_path_becomes_absolute(typed: Any, tmp_path: Path, monkeypatch: Any, key: str) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/you")
    end = ".jinja" if key in TEMPLATE_KEYS else ""
    for given, expected in ((f"a/b{end}", f"{tmp_path}/a/b{end}"), (f"~/b{end}", f"/home/you/b{end}")):
        config = typed({key: given})
        assert value_at(with_absolute_paths(config), key) == expected
        assert with_absolute_paths(with_absolute_paths(config)) == with_absolute_paths(config)


def test_a_tilde_that_is_no_users_home_is_a_name(typed: Any, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    config = with_absolute_paths(typed({"data.source": "~$rows.json", "model.path": "~nobody-here/x"}))
    assert (config.data.source, config.model.path) == (f"{tmp_path}/~$rows.json", f"{tmp_path}/~nobody-here/x")


def test_names_addresses_and_null_are_unchanged(typed: Any) -> None:
    config = typed({"model.path": "hf://acme/tiny", "data.source": "pkg://pack/age", "data.template": "chatml"})
    found = with_absolute_paths(config)
    assert (found.model.path, found.data.source, found.data.template) == ("hf://acme/tiny", "pkg://pack/age", "chatml")
    assert found.adapter.path is None
