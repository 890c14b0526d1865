// Causal attention within documents, a tile of BLOCK queries and keys at a time, so that no [T, T] array exists.
// Source: FlashAttention-2 (Dao 2023, arXiv:2307.08691). Scores are exponents of 2: q is also multiplied with log2(e).
#include <algorithm>
#include <cmath>
#include <type_traits>
#include <vector>

#include "exponential.h"
#include "kernel.h"
#include "matrix.h"

namespace {

constexpr int BLOCK = 64;
constexpr float MASKED = -1e30f;  // score of a masked key; finite, since inf - inf would be NaN

// Positions [first, last) that attend to no position outside. Most spans are one document. Documents that aren't
// contiguous share a span, which is mixed: a query's and a key's documents have to be compared.
struct Span {
  int64_t first, last;
  bool mixed;
};

// starts[i]: the first position of the span that position i belongs to, -1 for padding, which belongs to none.
std::vector<Span> spans_of(const int32_t* starts, const int32_t* documents, int64_t positions) {
  std::vector<Span> spans;
  for (int64_t i = 0; i < positions; i++) {
    if (starts[i] < 0) continue;
    if (starts[i] == i) spans.push_back({i, i, false});
    spans.back().last = i + 1;
    spans.back().mixed |= documents[i] != documents[starts[i]];
  }
  return spans;
}

// At most BLOCK queries of consecutive positions, from `position` on: rows [row, row + count) of q. Row i of k and v is
// position i.
struct Queries {
  int64_t position, row;
  int count;
};

// rows[i]: position i's row in q, -1 where another context rank has its query.
std::vector<Queries> queries_of(const Span& span, const int32_t* rows) {
  std::vector<Queries> found;
  for (int64_t i = span.first; i < span.last; i++) {
    if (rows[i] < 0) continue;
    if (found.empty() || found.back().count == BLOCK || found.back().position + found.back().count != i ||
        found.back().row + found.back().count != rows[i])
      found.push_back({i, rows[i], 0});
    found.back().count++;
  }
  return found;
}

struct Shape {
  int64_t positions, rows, heads, key_heads, size;

  Shape(const int64_t* q, const int64_t* k)
      : positions(k[0] * k[1]), rows(q[0] * q[1]), heads(q[2]), key_heads(k[2]), size(q[3]) {}
  int64_t query(int64_t row, int64_t head) const { return (row * heads + head) * size; }
  int64_t key(int64_t position, int64_t head) const {
    return (position * key_heads + head / (heads / key_heads)) * size;
  }
  int64_t query_row() const { return heads * size; }
  int64_t key_row() const { return key_heads * size; }
};

// x [rows, size] -> factor x^T [size, BLOCK], with zeros in the columns from `rows` on.
void transpose(int rows, int64_t size, Right x, float factor, float* out) {
  for (int64_t j = 0; j < size; j++)
    for (int i = 0; i < BLOCK; i++) out[j * BLOCK + i] = i < rows ? x.start[i * x.row + j] * factor : 0.0f;
}

// At most BLOCK rows of one head as fp32: a view of them, or in other formats a converted copy.
template <typename Format>
class Rows {
  std::vector<float> copy;

 public:
  explicit Rows(int64_t size) : copy(std::is_same_v<Format, Float32> ? 0 : BLOCK * size) {}

  Right of(const typename Format::Stored* x, int rows, int64_t row, int64_t size) {
    if constexpr (std::is_same_v<Format, Float32>) return {x, row};
    for (int i = 0; i < rows; i++)
      for (int64_t c = 0; c < size; c++) copy[i * size + c] = Format::get(x[i * row + c]);
    return {copy.data(), size};
  }
};

// Rounds what enters the inner products.
template <typename Format>
void round_all(int64_t count, float* x) {
  if constexpr (!std::is_same_v<Format, Float32>)
    for (int64_t i = 0; i < count; i++) x[i] = rounded<Format>(x[i]);
}

// The scores [keys, BLOCK] of a block of queries and at most BLOCK keys, from position `key` on.
struct Tile {
  int64_t query, key;  // positions
  int rows, keys;
  const int32_t* documents;  // null where the span is one document

  Tile(const Span& span, const Queries& queries, int64_t key, const int32_t* documents)
      : query(queries.position),
        key(key),
        rows(queries.count),
        keys(std::min<int64_t>(BLOCK, query + rows - key)),
        documents(span.mixed ? documents : nullptr) {}

  bool visible(int i, int j) const {
    return key + j <= query + i && (!documents || documents[key + j] == documents[query + std::min(i, rows - 1)]);
  }

  // scores = k [keys, size] queries [size, BLOCK], and MASKED where a query may not attend to the key
  void score(int64_t size, Left k, const float* queries, float* scores) const {
    std::fill_n(scores, keys * BLOCK, 0.0f);
    add_product(keys, BLOCK, size, k, {queries, BLOCK}, {scores, BLOCK});
    if (!documents && key + keys <= query + 1) return;
    for (int j = 0; j < keys; j++)
      for (int i = 0; i < BLOCK; i++)
        if (!visible(i, j)) scores[j * BLOCK + i] = MASKED;
  }
};

// Online softmax of BLOCK queries whose scores come a tile at a time.
struct Softmax {
  float highest[BLOCK], sum[BLOCK], rescale[BLOCK];

  Softmax() {
    std::fill_n(highest, BLOCK, MASKED);
    std::fill_n(sum, BLOCK, 0.0f);
  }

  // Replaces scores by 2^(score - highest). The caller multiplies its sums over earlier tiles with `rescale`.
  void update(int keys, float* scores) {
    std::copy_n(highest, BLOCK, rescale);
    for (int j = 0; j < keys; j++)
      for (int i = 0; i < BLOCK; i++) highest[i] = std::max(highest[i], scores[j * BLOCK + i]);
    for (int i = 0; i < BLOCK; i++) {
      rescale[i] = power_of_2(rescale[i] - highest[i]);
      sum[i] *= rescale[i];
    }
    for (int j = 0; j < keys; j++)
      for (int i = 0; i < BLOCK; i++) {
        scores[j * BLOCK + i] = power_of_2(scores[j * BLOCK + i] - highest[i]);
        sum[i] += scores[j * BLOCK + i];
      }
  }
};

// q [B, R, h, d], k, v [B, T, k, d], int32 [3, B, T]: starts, documents and rows; a context rank has R < T queries
// -> out [N, h d], fp32 log2 of each query's sum of 2^score [B, R, h]
template <typename Format>
int attention(void** params, int64_t** shapes) {
  using Stored = typename Format::Stored;
  auto *q = input<Stored>(params, 0), *k = input<Stored>(params, 1), *v = input<Stored>(params, 2);
  auto* out = output<Stored>(params, 4);
  auto* sums = output<float>(params, 5);
  const Shape shape(shapes[0], shapes[1]);
  auto *starts = input<int32_t>(params, 3), *documents = starts + shape.positions, *rows = documents + shape.positions;
  const int64_t size = shape.size;
  const float scale = LOG2_E / std::sqrt(static_cast<float>(size));
  struct Task {
    Span span;
    Queries queries;
  };
  std::vector<Task> tasks;
  for (const Span& span : spans_of(starts, documents, shape.positions))
    for (const Queries& queries : queries_of(span, rows)) tasks.push_back({span, queries});
  for (int64_t i = 0; i < shape.positions; i++)
    if (starts[i] < 0 && rows[i] >= 0) {
      std::fill_n(out + shape.query(rows[i], 0), shape.query_row(), Stored{});
      std::fill_n(sums + rows[i] * shape.heads, shape.heads, 0.0f);
    }
#pragma omp parallel
  {
    std::vector<float> queries(size * BLOCK), scores(BLOCK * BLOCK), total(BLOCK * size);
    Rows<Format> q_rows(size), k_rows(size), v_rows(size);
#pragma omp for schedule(dynamic)
    for (int64_t number = tasks.size() * shape.heads - 1; number >= 0; number--) {  // longest tasks first
      const auto [span, block] = tasks[number / shape.heads];
      const int64_t head = number % shape.heads;
      const Right own = q_rows.of(q + shape.query(block.row, head), block.count, shape.query_row(), size);
      transpose(block.count, size, own, scale, queries.data());
      Softmax softmax;
      std::fill(total.begin(), total.end(), 0.0f);
      for (int64_t key = span.first; key < block.position + block.count; key += BLOCK) {
        const Tile tile(span, block, key, documents);
        const Right keys = k_rows.of(k + shape.key(key, head), tile.keys, shape.key_row(), size);
        tile.score(size, {keys.start, keys.row, 1}, queries.data(), scores.data());
        softmax.update(tile.keys, scores.data());
        round_all<Format>(tile.keys * BLOCK, scores.data());
        for (int i = 0; i < block.count; i++)
          for (int64_t c = 0; c < size; c++) total[i * size + c] *= softmax.rescale[i];
        add_product(block.count, size, tile.keys, {scores.data(), 1, BLOCK},
                    v_rows.of(v + shape.key(key, head), tile.keys, shape.key_row(), size), {total.data(), size});
      }
      for (int i = 0; i < block.count; i++) {
        Stored* row = out + shape.query(block.row + i, head);
        for (int64_t c = 0; c < size; c++) row[c] = Format::put(total[i * size + c] / softmax.sum[i]);
        sums[(block.row + i) * shape.heads + head] = softmax.highest[i] + std::log2(softmax.sum[i]);
      }
    }
  }
  return 0;
}

// dout, out [N, h d]; q, k, v and int32 [3, B, T] as above; sums: the second output of `attention`
// -> dq [B, R, h, d], dk, dv [B, T, k, d]
template <typename Format>
int attention_backward(void** params, int64_t** shapes) {
  using Stored = typename Format::Stored;
  auto *dout = input<Stored>(params, 0), *out = input<Stored>(params, 1);
  auto *q = input<Stored>(params, 2), *k = input<Stored>(params, 3), *v = input<Stored>(params, 4);
  auto* sums = input<float>(params, 6);
  auto *dq = output<Stored>(params, 7), *dk = output<Stored>(params, 8), *dv = output<Stored>(params, 9);
  const Shape shape(shapes[2], shapes[3]);
  auto *starts = input<int32_t>(params, 5), *documents = starts + shape.positions, *rows = documents + shape.positions;
  const int64_t size = shape.size, row = shape.query_row(), key_row = shape.key_row();
  const float scale = 1.0f / std::sqrt(static_cast<float>(size));
  const auto spans = spans_of(starts, documents, shape.positions);
  const int64_t tasks = spans.size() * shape.heads;
  // Each query head has its own sums, so that no two threads write to one and the order of addition is always the same.
  std::vector<float> own_dk(shape.positions * row), own_dv(shape.positions * row);
  std::fill_n(dq, shape.rows * row, Stored{});
#pragma omp parallel
  {
    std::vector<float> queries(size * BLOCK), douts(size * BLOCK), p(BLOCK * BLOCK), ds(BLOCK * BLOCK);
    std::vector<float> own_dq(BLOCK * size);
    Rows<Format> q_rows(size), k_rows(size), v_rows(size), dout_rows(size), out_rows(size);
#pragma omp for schedule(dynamic)
    for (int64_t number = 0; number < tasks; number++) {
      const Span span = spans[number / shape.heads];
      const int64_t head = number % shape.heads;
      for (const Queries& block : queries_of(span, rows)) {
        const int64_t first = shape.query(block.row, head);
        const Right own_q = q_rows.of(q + first, block.count, row, size);
        const Right own_dout = dout_rows.of(dout + first, block.count, row, size);
        const Right own_out = out_rows.of(out + first, block.count, row, size);
        transpose(block.count, size, own_q, scale * LOG2_E, queries.data());
        transpose(block.count, size, own_dout, 1.0f, douts.data());
        float sum[BLOCK] = {}, delta[BLOCK] = {};  // sum(p dp) = sum(dout out), over the head's few dimensions
        for (int i = 0; i < block.count; i++) {
          sum[i] = sums[(block.row + i) * shape.heads + head];
          for (int64_t c = 0; c < size; c++)
            delta[i] += own_dout.start[i * own_dout.row + c] * own_out.start[i * own_out.row + c];
        }
        std::fill(own_dq.begin(), own_dq.end(), 0.0f);
        for (int64_t key = span.first; key < block.position + block.count; key += BLOCK) {
          const Tile tile(span, block, key, documents);
          const int keys = tile.keys;
          const Right own_k = k_rows.of(k + shape.key(key, head), keys, key_row, size);
          const Right own_v = v_rows.of(v + shape.key(key, head), keys, key_row, size);
          tile.score(size, {own_k.start, own_k.row, 1}, queries.data(), p.data());
          std::fill(ds.begin(), ds.end(), 0.0f);
          add_product(keys, BLOCK, size, {own_v.start, own_v.row, 1}, {douts.data(), BLOCK}, {ds.data(), BLOCK});
          for (int j = 0; j < keys; j++)
            for (int i = 0; i < BLOCK; i++) {
              p[j * BLOCK + i] = power_of_2(p[j * BLOCK + i] - sum[i]);
              ds[j * BLOCK + i] = p[j * BLOCK + i] * (ds[j * BLOCK + i] - delta[i]) * scale;
            }
          round_all<Format>(keys * BLOCK, p.data());
          round_all<Format>(keys * BLOCK, ds.data());
          const int64_t own = shape.query(key, head);
          add_product(keys, size, block.count, {p.data(), BLOCK, 1}, own_dout, {own_dv.data() + own, row});
          add_product(keys, size, block.count, {ds.data(), BLOCK, 1}, own_q, {own_dk.data() + own, row});
          add_product(block.count, size, keys, {ds.data(), 1, BLOCK}, own_k, {own_dq.data(), size});
        }
        for (int i = 0; i < block.count; i++)
          for (int64_t c = 0; c < size; c++) dq[first + i * row + c] = Format::put(own_dq[i * size + c]);
      }
    }
    const int64_t group = shape.heads / shape.key_heads;
#pragma omp for schedule(static)
    for (int64_t i = 0; i < shape.positions * shape.key_heads; i++)
      for (int64_t c = 0; c < size; c++) {
        float sum_dk = 0, sum_dv = 0;
        for (int64_t g = 0; g < group; g++) {
          sum_dk += own_dk[(i * group + g) * size + c];
          sum_dv += own_dv[(i * group + g) * size + c];
        }
        dk[i * size + c] = Format::put(sum_dk);
        dv[i * size + c] = Format::put(sum_dv);
      }
  }
  return 0;
}

}  // namespace

KERNELS(attention)
KERNELS(attention_backward)
