"""Which functions are compiled, how often, and that each is announced before."""

from pathlib import Path

import numpy as np
import pytest

REFERENCE = Path(__file__).parents[1] / "reference" / "tiny_gqa"


@pytest.fixture(scope="module")
def announced_llm():
    from dscoder_exp import load

    compiled: list[str] = []
    return load(str(REFERENCE), announce=compiled.append), compiled


def test_a_block_is_compiled_once_for_all_layers(announced_llm, monkeypatch):
    """MindSpore would compile each layer's call again if an argument were a Parameter or a tuple."""
    from mindspore.graph import api

    llm, compiled = announced_llm
    compilations = []
    compile_graph = api.JitExecutor_.compile
    monkeypatch.setattr(
        api.JitExecutor_, "compile", lambda *a: compilations.append(1) or compile_graph(*a), raising=True
    )
    del compiled[:]
    ids = np.arange(40)[None]
    llm.logits(ids)
    assert compiled == ["embedding", "block forward", "logits"]
    assert len(compilations) == 3
    llm.logits(ids + 1)
    assert len(compiled) == 3
    assert len(compilations) == 3


def test_generation_announces_prefill_and_decoding(announced_llm, monkeypatch):
    """Where C++ doesn't compute it."""
    from dscoder_exp.generation import engine

    llm, compiled = announced_llm
    del compiled[:]
    monkeypatch.setattr(engine, "decoder_library", lambda model: None)
    without_cpp = engine.Engine(llm.model)
    without_cpp.prefill(0, np.array([5, 6, 7], np.int32))
    without_cpp.decode(*(np.array([number], np.int32) for number in (0, 4, 3)))
    assert compiled.count("blocks with cache") == 2
    del compiled[:]
    without_cpp.prefill(0, np.array([9, 8, 7, 6], np.int32))
    without_cpp.decode(*(np.array([number], np.int32) for number in (0, 4, 4)))
    assert compiled == []
