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
#include "stream.h"

namespace {

constexpr int64_t COLUMNS = 16;  // threads share columns in multiples of this, a cache line of fp32

struct Range {
  int64_t first, last;
  int64_t size() const { return last - first; }
};

// This thread's part of `total` rows, columns or tasks.
Range share(int64_t total, int64_t unit = 1) {
  const int64_t units = (total + unit - 1) / unit, threads = omp_get_num_threads(), thread = omp_get_thread_num();
  return {std::min(units * thread / threads * unit, total), std::min(units * (thread + 1) / threads * unit, total)};
}

// What a matrix is multiplied with: rows [count, depth], which begin at a cache line and end with zeros up to the next.
template <typename Format>
class Inputs {
  using Input = typename Format::Input;
  struct alignas(CACHE_LINE) Line {
    Input values[CACHE_LINE / sizeof(Input)] = {};
  };
  std::vector<Line> lines;

 public:
  const int64_t depth, row;

  Inputs(int64_t count, int64_t depth)
      : lines(count * rounded_up(depth * sizeof(Input), CACHE_LINE) / CACHE_LINE),
        depth(depth),
        row(rounded_up(depth * sizeof(Input), CACHE_LINE) / sizeof(Input)) {}

  Input* at(int64_t i) { return lines.data()->values + i * row; }

  // Rounds values to the columns `range` of row i.
  void set(int64_t i, Range range, const float* values) {
    Input* out = at(i) + range.first;
    for (int64_t c = 0; c < range.size(); c++) out[c] = Format::input(rounded<Format>(values[c]));
  }
};

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
        x(tokens.count * model.hidden),
        qkv(tokens.count * qkv_row),
        products(tokens.count * model.hidden),
        gate(tokens.count * model.intermediate),
        up(tokens.count * model.intermediate),
        attended(tokens.count, q_size),
        activated(tokens.count, model.intermediate) {}

  void run() {
#pragma omp parallel
    {
      Inputs<Format> normed(tokens.count, model.hidden);  // each thread's own, which costs less than a barrier
      embed();
      for (int64_t layer = 0; layer < model.layers; layer++) {
        const Block& block = model.blocks[layer];
        norm(0, block.input_norm, normed);
        project_qkv(normed, block, layer);
        attention(layer);
        add_to_x(attended, block.o);
        norm(0, block.post_attention_norm, normed);
        swiglu(normed, block);
        add_to_x(activated, block.down);
      }
      const int64_t first = tokens.count - tokens.num_logits;
      norm(first, model.norm, normed);
      project(normed, first, model.head, share(model.vocabulary, COLUMNS), tokens.logits, model.vocabulary);
    }
  }

 private:
  static const Stored* stored(const void* weights) { return static_cast<const Stored*>(weights); }

  // The columns `range` of y = inputs' rows from `first` on times weights^T, rounded; y's rows are y_row apart.
  void project(Inputs<Format>& inputs, int64_t first, const void* weights, Range range, float* y, int64_t y_row) {
    if (range.first >= range.last) return;
    const Stored* rows = stored(weights) + range.first * inputs.depth;
    const Factors<Format> factors{rows, inputs.at(first), inputs.depth, inputs.row};
    multiply<Format>(tokens.count - first, range.size(), factors, y + range.first, y_row);
    for (int64_t i = 0; i < tokens.count - first; i++)
      for (int64_t c = range.first; c < range.last; c++) y[i * y_row + c] = rounded<Format>(y[i * y_row + c]);
  }

  void embed() {
    const Range rows = share(tokens.count);
    for (int64_t i = rows.first; i < rows.last; i++) {
      const Stored* row = stored(model.embedding) + tokens.ids[i] * model.hidden;
      for (int64_t c = 0; c < model.hidden; c++) x[i * model.hidden + c] = Format::get(row[c]);
    }
    barrier.wait(omp_get_num_threads());
  }

  // normed = rms_norm(x), for the rows from `first` on
  void norm(int64_t first, const void* weights, Inputs<Format>& normed) {
    const Stored* weight = stored(weights);
    std::vector<float> values(model.hidden);
    for (int64_t i = first; i < tokens.count; i++) {
      const float* row = x.data() + i * model.hidden;
      float squares = 0;
      for (int64_t c = 0; c < model.hidden; c++) squares += row[c] * row[c];
      const float rstd = 1.0f / std::sqrt(squares / model.hidden + model.eps);
      for (int64_t c = 0; c < model.hidden; c++) values[c] = row[c] * rstd * Format::get(weight[c]);
      normed.set(i, {0, model.hidden}, values.data());
    }
  }

  // q, rotated and multiplied with 1 / sqrt(head_dim); k, rotated, and v go into the caches. Threads share whole heads.
  void project_qkv(Inputs<Format>& normed, const Block& block, int64_t layer) {
    const int64_t size = model.head_dim;
    const Range own = share(qkv_row, size);
    int64_t start = 0;
    for (const auto& [weights, width] : {std::pair(block.q, q_size), {block.k, kv_size}, {block.v, kv_size}}) {
      const Range columns{std::max<int64_t>(own.first - start, 0), std::min(own.last - start, width)};
      project(normed, 0, weights, columns, qkv.data() + start, qkv_row);
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
        attended.set(block.row + i, {head * size, (head + 1) * size}, out.data() + i * value_row);
    }
    barrier.wait(omp_get_num_threads());
  }

  // x += inputs weights^T
  void add_to_x(Inputs<Format>& inputs, const void* weights) {
    const Range columns = share(model.hidden, COLUMNS);
    project(inputs, 0, weights, columns, products.data(), model.hidden);
    for (int64_t i = 0; i < tokens.count; i++)
      for (int64_t c = i * model.hidden + columns.first; c < i * model.hidden + columns.last; c++)
        x[c] = rounded<Format>(x[c] + products[c]);
    barrier.wait(omp_get_num_threads());
  }

  // activated = silu(gate) up
  void swiglu(Inputs<Format>& normed, const Block& block) {
    const int64_t size = model.intermediate;
    const Range columns = share(size, COLUMNS);
    project(normed, 0, block.gate, columns, gate.data(), size);
    project(normed, 0, block.up, columns, up.data(), size);
    for (int64_t i = 0; i < tokens.count; i++) {
      float* row = gate.data() + i * size;
      for (int64_t c = columns.first; c < columns.last; c++) row[c] *= sigmoid(row[c]) * up[i * size + c];
      activated.set(i, columns, row + columns.first);
    }
    barrier.wait(omp_get_num_threads());
  }

  const Decoder& model;
  const Tokens& tokens;
  const std::vector<QueryBlock> queries;
  const int64_t q_size, kv_size, qkv_row, value_row;
  std::vector<float> x, qkv, products, gate, up;  // [count, …], values of the format
  Inputs<Format> attended, activated;
  Barrier barrier;
};

}  // namespace

extern "C" void decode_fp32(const Decoder* model, const Tokens* tokens) { Forward<Float32>(*model, *tokens).run(); }
extern "C" void decode_bf16(const Decoder* model, const Tokens* tokens) { Forward<Bfloat16>(*model, *tokens).run(); }
extern "C" void decode_fp16(const Decoder* model, const Tokens* tokens) { Forward<Float16>(*model, *tokens).run(); }
