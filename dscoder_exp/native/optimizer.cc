// AdamW and the gradient's norm over the arrays of a model, PIECE elements at a time, on all threads.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

namespace {

constexpr int64_t PIECE = 1 << 16;

struct Piece {
  int64_t array, first, last;
};

std::vector<Piece> pieces_of(int64_t count, const int64_t* sizes) {
  std::vector<Piece> pieces;
  for (int64_t array = 0; array < count; array++)
    for (int64_t first = 0; first < sizes[array]; first += PIECE)
      pieces.push_back({array, first, std::min(first + PIECE, sizes[array])});
  return pieces;
}

}  // namespace

// Per array: its size, a weight's decay times the learning rate, and where weights, moments and gradients lie.
extern "C" void adamw(int64_t count, const int64_t* sizes, const float* decays, float** weights, float** firsts,
                      float** seconds, const float** gradients, float lr, float eps, float scale, float beta1,
                      float beta2) {
  const auto pieces = pieces_of(count, sizes);
#pragma omp parallel for schedule(dynamic)
  for (size_t number = 0; number < pieces.size(); number++) {
    const auto [array, start, end] = pieces[number];
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

// Summed in the same order whatever the threads.
extern "C" double sum_of_squares(int64_t count, const int64_t* sizes, const float** arrays) {
  const auto pieces = pieces_of(count, sizes);
  std::vector<double> sums(pieces.size());
#pragma omp parallel for schedule(dynamic)
  for (size_t number = 0; number < pieces.size(); number++) {
    const auto [array, start, end] = pieces[number];
    float sum = 0;
    for (int64_t i = start; i < end; i++) sum += arrays[array][i] * arrays[array][i];
    sums[number] = sum;
  }
  double total = 0;
  for (double sum : sums) total += sum;
  return total;
}
