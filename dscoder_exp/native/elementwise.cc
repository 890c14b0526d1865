// A block's operations beside matrix products and attention, each in one pass over its arrays.
#include <algorithm>
#include <cmath>
#include <vector>

#include "exponential.h"
#include "kernel.h"

namespace {

constexpr int64_t SERIAL = 1 << 14;  // up to this many elements one thread is faster than starting the others
constexpr int64_t PART = 64;  // rows in a partial sum of a weight's gradient: the order doesn't depend on the threads

// x [N, H], weight [H], fp32 eps [1] -> y [N, H], fp32 rstd [N, 1]
template <typename Format>
int rms_norm(void** params, int64_t** shapes) {
  using Stored = typename Format::Stored;
  auto *x = input<Stored>(params, 0), *weight = input<Stored>(params, 1);
  const float eps = *input<float>(params, 2);
  auto* y = output<Stored>(params, 3);
  auto* rstd = output<float>(params, 4);
  const int64_t rows = shapes[0][0], size = shapes[0][1];
#pragma omp parallel for if (rows * size > SERIAL)
  for (int64_t i = 0; i < rows; i++) {
    const Stored* row = x + i * size;
    float squares = 0;
    for (int64_t c = 0; c < size; c++) squares += Format::get(row[c]) * Format::get(row[c]);
    rstd[i] = 1.0f / std::sqrt(squares / size + eps);
    for (int64_t c = 0; c < size; c++)
      y[i * size + c] = Format::put(Format::get(row[c]) * rstd[i] * Format::get(weight[c]));
  }
  return 0;
}

// dy, x [N, H], fp32 rstd [N, 1], weight [H] -> dx [N, H], fp32 dweight [H]. With n = x rstd:
// dx = rstd (dy weight - n mean(dy weight n)), dweight = sum(dy n).
template <typename Format>
int rms_norm_backward(void** params, int64_t** shapes) {
  using Stored = typename Format::Stored;
  auto *dy = input<Stored>(params, 0), *x = input<Stored>(params, 1), *weight = input<Stored>(params, 3);
  auto* rstd = input<float>(params, 2);
  auto* dx = output<Stored>(params, 4);
  auto* dweight = output<float>(params, 5);
  const int64_t rows = shapes[1][0], size = shapes[1][1], parts = (rows + PART - 1) / PART;
  std::vector<float> sums(parts * size);
#pragma omp parallel
  {
#pragma omp for
    for (int64_t part = 0; part < parts; part++)
      for (int64_t i = part * PART; i < std::min(rows, (part + 1) * PART); i++) {
        const Stored *row = x + i * size, *drow = dy + i * size;
        float dot = 0;  // sum(dy weight x), then times rstd^2 / H
        for (int64_t c = 0; c < size; c++)
          dot += Format::get(drow[c]) * Format::get(weight[c]) * Format::get(row[c]);
        dot *= rstd[i] * rstd[i] / size;
        for (int64_t c = 0; c < size; c++) {
          const float value = Format::get(row[c]), dvalue = Format::get(drow[c]);
          dx[i * size + c] = Format::put(rstd[i] * (dvalue * Format::get(weight[c]) - value * dot));
          sums[part * size + c] += dvalue * value * rstd[i];
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

// x [B, T, n, d], fp32 cos, sin [B, T, 1, d] -> [B, T, n, d]. Rotates the pairs (x[j], x[j + d / 2]) of each head.
template <typename Format>
int rotate(void** params, int64_t** shapes) {
  using Stored = typename Format::Stored;
  auto* x = input<Stored>(params, 0);
  auto *cosines = input<float>(params, 1), *sines = input<float>(params, 2);
  auto* y = output<Stored>(params, 3);
  const int64_t positions = shapes[0][0] * shapes[0][1], heads = shapes[0][2], size = shapes[0][3], half = size / 2;
#pragma omp parallel for if (positions * heads * size > SERIAL)
  for (int64_t i = 0; i < positions; i++) {
    const float *c = cosines + i * size, *s = sines + i * size;
    for (int64_t head = i * heads; head < (i + 1) * heads; head++) {
      const Stored *first = x + head * size, *second = first + half;
      for (int64_t j = 0; j < half; j++) {
        const float one = Format::get(first[j]), two = Format::get(second[j]);
        y[head * size + j] = Format::put(one * c[j] - two * s[j]);
        y[head * size + half + j] = Format::put(two * c[half + j] + one * s[half + j]);
      }
    }
  }
  return 0;
}

// gate, up [N, F] -> silu(gate) up
template <typename Format>
int swiglu(void** params, int64_t** shapes) {
  using Stored = typename Format::Stored;
  auto *gates = input<Stored>(params, 0), *ups = input<Stored>(params, 1);
  auto* y = output<Stored>(params, 2);
  const int64_t elements = shapes[0][0] * shapes[0][1];
#pragma omp parallel for simd if (parallel : elements > SERIAL)
  for (int64_t i = 0; i < elements; i++) {
    const float gate = Format::get(gates[i]);
    y[i] = Format::put(gate * sigmoid(gate) * Format::get(ups[i]));
  }
  return 0;
}

// dy, gate, up [N, F] -> dgate, dup, silu(gate) up
template <typename Format>
int swiglu_backward(void** params, int64_t** shapes) {
  using Stored = typename Format::Stored;
  auto *dys = input<Stored>(params, 0), *gates = input<Stored>(params, 1), *ups = input<Stored>(params, 2);
  auto *dgate = output<Stored>(params, 3), *dup = output<Stored>(params, 4), *y = output<Stored>(params, 5);
  const int64_t elements = shapes[0][0] * shapes[0][1];
#pragma omp parallel for simd if (parallel : elements > SERIAL)
  for (int64_t i = 0; i < elements; i++) {
    const float dy = Format::get(dys[i]), gate = Format::get(gates[i]), up = Format::get(ups[i]);
    const float s = sigmoid(gate), silu = gate * s;
    dgate[i] = Format::put(dy * up * (s + silu - silu * s));
    dup[i] = Format::put(dy * silu);
    y[i] = Format::put(silu * up);
  }
  return 0;
}

}  // namespace

KERNELS(rms_norm)
KERNELS(rms_norm_backward)
KERNELS(rotate)
KERNELS(swiglu)
KERNELS(swiglu_backward)
