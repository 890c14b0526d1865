// A block's operations beside matrix products and attention, each in one pass over its arrays.
#include <algorithm>
#include <cmath>
#include <vector>

#include "exponential.h"
#include "kernel.h"

namespace {
constexpr int64_t SERIAL = 1 << 14;  // up to this many elements one thread is faster than starting the others
constexpr int64_t PART = 64;  // rows in a partial sum of a weight's gradient: the order doesn't depend on the threads
}  // namespace

// x [N, H], weight [H], eps [1] -> y [N, H], rstd [N, 1]
KERNEL(rms_norm) {
  auto *x = input<float>(params, 0), *weight = input<float>(params, 1);
  const float eps = *input<float>(params, 2);
  float *y = output(params, 3), *rstd = output(params, 4);
  const int64_t rows = shapes[0][0], size = shapes[0][1];
#pragma omp parallel for if (rows * size > SERIAL)
  for (int64_t i = 0; i < rows; i++) {
    const float* row = x + i * size;
    float squares = 0;
    for (int64_t c = 0; c < size; c++) squares += row[c] * row[c];
    rstd[i] = 1.0f / std::sqrt(squares / size + eps);
    for (int64_t c = 0; c < size; c++) y[i * size + c] = row[c] * rstd[i] * weight[c];
  }
  return 0;
}

// dy, x [N, H], rstd [N, 1], weight [H] -> dx [N, H], dweight [H]. With n = x rstd:
// dx = rstd (dy weight - n mean(dy weight n)), dweight = sum(dy n).
KERNEL(rms_norm_backward) {
  auto *dy = input<float>(params, 0), *x = input<float>(params, 1);
  auto *rstd = input<float>(params, 2), *weight = input<float>(params, 3);
  float *dx = output(params, 4), *dweight = output(params, 5);
  const int64_t rows = shapes[1][0], size = shapes[1][1], parts = (rows + PART - 1) / PART;
  std::vector<float> sums(parts * size);
#pragma omp parallel
  {
#pragma omp for
    for (int64_t part = 0; part < parts; part++)
      for (int64_t i = part * PART; i < std::min(rows, (part + 1) * PART); i++) {
        const float *row = x + i * size, *drow = dy + i * size;
        float dot = 0;  // sum(dy weight x), then times rstd^2 / H
        for (int64_t c = 0; c < size; c++) dot += drow[c] * weight[c] * row[c];
        dot *= rstd[i] * rstd[i] / size;
        for (int64_t c = 0; c < size; c++) {
          dx[i * size + c] = rstd[i] * (drow[c] * weight[c] - row[c] * dot);
          sums[part * size + c] += drow[c] * row[c] * rstd[i];
        }
      }
#pragma omp for
    for (int64_t c = 0; c < size; c++) {
      float sum = 0;
      for (int64_t part = 0; part < parts; part++) sum += sums[part * size + c];
      dweight[c] = sum;
    }
  }
  return 0;
}

// x [B, T, n, d], cos, sin [B, T, 1, d] -> [B, T, n, d]. Rotates the pairs (x[j], x[j + d / 2]) of each head.
KERNEL(rotate) {
  auto *x = input<float>(params, 0), *cosines = input<float>(params, 1), *sines = input<float>(params, 2);
  float* y = output(params, 3);
  const int64_t positions = shapes[0][0] * shapes[0][1], heads = shapes[0][2], size = shapes[0][3], half = size / 2;
#pragma omp parallel for if (positions * heads * size > SERIAL)
  for (int64_t i = 0; i < positions; i++) {
    const float *c = cosines + i * size, *s = sines + i * size;
    for (int64_t head = i * heads; head < (i + 1) * heads; head++) {
      const float *first = x + head * size, *second = first + half;
      for (int64_t j = 0; j < half; j++) {
        y[head * size + j] = first[j] * c[j] - second[j] * s[j];
        y[head * size + half + j] = second[j] * c[half + j] + first[j] * s[half + j];
      }
    }
  }
  return 0;
}

// gate, up [N, F] -> silu(gate) up
KERNEL(swiglu) {
  auto *gate = input<float>(params, 0), *up = input<float>(params, 1);
  float* y = output(params, 2);
  const int64_t elements = shapes[0][0] * shapes[0][1];
#pragma omp parallel for if (elements > SERIAL)
  for (int64_t i = 0; i < elements; i++) y[i] = gate[i] * sigmoid(gate[i]) * up[i];
  return 0;
}

// dy, gate, up [N, F] -> dgate, dup, silu(gate) up
KERNEL(swiglu_backward) {
  auto *dy = input<float>(params, 0), *gate = input<float>(params, 1), *up = input<float>(params, 2);
  float *dgate = output(params, 3), *dup = output(params, 4), *y = output(params, 5);
  const int64_t elements = shapes[0][0] * shapes[0][1];
#pragma omp parallel for if (elements > SERIAL)
  for (int64_t i = 0; i < elements; i++) {
    const float s = sigmoid(gate[i]), silu = gate[i] * s;
    dgate[i] = dy[i] * up[i] * (s + silu - silu * s);
    dup[i] = dy[i] * silu;
    y[i] = silu * up[i];
  }
  return 0;
}
