"""llama.cpp's side of generate_vs_peers.py, through llama-cpp-python: _llama_cpp_generate.py FILE.gguf THREADS"""

import json
import sys

import llama_cpp  # pyright: ignore[reportMissingImports]
from _generation import BATCH, DECODED, PROMPT, rates
from _machine import peak_memory

SILENT = llama_cpp.llama_log_callback(lambda level, text, data: None)  # C keeps no reference to it


def main() -> None:
    path, threads = sys.argv[1], int(sys.argv[2])
    llama_cpp.llama_log_set(SILENT, None)
    llama_cpp.llama_backend_init()
    model = llama_cpp.llama_model_load_from_file(path.encode(), llama_cpp.llama_model_default_params())
    settings = llama_cpp.llama_context_default_params()
    settings.n_ctx, settings.n_batch, settings.n_ubatch = BATCH * 2 * PROMPT, PROMPT, PROMPT
    settings.n_threads = settings.n_threads_batch = threads
    settings.n_seq_max = BATCH
    context = llama_cpp.llama_init_from_model(model, settings)
    batch = llama_cpp.llama_batch_init(PROMPT, 0, 1)

    def run(rows: list[tuple[int, int]], wanted: int) -> None:
        """rows: (sequence, position) of each token; wanted: number of last ones whose logits are computed."""
        batch.n_tokens = len(rows)
        for i, (sequence, position) in enumerate(rows):
            batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.seq_id[i][0] = 100 + i % 400, position, 1, sequence
            batch.logits[i] = i >= len(rows) - wanted
        if llama_cpp.llama_decode(context, batch):
            raise SystemExit("llama_decode failed")

    def forget() -> None:
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(context), True)

    def prefill() -> None:
        forget()
        run([(0, position) for position in range(PROMPT)], 1)

    def decode(count: int) -> None:
        forget()
        for position in range(DECODED):
            run([(sequence, position) for sequence in range(count)], count)

    print(json.dumps(rates(prefill, decode) | {"peak": peak_memory()}))


if __name__ == "__main__":
    main()
