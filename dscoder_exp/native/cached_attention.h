// Attention of a head's queries to the keys of one slot, up to each query's own position.
#pragma once
#include <algorithm>
#include <vector>

#include "decoder.h"
#include "exponential.h"
#include "formats.h"

constexpr int QUERIES = 16;  // consecutive positions whose scores are computed together

// Consecutive positions of one slot: rows [row, row + count) of the call's tokens.
struct QueryBlock {
  int64_t row;
  int count;
};

inline std::vector<QueryBlock> query_blocks(const Tokens& tokens) {
  std::vector<QueryBlock> blocks;
  for (int64_t i = 0; i < tokens.count; i++) {
    const bool next = !blocks.empty() && blocks.back().count < QUERIES && tokens.slots[i] == tokens.slots[i - 1] &&
                      tokens.positions[i] == tokens.positions[i - 1] + 1;
    if (!next) blocks.push_back({i, 0});
    blocks.back().count++;
  }
  return blocks;
}

// scores [keys] -> probabilities, rounded; zeros from `keys` up to `padded`
template <typename Format>
void softmax(int64_t keys, int64_t padded, float* scores) {
  float highest = rounded<Format>(scores[0]), sum = 0;
  for (int64_t j = 0; j < keys; j++) highest = std::max(highest, scores[j] = rounded<Format>(scores[j]));
  for (int64_t j = 0; j < keys; j++) sum += scores[j] = power_of_2((scores[j] - highest) * LOG2_E);
  for (int64_t j = 0; j < keys; j++) scores[j] = rounded<Format>(scores[j] / sum);
  std::fill(scores + keys, scores + padded, 0.0f);
}

// q [count, head_dim] with rows q_row apart, already scaled; the first one at `position`. keys, values: of this slot and
// key head. -> out [count, head_dim rounded up]. scores: room for count * (position + count, rounded up) numbers
template <typename Format>
void attend(int count, int64_t position, int64_t size, Left q, const typename Format::Stored* keys,
            const typename Format::Stored* values, float* scores, float* out) {
  const int64_t all = position + count, padded = rounded_up(all, KEYS), row = rounded_up(size, KEYS);
  std::fill_n(scores, count * padded, 0.0f);
  for (int64_t key = 0; key < padded; key += KEYS)
    add_product(count, KEYS, size, q, StoredRight<Format>{keys + key * size, KEYS}, {scores + key, padded});
  for (int i = 0; i < count; i++) softmax<Format>(position + i + 1, padded, scores + i * padded);
  std::fill_n(out, count * row, 0.0f);
  add_product(count, row, all, {scores, padded, 1}, StoredRight<Format>{values, row}, {out, row});
}
