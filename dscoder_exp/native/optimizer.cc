// AdamW and the gradient norm over all arrays of a model, in chunks of CHUNK elements that the threads share.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

namespace {

constexpr int64_t CHUNK = 1 << 16;

struct Chunk {
  int64_t array, first, last;
};

std::vector<Chunk> chunks_of(int64_t count, const int64_t* sizes) {
  std::vector<Chunk> chunks;
  for (int64_t array = 0; array < count; array++)
    for (int64_t first = 0; first < sizes[array]; first += CHUNK)
      chunks.push_back({array, first, std::min(first + CHUNK, sizes[array])});
  return chunks;
}

}  // namespace

// Arrays of `count` entries, one for each fp32 array: its size, weight decay times learning rate, and the addresses of
// weights, moments (updated in place) and gradients. lr and eps contain the bias correction (AdamWScalars).
extern "C" void adamw(int64_t count, const int64_t* sizes, const float* decays, float** weights, float** firsts,
                      float** seconds, const float** gradients, float lr, float eps, float scale, float beta1,
                      float beta2) {
  const auto chunks = chunks_of(count, sizes);
#pragma omp parallel for schedule(dynamic)
  for (size_t number = 0; number < chunks.size(); number++) {
    const auto [array, start, end] = chunks[number];
    float *weight = weights[array], *first = firsts[array], *second = seconds[array];
    const float *gradient = gradients[array], decay = decays[array];
    for (int64_t i = start; i < end; i++) {
      const float g = gradient[i] * scale;
      first[i] = beta1 * first[i] + (1 - beta1) * g;
      second[i] = beta2 * second[i] + (1 - beta2) * g * g;
      weight[i] -= lr * first[i] / (std::sqrt(second[i]) + eps) + decay * weight[i];
    }
  }
}

// Sum of squares over all arrays. Its order, and so its rounding, doesn't depend on the number of threads.
extern "C" double sum_of_squares(int64_t count, const int64_t* sizes, const float** arrays) {
  const auto chunks = chunks_of(count, sizes);
  std::vector<double> sums(chunks.size());
#pragma omp parallel for schedule(dynamic)
  for (size_t number = 0; number < chunks.size(); number++) {
    const auto [array, start, end] = chunks[number];
    float sum = 0;
    for (int64_t i = start; i < end; i++) sum += arrays[array][i] * arrays[array][i];
    sums[number] = sum;
  }
  double total = 0;
  for (double sum : sums) total += sum;
  return total;
}
