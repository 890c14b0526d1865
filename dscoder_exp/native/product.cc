// Matrix products by MindSpore's own copy of oneDNN, on OpenMP's threads. On MindSpore's thread pool the thread that
// starts a product only waits for it, and spins beside the ones that compute.
#include <omp.h>

#include <functional>
#include <vector>

#include "kernel.h"

namespace {

// dnnl::threadpool_interop::threadpool_iface of oneDNN 3.10, whose header MindSpore doesn't ship. Older versions lack
// `wait`.
struct Threads {
  virtual int get_num_threads() const { return omp_get_max_threads(); }
  virtual bool get_in_parallel() const { return omp_in_parallel(); }
  virtual void parallel_for(int count, const std::function<void(int, int)>& run) {
#pragma omp parallel for schedule(static, 1)
    for (int i = 0; i < count; i++) run(i, count);
  }
  virtual uint64_t get_flags() const { return 0; }
  virtual void wait() {}
  virtual ~Threads() = default;
};

Threads threads;

}  // namespace

extern "C" int dnnl_threadpool_interop_sgemm(char transpose_a, char transpose_b, int64_t rows, int64_t columns,
                                             int64_t depth, float alpha, const float* a, int64_t a_row, const float* b,
                                             int64_t b_row, float beta, float* c, int64_t c_row, void* threads);

namespace {

enum Order : char { PLAIN = 'N', TRANSPOSED = 'T' };

// c [rows, columns] = alpha a [rows, depth] b [depth, columns] + beta c. TRANSPOSED: the matrix is stored transposed.
int product(Order a_order, const float* a, Order b_order, const float* b, float* c, int64_t rows, int64_t columns,
            int64_t depth, float alpha = 1.0f, float beta = 0.0f) {
  return dnnl_threadpool_interop_sgemm(a_order, b_order, rows, columns, depth, alpha, a,
                                       a_order == PLAIN ? depth : rows, b, b_order == PLAIN ? columns : depth, beta, c,
                                       columns, &threads);
}

}  // namespace

// x [N, in], weight [out, in] -> [N, out]
KERNEL(linear) {
  const int64_t rows = shapes[0][0], in = shapes[0][1], out = shapes[1][0];
  return product(PLAIN, input<float>(params, 0), TRANSPOSED, input<float>(params, 1), output(params, 2), rows, out, in);
}

// dy [N, out], weight [out, in] -> dx [N, in]
KERNEL(linear_dx) {
  const int64_t rows = shapes[0][0], out = shapes[0][1], in = shapes[1][1];
  return product(PLAIN, input<float>(params, 0), PLAIN, input<float>(params, 1), output(params, 2), rows, in, out);
}

// dy [N, out], x [N, in] -> dweight [out, in]
KERNEL(linear_dweight) {
  const int64_t rows = shapes[0][0], out = shapes[0][1], in = shapes[1][1];
  return product(TRANSPOSED, input<float>(params, 0), PLAIN, input<float>(params, 1), output(params, 2), out, in, rows);
}

// x, dropped [N, in] (x with dropout), weight [out, in], LoRA's a [r, in], b [out, r], scale [1]
// -> x weight^T + scale dropped a^T b^T [N, out]
KERNEL(lora_linear) {
  auto *x = input<float>(params, 0), *dropped = input<float>(params, 1), *weight = input<float>(params, 2);
  auto *a = input<float>(params, 3), *b = input<float>(params, 4), *scale = input<float>(params, 5);
  float* y = output(params, 6);
  const int64_t rows = shapes[0][0], in = shapes[0][1], out = shapes[2][0], r = shapes[3][0];
  std::vector<float> inner(rows * r);
  return product(PLAIN, x, TRANSPOSED, weight, y, rows, out, in) ||
         product(PLAIN, dropped, TRANSPOSED, a, inner.data(), rows, r, in) ||
         product(PLAIN, inner.data(), TRANSPOSED, b, y, rows, out, r, *scale, 1.0f);
}

// dy [N, out], inner [N, r], weight [out, in], a [r, in] -> dy weight + inner a [N, in]
KERNEL(lora_linear_dx) {
  auto *dy = input<float>(params, 0), *inner = input<float>(params, 1);
  auto *weight = input<float>(params, 2), *a = input<float>(params, 3);
  float* dx = output(params, 4);
  const int64_t rows = shapes[0][0], out = shapes[0][1], in = shapes[2][1], r = shapes[3][0];
  return product(PLAIN, dy, PLAIN, weight, dx, rows, in, out) ||
         product(PLAIN, inner, PLAIN, a, dx, rows, in, r, 1.0f, 1.0f);
}
