"""Equal compositions are made once, and each caller has one of its own."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import ConfigCompositionException
from hydra.types import RunMode

from msrun_launcher.composition import composed_once


@pytest.fixture
def composed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[list[str]]]:
    """The overrides of each composition that Hydra really makes, from a configuration with the key `size`."""
    (tmp_path / "config.yaml").write_text("size: 1\n")
    made: list[list[str]] = []
    load = ConfigLoaderImpl._load_configuration_impl

    def counted(self: ConfigLoaderImpl, config_name: str | None, overrides: list[str], *args: object, **named: object):
        made.append(overrides)
        return load(self, config_name, overrides, *args, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(ConfigLoaderImpl, "_load_configuration_impl", counted)
    with initialize_config_dir(version_base="1.3", config_dir=str(tmp_path)):
        yield made


def test_equal_overrides_are_composed_once_and_copied(composed: list[list[str]]) -> None:
    with composed_once():
        first, other = compose("config", ["size=2"]), compose("config", ["size=3"])
        first.size = 9
        assert (compose("config", ["size=2"]).size, other.size) == (2, 3)
    assert composed == [["size=2"], ["size=3"]]
    assert compose("config", ["size=2"]).size == 2
    assert len(composed) == 3, "outside the block all is as before"


def test_what_cannot_be_composed_raises_each_time(composed: list[list[str]]) -> None:
    with composed_once():
        for _ in range(2):
            with pytest.raises(ConfigCompositionException, match="Could not override 'weight'"):
                compose("config", ["weight=1"])
    assert len(composed) == 2


def test_a_sweep_is_validated_although_it_was_composed_without(composed: list[list[str]]) -> None:
    swept = ("config", ["hydra.job.name=a,b"], RunMode.MULTIRUN)
    loader = GlobalHydra.instance().config_loader()
    with composed_once():
        loader.load_configuration(*swept, validate_sweep_overrides=False)
        with pytest.raises(ConfigCompositionException, match="Sweeping over Hydra's configuration is not supported"):
            loader.load_configuration(*swept)
    assert len(composed) == 1
