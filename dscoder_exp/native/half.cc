// What MindSpore 2.10's CPU operators lack in bf16, or do on one thread: sums, other shapes, rows of tables, conversions.
#include <algorithm>
#include <cstring>

#include "kernel.h"

namespace {

constexpr int64_t CHUNK = 1 << 14;  // elements that a thread takes at a time

// Calls compute(first, last) for the parts of `count` elements, on all threads.
template <typename Compute>
void in_chunks(int64_t count, const Compute& compute) {
#pragma omp parallel for if (count > CHUNK)
  for (int64_t first = 0; first < count; first += CHUNK) compute(first, std::min(first + CHUNK, count));
}

int64_t elements(const int64_t* matrix) { return matrix[0] * matrix[1]; }

// x, y [N, n] -> x + y
template <typename Format>
int add(void** params, int64_t** shapes) {
  using Stored = typename Format::Stored;
  auto *x = input<Stored>(params, 0), *y = input<Stored>(params, 1);
  auto* sum = output<Stored>(params, 2);
  in_chunks(elements(shapes[0]), [=](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; i++) sum[i] = Format::put(Format::get(x[i]) + Format::get(y[i]));
  });
  return 0;
}

// x, y [N, n], fp32 scale [1] -> x + scale y; scale y is rounded first
template <typename Format>
int add_scaled(void** params, int64_t** shapes) {
  using Stored = typename Format::Stored;
  auto *x = input<Stored>(params, 0), *y = input<Stored>(params, 1);
  const float scale = *input<float>(params, 2);
  auto* sum = output<Stored>(params, 3);
  in_chunks(elements(shapes[0]), [=](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; i++)
      sum[i] = Format::put(Format::get(x[i]) + rounded<Format>(Format::get(y[i]) * scale));
  });
  return 0;
}

template <typename Format>
int copy(const void* from, void* to, int64_t count) {
  memcpy(to, from, count * sizeof(typename Format::Stored));
  return 0;
}

// x [N, n d], cos [B, T, 1, d] -> [B, T, n, d]
template <typename Format>
int split_heads(void** params, int64_t** shapes) {
  return copy<Format>(params[0], params[2], elements(shapes[0]));
}

// x [B, T, n, d] -> [N, n d]
template <typename Format>
int join_heads(void** params, int64_t** shapes) {
  return copy<Format>(params[0], params[1], elements(shapes[1]));
}

// table [V, H], int32 ids [C] -> its rows [C, H]
template <typename Format>
int take_rows(void** params, int64_t** shapes) {
  using Stored = typename Format::Stored;
  auto* table = input<Stored>(params, 0);
  auto* ids = input<int32_t>(params, 1);
  auto* rows = output<Stored>(params, 2);
  const int64_t count = shapes[1][0], size = shapes[0][1];
  for (int64_t i = 0; i < count; i++) copy<Format>(table + ids[i] * size, rows + i * size, size);
  return 0;
}

// table [V, H], int32 ids [C], x [C, H]: adds x to these rows, in place -> int32 [1], not set. One thread, since a row
// may occur several times.
template <typename Format>
int add_rows(void** params, int64_t** shapes) {
  using Stored = typename Format::Stored;
  auto* table = static_cast<Stored*>(params[0]);
  auto* ids = input<int32_t>(params, 1);
  auto* x = input<Stored>(params, 2);
  const int64_t count = shapes[1][0], size = shapes[0][1];
  for (int64_t i = 0; i < count; i++) {
    Stored* row = table + ids[i] * size;
    for (int64_t c = 0; c < size; c++) row[c] = Format::put(Format::get(row[c]) + Format::get(x[i * size + c]));
  }
  return 0;
}

// x [N, n] -> fp32 [N, n]
template <typename Format>
int widen(void** params, int64_t** shapes) {
  auto* x = input<typename Format::Stored>(params, 0);
  auto* y = output<float>(params, 1);
  in_chunks(elements(shapes[0]), [=](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; i++) y[i] = Format::get(x[i]);
  });
  return 0;
}

// fp32 x [n] -> the format's [n]
template <typename Format>
void narrow(int64_t count, const float* x, typename Format::Stored* y) {
  in_chunks(count, [=](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; i++) y[i] = Format::put(x[i]);
  });
}

// fp32 x [N, n] -> [N, n]
template <typename Format>
int narrow(void** params, int64_t** shapes) {
  narrow<Format>(elements(shapes[0]), input<float>(params, 0), output<typename Format::Stored>(params, 1));
  return 0;
}

}  // namespace

KERNELS(add)
KERNELS(add_scaled)
KERNELS(split_heads)
KERNELS(join_heads)
KERNELS(take_rows)
KERNELS(add_rows)
KERNELS(widen)
KERNELS(narrow)

// Called by model/masters.py: rounds fp32 weights to those that the model computes with.
extern "C" void round_to_bf16(int64_t count, const float* x, uint16_t* y) { narrow<Bfloat16>(count, x, y); }
extern "C" void round_to_fp16(int64_t count, const float* x, uint16_t* y) { narrow<Float16>(count, x, y); }
