// The loss and its gradient on the logits, a row at a time: what a chunk's [C, V] arrays are read and written for once.
#include <algorithm>
#include <cmath>

#include "exponential.h"
#include "kernel.h"

namespace {

// scores [C, V], int32 labels [C] -> softmax(scores) less 1 at the label [C, V], fp32 log softmax(scores)[label] [C]
template <typename Format>
int softmax_gradient(void** params, int64_t** shapes) {
  using Stored = typename Format::Stored;
  auto* scores = input<Stored>(params, 0);
  auto* labels = input<int32_t>(params, 1);
  auto* gradient = output<Stored>(params, 2);
  auto* log_p = output<float>(params, 3);
  const int64_t rows = shapes[0][0], size = shapes[0][1];
#pragma omp parallel for
  for (int64_t i = 0; i < rows; i++) {
    const Stored* row = scores + i * size;
    Stored* out = gradient + i * size;
    const float picked = Format::get(row[labels[i]]);
    float highest = Format::get(row[0]), sum = 0;
    for (int64_t c = 0; c < size; c++) highest = std::max(highest, Format::get(row[c]));
    for (int64_t c = 0; c < size; c++) sum += power_of_2((Format::get(row[c]) - highest) * LOG2_E);
    for (int64_t c = 0; c < size; c++) out[c] = Format::put(power_of_2((Format::get(row[c]) - highest) * LOG2_E) / sum);
    out[labels[i]] = Format::put(power_of_2((picked - highest) * LOG2_E) / sum - 1.0f);
    log_p[i] = picked - highest - std::log(sum);
  }
  return 0;
}

}  // namespace

KERNELS(softmax_gradient)
