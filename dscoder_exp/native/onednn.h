// oneDNN's C interface as far as product.cc uses it, since MindSpore ships the library without its headers (oneDNN 3.10).
// sgemm isn't public; the rest is documented (https://uxlfoundation.github.io/oneDNN, C API).
#pragma once
#include <omp.h>

#include <cstdint>
#include <functional>
#include <map>
#include <mutex>
#include <tuple>

// dnnl::threadpool_interop::threadpool_iface. Older versions lack `wait`.
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

struct Argument {  // dnnl_exec_arg_t
  int which;
  void* memory;
};

extern "C" {
int dnnl_threadpool_interop_sgemm(char transpose_a, char transpose_b, int64_t rows, int64_t columns, int64_t depth,
                                  float alpha, const float* a, int64_t a_row, const float* b, int64_t b_row, float beta,
                                  float* c, int64_t c_row, void* threads);
int dnnl_engine_create(void** engine, int kind, size_t index);
int dnnl_threadpool_interop_stream_create(void** stream, void* engine, void* threads);
int dnnl_memory_desc_create_with_strides(void** description, int dimensions, const int64_t* sizes, int type,
                                         const int64_t* strides);
int dnnl_matmul_primitive_desc_create(void** description, void* engine, const void* a, const void* b, const void* bias,
                                      const void* c, const void* attributes);
int dnnl_primitive_desc_destroy(void* description);
int dnnl_primitive_create(void** primitive, const void* description);
int dnnl_memory_create(void** memory, const void* description, void* engine, void* handle);
int dnnl_memory_destroy(void* memory);
int dnnl_primitive_execute(const void* primitive, void* stream, int count, const Argument* arguments);
}

namespace {

Threads threads;

enum Order : char { PLAIN = 'N', TRANSPOSED = 'T' };

// a [rows, depth] b [depth, columns], in this order or stored transposed. a_row: elements from one stored row of a to the
// next; b has no gaps.
struct Sizes {
  int64_t rows, columns, depth;
  Order a, b;
  int64_t a_row;

  Sizes(int64_t rows, int64_t columns, int64_t depth, Order a, Order b, int64_t a_row = 0)
      : rows(rows), columns(columns), depth(depth), a(a), b(b), a_row(a_row ? a_row : a == PLAIN ? depth : rows) {}
};

// One matrix product of bf16 matrices, compiled by oneDNN for their sizes and kept until the process ends.
class Bf16Product {
  static constexpr int CPU = 1, A = 1, B = 33, C = 17, F32 = 3, BF16 = 2;  // dnnl_cpu, DNNL_ARG_*, dnnl_data_type_t
  void *primitive = nullptr, *a = nullptr, *b = nullptr, *c = nullptr;

  static void* engine() {
    static void* created = [] {
      void* found = nullptr;
      dnnl_engine_create(&found, CPU, 0);
      return found;
    }();
    return created;
  }

  static void* describe(int64_t rows, int64_t columns, Order order, int64_t row, int type) {
    const int64_t sizes[] = {rows, columns}, strides[] = {order == PLAIN ? row : 1, order == PLAIN ? 1 : row};
    void* description = nullptr;
    dnnl_memory_desc_create_with_strides(&description, 2, sizes, type, strides);
    return description;
  }

 public:
  int error = 0;  // dnnl_status_t

  Bf16Product(const Sizes& s, bool in_fp32)
      : a(describe(s.rows, s.depth, s.a, s.a_row, BF16)),
        b(describe(s.depth, s.columns, s.b, s.b == PLAIN ? s.columns : s.depth, BF16)),
        c(describe(s.rows, s.columns, PLAIN, s.columns, in_fp32 ? F32 : BF16)) {
    void* description = nullptr;
    error = dnnl_matmul_primitive_desc_create(&description, engine(), a, b, nullptr, c, nullptr);
    if (!error) error = dnnl_primitive_create(&primitive, description);
    dnnl_primitive_desc_destroy(description);
  }

  int run(const void* left, const void* right, void* result) const {
    if (error) return error;
    Argument arguments[] = {{A, nullptr}, {B, nullptr}, {C, nullptr}};
    static thread_local void* stream = nullptr;
    if (!stream) dnnl_threadpool_interop_stream_create(&stream, engine(), &threads);
    int failed = dnnl_memory_create(&arguments[0].memory, a, engine(), const_cast<void*>(left)) ||
                 dnnl_memory_create(&arguments[1].memory, b, engine(), const_cast<void*>(right)) ||
                 dnnl_memory_create(&arguments[2].memory, c, engine(), result) ||
                 dnnl_primitive_execute(primitive, stream, 3, arguments);
    for (const Argument& argument : arguments) dnnl_memory_destroy(argument.memory);
    return failed;
  }
};

// bf16 a b -> c, rounded once to bf16, or fp32
inline int bf16_product(const Sizes& s, const void* a, const void* b, void* c, bool in_fp32) {
  static std::mutex mutex;
  static std::map<std::tuple<int64_t, int64_t, int64_t, Order, Order, int64_t, bool>, Bf16Product> products;
  const Bf16Product* product;
  {
    std::lock_guard<std::mutex> lock(mutex);
    product = &products.try_emplace({s.rows, s.columns, s.depth, s.a, s.b, s.a_row, in_fp32}, s, in_fp32).first->second;
  }
  return product->run(a, b, c);
}

}  // namespace
