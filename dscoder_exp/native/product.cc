// Matrix products by MindSpore's own copy of oneDNN, on OpenMP's threads. On MindSpore's thread pool the thread that
// starts a product only waits for it, and spins beside the ones that compute. Sums are fp32. bf16 is multiplied by
// oneDNN where the CPU can (AVX512_BF16, AMX); elsewhere, and in fp16, factors are converted to fp32.
#include <algorithm>
#include <type_traits>
#include <vector>

#include "kernel.h"
#include "onednn.h"

namespace {

constexpr int64_t PANEL = 4096;  // rows of a weight's gradient that are computed at a time, to be added while in cache

// fp32 c = alpha a b + beta c
int product(const Sizes& s, const float* a, const float* b, float* c, float alpha = 1.0f, float beta = 0.0f) {
  return dnnl_threadpool_interop_sgemm(s.a, s.b, s.rows, s.columns, s.depth, alpha, a, s.a_row, b,
                                       s.b == PLAIN ? s.columns : s.depth, beta, c, s.columns, &threads);
}

template <typename Format>
void convert(int64_t count, const typename Format::Stored* x, float* y) {
#pragma omp parallel for
  for (int64_t i = 0; i < count; i++) y[i] = Format::get(x[i]);
}

template <typename Format>
void round_all(int64_t count, const float* x, typename Format::Stored* y) {
#pragma omp parallel for
  for (int64_t i = 0; i < count; i++) y[i] = Format::put(x[i]);
}

// c = a b in a format, or in fp32
template <typename Format, typename Result = Format>
int product_in(const Sizes& s, const void* a, const void* b, void* c) {
  using Stored = typename Format::Stored;
  auto *left = static_cast<const Stored*>(a), *right = static_cast<const Stored*>(b);
  if constexpr (std::is_same_v<Format, Float32>) return product(s, left, right, static_cast<float*>(c));
#if defined(__AVX512BF16__)
  if constexpr (std::is_same_v<Format, Bfloat16>)
    return bf16_product(s, left, right, c, std::is_same_v<Result, Float32>);
#endif
  const int64_t size_a = s.a_row * ((s.a == PLAIN ? s.rows : s.depth) - 1) + (s.a == PLAIN ? s.depth : s.rows), size_b = s.depth * s.columns, size_c = s.rows * s.columns;
  constexpr bool rounds = !std::is_same_v<Result, Float32>;
  std::vector<float> factors(size_a + size_b + (rounds ? size_c : 0));
  float *wide_a = factors.data(), *wide_b = wide_a + size_a, *sums = wide_b + size_b;
  convert<Format>(size_a, left, wide_a);
  convert<Format>(size_b, right, wide_b);
  if constexpr (!rounds) return product(s, wide_a, wide_b, static_cast<float*>(c));
  if (const int error = product(s, wide_a, wide_b, sums)) return error;
  round_all<Result>(size_c, sums, static_cast<typename Result::Stored*>(c));
  return 0;
}

// x [N, in], weight [out, in] -> [N, out]
template <typename Format>
int linear(void** params, int64_t** shapes) {
  const int64_t rows = shapes[0][0], in = shapes[0][1], out = shapes[1][0];
  return product_in<Format>({rows, out, in, PLAIN, TRANSPOSED}, params[0], params[1], params[2]);
}

// dy [N, out], weight [out, in] -> dx [N, in]
template <typename Format>
int linear_dx(void** params, int64_t** shapes) {
  const int64_t rows = shapes[0][0], out = shapes[0][1], in = shapes[1][1];
  return product_in<Format>({rows, in, out, PLAIN, PLAIN}, params[0], params[1], params[2]);
}

// dy [N, out], x [N, in] -> fp32 dweight [out, in], rounded to the format
template <typename Format>
int linear_dweight(void** params, int64_t** shapes) {
  const int64_t rows = shapes[0][0], out = shapes[0][1], in = shapes[1][1];
  float* dweight = output<float>(params, 2);
  const int error = product_in<Format, Float32>({out, in, rows, TRANSPOSED, PLAIN}, params[0], params[1], dweight);
  if (error || std::is_same_v<Format, Float32>) return error;
#pragma omp parallel for
  for (int64_t i = 0; i < out * in; i++) dweight[i] = rounded<Format>(dweight[i]);
  return 0;
}

// fp32 total [out, in], dy [N, out], x [N, in]: adds dweight, rounded to the format, to total, in place -> int32 [1], not
// set. fp32's, in one product.
template <typename Format>
int add_linear_dweight(void** params, int64_t** shapes) {
  using Stored = typename Format::Stored;
  float* total = output<float>(params, 0);
  auto *dy = input<Stored>(params, 1), *x = input<Stored>(params, 2);
  const int64_t rows = shapes[1][0], out = shapes[1][1], in = shapes[2][1];
  if constexpr (std::is_same_v<Format, Float32>)
    return product({out, in, rows, TRANSPOSED, PLAIN}, dy, x, total, 1.0f, 1.0f);
  std::vector<float> panel(std::min(PANEL, out) * in);
  for (int64_t first = 0; first < out; first += PANEL) {
    const int64_t count = std::min(PANEL, out - first);
    const Sizes sizes(count, in, rows, TRANSPOSED, PLAIN, out);
    if (const int error = product_in<Format, Float32>(sizes, dy + first, x, panel.data())) return error;
    float* sums = total + first * in;
#pragma omp parallel for simd
    for (int64_t i = 0; i < count * in; i++) sums[i] += rounded<Format>(panel[i]);
  }
  return 0;
}

}  // namespace

KERNELS(add_linear_dweight)
KERNELS(linear)
KERNELS(linear_dx)
KERNELS(linear_dweight)

// x, dropped [N, in] (x with dropout), weight [out, in], LoRA's a [r, in], b [out, r], scale [1]
// -> x weight^T + scale dropped a^T b^T [N, out]
KERNEL(lora_linear) {
  auto *x = input<float>(params, 0), *dropped = input<float>(params, 1), *weight = input<float>(params, 2);
  auto *a = input<float>(params, 3), *b = input<float>(params, 4), *scale = input<float>(params, 5);
  float* y = output<float>(params, 6);
  const int64_t rows = shapes[0][0], in = shapes[0][1], out = shapes[2][0], r = shapes[3][0];
  std::vector<float> inner(rows * r);
  return product({rows, out, in, PLAIN, TRANSPOSED}, x, weight, y) ||
         product({rows, r, in, PLAIN, TRANSPOSED}, dropped, a, inner.data()) ||
         product({rows, out, r, PLAIN, TRANSPOSED}, inner.data(), b, y, *scale, 1.0f);
}

// dy [N, out], inner [N, r], weight [out, in], a [r, in] -> dy weight + inner a [N, in]
KERNEL(lora_linear_dx) {
  auto *dy = input<float>(params, 0), *inner = input<float>(params, 1);
  auto *weight = input<float>(params, 2), *a = input<float>(params, 3);
  float* dx = output<float>(params, 4);
  const int64_t rows = shapes[0][0], out = shapes[0][1], in = shapes[2][1], r = shapes[3][0];
  return product({rows, in, out, PLAIN, PLAIN}, dy, weight, dx) ||
         product({rows, in, r, PLAIN, PLAIN}, inner, a, dx, 1.0f, 1.0f);
}
