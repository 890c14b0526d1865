// What a block computes beside its matrix products, each in one pass over its arrays.
#include <algorithm>
#include <cmath>
#include <vector>

#include "exponential.h"
#include "kernel.h"

namespace {
constexpr int64_t FEW = 1 << 14;  // elements that one thread has done before others have begun
constexpr int64_t PART = 64;      // rows whose gradients of a weight are summed first: the same whatever the threads
}  // namespace

// x [N, H], weight [H], eps [1] -> y [N, H], rstd [N, 1]
KERNEL(rms_norm) {
  auto *x = input<float>(params, 0), *weight = input<float>(params, 1);
  const float eps = *input<float>(params, 2);
  float *y = output(params, 3), *rstd = output(params, 4);
  const int64_t rows = shapes[0][0], size = shapes[0][1];
#pragma omp parallel for if (rows * size > FEW)
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
        float along = 0;
        for (int64_t c = 0; c < size; c++) along += drow[c] * weight[c] * row[c];
        along *= rstd[i] * rstd[i] / size;
        for (int64_t c = 0; c < size; c++) {
          dx[i * size + c] = rstd[i] * (drow[c] * weight[c] - row[c] * along);
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

// x [B, T, n, d], cos, sin [B, T, 1, d] -> [B, T, n, d]; a head's first and second half turn together.
KERNEL(rotate) {
  auto *x = input<float>(params, 0), *cosines = input<float>(params, 1), *sines = input<float>(params, 2);
  float* y = output(params, 3);
  const int64_t positions = shapes[0][0] * shapes[0][1], heads = shapes[0][2], size = shapes[0][3], half = size / 2;
#pragma omp parallel for if (positions * heads * size > FEW)
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
#pragma omp parallel for if (elements > FEW)
  for (int64_t i = 0; i < elements; i++) y[i] = gate[i] * sigmoid(gate[i]) * up[i];
  return 0;
}

// dy, gate, up [N, F] -> dgate, dup, silu(gate) up
KERNEL(swiglu_backward) {
  auto *dy = input<float>(params, 0), *gate = input<float>(params, 1), *up = input<float>(params, 2);
  float *dgate = output(params, 3), *dup = output(params, 4), *y = output(params, 5);
  const int64_t elements = shapes[0][0] * shapes[0][1];
#pragma omp parallel for if (elements > FEW)
  for (int64_t i = 0; i < elements; i++) {
    const float share = sigmoid(gate[i]), silu = gate[i] * share;
    dgate[i] = dy[i] * up[i] * (share + silu - silu * share);
    dup[i] = dy[i] * silu;
    y[i] = silu * up[i];
  }
  return 0;
}
