// The whole model over key/value caches in one call, for decoding and prefill: model/block.py's cached_run and
// model/head.py's logits, which tests/generation/test_decoder.py compares it with. Results are rounded to the weights'
// format where MindSpore's operators on Ascend round them (docs/how-it-computes.md). A token's result doesn't depend on
// the other tokens of the call, nor on the number of threads: each sum has one order.
#include "decoder.h"

#include <omp.h>

#include <cmath>
#include <utility>

#include "barrier.h"
#include "cached_attention.h"
#include "inputs.h"

namespace {

constexpr int64_t SHARED = 16;  // threads share columns in multiples of this, a cache line of fp32

struct Range {
  int64_t first, last;
  int64_t size() const { return last - first; }
};

// This thread's part of `total` rows, columns or tasks.
Range share(int64_t total, int64_t unit = 1) {
  const int64_t units = (total + unit - 1) / unit, threads = omp_get_num_threads(), thread = omp_get_thread_num();
  return {std::min(units * thread / threads * unit, total), std::min(units * (thread + 1) / threads * unit, total)};
}

template <typename Format>
class Forward {
  using Stored = typename Format::Stored;

 public:
  Forward(const Decoder& model, const Tokens& tokens)
      : model(model),
        tokens(tokens),
        queries(query_blocks(tokens)),
        q_size(model.heads * model.head_dim),
        kv_size(model.key_heads * model.head_dim),
        qkv_row(q_size + 2 * kv_size),
        value_row(rounded_up(model.head_dim, KEYS)),
        many(tokens.count >= MANY),
        x(tokens.count * model.hidden),
        qkv(tokens.count * qkv_row),
        shared(many ? tokens.count : 0, model.hidden),
        attended(tokens.count, q_size),
        activated(tokens.count, model.intermediate) {}

  void run() {
#pragma omp parallel
    {
      Inputs<Format> own(many ? 0 : tokens.count, model.hidden), &normed = many ? shared : own;
      embed();
      for (int64_t layer = 0; layer < model.layers; layer++) {
        const Block& block = model.blocks[layer];
        norm_all(block.input_norm, normed);
        project_qkv(normed, block, layer);
        attention(layer);
        add_to_x(attended, block.o, q_size);
        norm_all(block.post_attention_norm, normed);
        swiglu(normed, block);
        add_to_x(activated, block.down, model.intermediate);
      }
      logits();
    }
  }

 private:
  static const Stored* stored(const void* weights) { return static_cast<const Stored*>(weights); }

  // The columns `range` of y = inputs weights [outputs, depth]^T; y begins with the first of them.
  static void project(const Inputs<Format>& inputs, const void* weights, int64_t depth, Range range, float* y,
                      int64_t y_row) {
    if (range.size() > 0) inputs.multiply_by(stored(weights) + range.first * depth, range.size(), y, y_row);
  }

  // Calls run(columns) for parts of this thread's share of `total` columns: of many tokens few columns at a time, whose
  // values then stay in its caches.
  template <typename Run>
  void for_columns(int64_t total, Run run) const {
    const Range own = share(total, SHARED);
    const int64_t most = many ? COLUMNS : std::max<int64_t>(own.size(), 1);
    for (int64_t first = own.first; first < own.last; first += most) run({first, std::min(first + most, own.last)});
  }

  void embed() {
    const Range rows = share(tokens.count);
    for (int64_t i = rows.first; i < rows.last; i++) {
      const Stored* row = stored(model.embedding) + tokens.ids[i] * model.hidden;
      for (int64_t c = 0; c < model.hidden; c++) x[i * model.hidden + c] = Format::get(row[c]);
    }
    barrier.wait(omp_get_num_threads());
  }

  // normed = rms_norm(x), which threads share if there are many rows; else each computes all, which costs less than a
  // barrier.
  void norm_all(const void* weights, Inputs<Format>& normed) {
    norm(many ? share(tokens.count, ROWS) : Range{0, tokens.count}, 0, weights, normed);
    if (many) barrier.wait(omp_get_num_threads());
  }

  // normed's row i - start = rms_norm(x's row i)
  void norm(Range rows, int64_t start, const void* weights, Inputs<Format>& normed) const {
    const Stored* weight = stored(weights);
    std::vector<float> values(model.hidden);
    for (int64_t i = rows.first; i < rows.last; i++) {
      const float* row = x.data() + i * model.hidden;
      float squares = 0;
      for (int64_t c = 0; c < model.hidden; c++) squares += row[c] * row[c];
      const float rstd = 1.0f / std::sqrt(squares / model.hidden + model.eps);
      for (int64_t c = 0; c < model.hidden; c++) values[c] = row[c] * rstd * Format::get(weight[c]);
      normed.set(i - start, 0, model.hidden, values.data());
    }
  }

  void logits() const {
    const int64_t first = tokens.count - tokens.num_logits;
    Inputs<Format> normed(tokens.num_logits, model.hidden);
    norm({first, tokens.count}, first, model.norm, normed);
    const Range range = share(model.vocabulary, SHARED);
    project(normed, model.head, model.hidden, range, tokens.logits + range.first, model.vocabulary);
  }

  // q, rotated and multiplied with 1 / sqrt(head_dim); k, rotated, and v go into the caches. Threads share whole heads.
  void project_qkv(const Inputs<Format>& normed, const Block& block, int64_t layer) {
    const int64_t size = model.head_dim;
    const Range own = share(qkv_row, size);
    int64_t start = 0;
    for (const auto& [weights, width] : {std::pair(block.q, q_size), {block.k, kv_size}, {block.v, kv_size}}) {
      const Range columns{std::max<int64_t>(own.first - start, 0), std::min(own.last - start, width)};
      project(normed, weights, model.hidden, columns, qkv.data() + start + columns.first, qkv_row);
      start += width;
    }
    for (int64_t row = 0; row < tokens.count; row++)
      for (int64_t head = own.first / size; head < own.last / size; head++)
        finish_head(layer, row, head, qkv.data() + row * qkv_row + head * size);
    barrier.wait(omp_get_num_threads());
  }

  // head: of q, then of k, then of v
  void finish_head(int64_t layer, int64_t row, int64_t head, float* values) const {
    const int64_t size = model.head_dim, position = tokens.positions[row], slot = tokens.slots[row];
    const int64_t key_head = head - model.heads, value_head = key_head - model.key_heads;
    if (value_head >= 0) {
      Stored* value = this->values(layer, slot, value_head) + position * value_row;
      for (int64_t c = 0; c < size; c++) value[c] = Format::put(values[c]);
      return;
    }
    rotate(position, values);
    if (key_head >= 0) {
      Stored* key = keys(layer, slot, key_head) + position / KEYS * KEYS * size + position % KEYS;
      for (int64_t c = 0; c < size; c++) key[c * KEYS] = Format::put(values[c]);
      return;
    }
    const float scale = 1.0f / std::sqrt(static_cast<float>(size));
    for (int64_t c = 0; c < size; c++) values[c] = rounded<Format>(values[c] * scale);
  }

  // Rotates the pairs (x[j], x[j + head_dim / 2]) of a head.
  void rotate(int64_t position, float* x) const {
    const int64_t size = model.head_dim, half = size / 2;
    const float *cos = model.cos + position * size, *sin = model.sin + position * size;
    for (int64_t j = 0; j < half; j++) {
      const float first = x[j], second = x[j + half];
      x[j] = rounded<Format>(first * cos[j] - second * sin[j]);
      x[j + half] = rounded<Format>(second * cos[j + half] + first * sin[j + half]);
    }
  }

  // A slot's and key head's part of the caches.
  Stored* keys(int64_t layer, int64_t slot, int64_t head) const {
    const int64_t number = (layer * model.slots + slot) * model.key_heads + head;
    return static_cast<Stored*>(model.keys) + number * model.capacity * model.head_dim;
  }
  Stored* values(int64_t layer, int64_t slot, int64_t head) const {
    const int64_t number = (layer * model.slots + slot) * model.key_heads + head;
    return static_cast<Stored*>(model.values) + number * model.capacity * value_row;
  }

  void attention(int64_t layer) {
    const int64_t size = model.head_dim, group = model.heads / model.key_heads, tasks = queries.size() * model.heads;
    std::vector<float> scores, out(QUERIES * value_row);
    for (int64_t task = omp_get_thread_num(); task < tasks; task += omp_get_num_threads()) {
      const QueryBlock block = queries[task / model.heads];
      const int64_t head = task % model.heads, position = tokens.positions[block.row], slot = tokens.slots[block.row];
      scores.resize(std::max<size_t>(scores.size(), block.count * rounded_up(position + block.count, KEYS)));
      attend<Format>(block.count, position, size, {qkv.data() + block.row * qkv_row + head * size, qkv_row, 1},
                     keys(layer, slot, head / group), values(layer, slot, head / group), scores.data(), out.data());
      for (int i = 0; i < block.count; i++)
        attended.set(block.row + i, head * size, (head + 1) * size, out.data() + i * value_row);
    }
    barrier.wait(omp_get_num_threads());
  }

  // x += inputs weights^T
  void add_to_x(const Inputs<Format>& inputs, const void* weights, int64_t depth) {
    for_columns(model.hidden, [&](Range columns) {
      const int64_t width = columns.size();
      std::vector<float> products(tokens.count * width);
      project(inputs, weights, depth, columns, products.data(), width);
      for (int64_t i = 0; i < tokens.count; i++) {
        float* row = x.data() + i * model.hidden + columns.first;
        for (int64_t c = 0; c < width; c++) row[c] = rounded<Format>(row[c] + products[i * width + c]);
      }
    });
    barrier.wait(omp_get_num_threads());
  }

  // activated = silu(gate) up
  void swiglu(const Inputs<Format>& normed, const Block& block) {
    for_columns(model.intermediate, [&](Range columns) {
      const int64_t width = columns.size();
      std::vector<float> gate(tokens.count * width), up(tokens.count * width);
      project(normed, block.gate, model.hidden, columns, gate.data(), width);
      project(normed, block.up, model.hidden, columns, up.data(), width);
      for (int64_t i = 0; i < tokens.count; i++) {
        float *row = gate.data() + i * width, *factors = up.data() + i * width;
        for (int64_t c = 0; c < width; c++) row[c] *= sigmoid(row[c]) * factors[c];
        activated.set(i, columns.first, columns.last, row);
      }
    });
    barrier.wait(omp_get_num_threads());
  }

  const Decoder& model;
  const Tokens& tokens;
  const std::vector<QueryBlock> queries;
  const int64_t q_size, kv_size, qkv_row, value_row;
  const bool many;
  std::vector<float> x, qkv;  // [count, …], values of the format
  Inputs<Format> shared, attended, activated;
  Barrier barrier;
};

}  // namespace

extern "C" void decode_fp32(const Decoder* model, const Tokens* tokens) { Forward<Float32>(*model, *tokens).run(); }
extern "C" void decode_bf16(const Decoder* model, const Tokens* tokens) { Forward<Bfloat16>(*model, *tokens).run(); }
extern "C" void decode_fp16(const Decoder* model, const Tokens* tokens) { Forward<Float16>(*model, *tokens).run(); }
