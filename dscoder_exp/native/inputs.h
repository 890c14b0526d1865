// What the matrices of a call's tokens are multiplied with: a row for each token, rounded to the model's format.
#pragma once
#include "gemm.h"

constexpr int64_t MANY = 64;  // rows from which on gemm.h is faster than stream.h, though it copies the matrix first

// Rows [count, depth], in the layout of one of the two products; both give the same results.
template <typename Format>
class Inputs {
  using Stored = typename Format::Stored;
  using Input = typename Format::Input;
  const int64_t count, depth, row;
  CacheLines<Input> rows;
  PackedRows<Format> packed;

 public:
  Inputs(int64_t count, int64_t depth)
      : count(count),
        depth(depth),
        row(rounded_up(depth * sizeof(Input), CACHE_LINE) / sizeof(Input)),
        rows(count < MANY ? count * row : 0),
        packed(count < MANY ? 0 : count, depth) {}

  // Rounds values to the columns [first, last) of row i.
  void set(int64_t i, int64_t first, int64_t last, const float* values) {
    if (count >= MANY) return packed.set(i, first, last, values);
    Input* out = rows.data() + i * row;
    for (int64_t c = first; c < last; c++) out[c] = Format::input(rounded<Format>(values[c - first]));
  }

  // y [count, outputs], its rows y_row apart, = these rows times weights [outputs, depth]^T, rounded
  void multiply_by(const Stored* weights, int64_t outputs, float* y, int64_t y_row) const {
    if (count >= MANY) multiply(packed, outputs, weights, y, y_row);
    else multiply(count, outputs, Factors<Format>{weights, rows.data(), depth, row}, y, y_row);
    for (int64_t i = 0; i < count; i++)
      for (int64_t c = i * y_row; c < i * y_row + outputs; c++) y[c] = rounded<Format>(y[c]);
  }
};
