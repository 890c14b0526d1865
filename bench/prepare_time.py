"""Seconds that task=prepare takes, and that the tokenizers library alone takes for the same texts, in turn.

python bench/prepare_time.py TOKENIZER_DIR ROWS.json [--template deepseek_coder] [--rounds 3]
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from _machine import machine
from chat_template_ids import prompt_format_of

from dscoder_exp.data.rows import Conversation
from dscoder_exp.data.source import read_source
from dscoder_exp.data.tool_calls import rendered


def prepare_seconds(directory: Path, rows: Path, template: str) -> float:
    """The whole command: start, checks, encoding, packing, writing, and the report's picture."""
    with tempfile.TemporaryDirectory() as scratch:
        recipe = ["task=prepare", f"data.template={template}", "seq_length=8192", "tracking=off"]
        given = [f"data.source={rows}", f"tokenizer.path={directory}", f"runtime.cache_dir={scratch}/cache"]
        command = [sys.executable, "-m", "dscoder_exp", *recipe, *given]
        started = time.perf_counter()
        subprocess.run(command, cwd=scratch, check=True, capture_output=True)
        return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tokenizer", type=Path)
    parser.add_argument("rows", type=Path)
    parser.add_argument("--template", default="deepseek_coder")
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    directory, source = given.tokenizer.resolve(), given.rows.resolve()
    prompt_format = prompt_format_of(directory, given.template)
    rows = read_source(str(source)).rows({}, drop_bad=False, limit=None).rows
    texts = [rendered(row, prompt_format) for row in rows if isinstance(row, Conversation)]
    bare, whole = [], []
    for _ in range(given.rounds):
        started = time.perf_counter()
        prompt_format.encode(texts)
        bare.append(time.perf_counter() - started)
        whole.append(prepare_seconds(directory, source, given.template))
    print(f"{machine()}; {len(rows):,} rows, prompt format {prompt_format.name}; medians of {given.rounds}")
    print(
        f"encode_batch {median(bare):.1f} s, task=prepare {median(whole):.1f} s: {median(whole) / median(bare):.1f} x"
    )


if __name__ == "__main__":
    main()
