"""Compiling the C++ library: once for each CPU and compiler; without a compiler, a message that says so."""

import ctypes
import os
import re
import shlex
import shutil
import subprocess

import pytest

import dscoder_exp.native.library as library_module
from dscoder_exp.native.library import NATIVE, library


@pytest.fixture
def compiled(tmp_path, monkeypatch):
    """A function from $CXX to `library()`, uncached, with an empty cache directory."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def compiled(compiler):
        monkeypatch.setenv("CXX", compiler)
        return library.__wrapped__()

    return compiled


@pytest.fixture
def compiler():
    """$CXX, or else `c++`, which under an emulator may compile for another CPU than Python's."""
    found = os.environ.get("CXX") or shutil.which("c++")
    if found is None:
        pytest.skip("there is no c++ here")
    return found


@pytest.fixture
def only(tmp_path, monkeypatch):
    """only(FILE.cc, …): the library has these sources alone, which compile in a second."""

    def only(*names):
        sources = tmp_path / "sources"
        sources.mkdir()
        for path in (*library_module.SOURCES.glob("*.h"), *(library_module.SOURCES / name for name in names)):
            shutil.copy(path, sources)
        monkeypatch.setattr(library_module, "SOURCES", sources)

    return only


def test_the_library_is_compiled_once(compiled, compiler, only, tmp_path):
    only("optimizer.cc", "elementwise.cc", "product.cc")
    built = compiled(compiler)
    assert built.path is not None, built.why
    assert built.path.parent == tmp_path / "dscoder_exp"
    assert compiler in built.why
    written = built.path.stat().st_mtime_ns
    assert compiled(compiler) == built
    assert built.path.stat().st_mtime_ns == written
    assert [path.name for path in built.path.parent.iterdir()] == [built.path.name]  # no temporary files


def test_other_flags_compile_another_library(compiled, compiler, only):
    only("optimizer.cc", "product.cc")
    first, second = compiled(compiler).path, compiled(f"{compiler} -O1").path
    assert first != second
    assert first.is_file()
    assert second.is_file()


def test_a_cpu_in_cxx_replaces_the_native_one(compiled, tmp_path):
    """A cross compiler doesn't accept `native`."""
    arguments, echo = tmp_path / "arguments", tmp_path / "c++"
    echo.write_text(f'#!/bin/sh\necho "$@" > {arguments}\nexit 1\n')
    echo.chmod(0o755)
    for compiler, cpu in ((f"{echo}", NATIVE), (f"{echo} -mcpu=tsv110", "-mcpu=tsv110")):
        compiled(compiler)
        assert re.findall(r"-m(?:arch|cpu)=\S+", arguments.read_text()) == [cpu]


def test_without_a_compiler_the_message_says_what_to_install(compiled):
    built = compiled("no-such-compiler")
    assert built.path is None
    assert built.why == "there is no C++ compiler 'no-such-compiler': install one (g++), or name it in CXX"


def test_a_compiler_that_fails_is_quoted(compiled, tmp_path):
    broken = tmp_path / "broken-c++"
    broken.write_text("#!/bin/sh\necho 'about OpenMP' >&2\necho 'fatal: no omp.h' >&2\nexit 1\n")
    broken.chmod(0o755)
    built = compiled(str(broken))
    assert built.path is None
    assert built.why == f"{str(broken)!r} failed: fatal: no omp.h"
    assert list((tmp_path / "dscoder_exp").iterdir()) == []


def test_products_are_left_out_where_onednn_is_unknown(compiled, compiler, only, tmp_path, monkeypatch):
    """product.cc declares private functions of oneDNN, whose arguments may differ in another build."""
    only("optimizer.cc", "product.cc")
    assert hasattr(ctypes.CDLL(str(compiled(compiler).path)), "linear_fp32")
    other = tmp_path / "libdnnl.so.9"
    subprocess.run([*shlex.split(compiler), "-shared", "-x", "c++", "/dev/null", "-o", str(other)], check=True)
    monkeypatch.setattr(library_module, "_onednn", lambda: other)
    built = compiled(compiler)
    assert built.path is not None, built.why
    assert not built.products
    assert "matrix products by MindSpore's operators" in built.why
    assert compiled(compiler) == built
    functions = ctypes.CDLL(str(built.path))
    assert functions.adamw
    assert not hasattr(functions, "linear_fp32")


def test_the_installed_onednn_is_known():
    assert library().products, "a new MindSpore: look at its oneDNN's interface, then add its hash to KNOWN_ONEDNN"


def test_an_unwritable_cache_directory_is_named(compiled, tmp_path):
    (tmp_path / "dscoder_exp").write_text("a file where the directory belongs")
    built = compiled("c++")
    assert built.path is None
    assert str(tmp_path / "dscoder_exp") in built.why
