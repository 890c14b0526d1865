// Products of some rows x [count, depth] with a matrix [outputs, depth] that is read from memory once, in order.
#pragma once
#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "formats.h"

// A tile of some rows of the matrix and up to INPUTS rows of x has its sums and operands in registers.
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int SUMS = 24, INPUTS = 8;
#else
constexpr int SUMS = 12, INPUTS = 6;
#endif
constexpr int WEIGHTS = 4;          // most rows of the matrix in a tile
constexpr int64_t PANEL = 1 << 17;  // bytes of the matrix that stay in cache while all tiles of x pass over them
constexpr int64_t AHEAD = 1 << 13;  // bytes of the matrix that are requested before they are used, at least
constexpr int CACHE_LINE = 64;      // bytes

// Rows of the matrix and of x in a format's Stored and Input types; x's rows end with zeros up to a multiple of STEP.
template <typename Format>
struct Factors {
  const typename Format::Stored* weights;
  const typename Format::Input* x;
  int64_t depth, x_row;
};

// The order in which sum_lanes adds the lanes of a vector: first those LANE_STRIDES[0] apart, then of these sums those
// LANE_STRIDES[1] apart, ….
#if defined(__AVX512F__)
constexpr int LANE_STRIDES[] = {2, 1, 8, 4};
#elif defined(__aarch64__)
constexpr int LANE_STRIDES[] = {2, 1};
#else
constexpr int LANE_STRIDES[] = {4, 2, 1};
#endif
constexpr int LANE_BITS = sizeof(LANE_STRIDES) / sizeof(int);

// The sum of each of four vectors' lanes.
inline void sum_lanes(const Lanes* of, float (&sums)[4]) {
#if defined(__AVX512F__)
  const auto in = [&](int i) { return reinterpret_cast<__m512>(of[i]); };
  const __m512 ab = _mm512_add_ps(_mm512_unpacklo_ps(in(0), in(1)), _mm512_unpackhi_ps(in(0), in(1)));
  const __m512 cd = _mm512_add_ps(_mm512_unpacklo_ps(in(2), in(3)), _mm512_unpackhi_ps(in(2), in(3)));
  const __m512d low = _mm512_unpacklo_pd(_mm512_castps_pd(ab), _mm512_castps_pd(cd));
  const __m512d high = _mm512_unpackhi_pd(_mm512_castps_pd(ab), _mm512_castps_pd(cd));
  const __m512 four = _mm512_add_ps(_mm512_castpd_ps(low), _mm512_castpd_ps(high));
  const __m256 upper = _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(four), 1));
  const __m256 two = _mm256_add_ps(_mm512_castps512_ps256(four), upper);
  _mm_storeu_ps(sums, _mm_add_ps(_mm256_castps256_ps128(two), _mm256_extractf128_ps(two, 1)));
#else
  for (int i = 0; i < 4; i++) {
    Lanes lanes = of[i];
    for (int stride : LANE_STRIDES)
      for (int j = 0; j < stride; j++) lanes[j] += lanes[j + stride];
    sums[i] = lanes[0];
  }
#endif
}

// y[j * y_row + i] = the product of weights' row i and x's row j; the order of addition is the same for all M and N
template <typename Format, int N, int M>
inline void multiply_tile(Factors<Format> f, float* y, int64_t y_row) {
  constexpr int64_t STEP = Format::STEP;
  const int64_t whole = f.depth / STEP * STEP;
  Lanes sums[(N * M + 3) / 4 * 4] = {};
  // Of `rows` of the matrix from row i on; each row of x is loaded once for all of them.
  const auto add = [&](auto rows, int i, int64_t k, const typename Format::Stored* start, int64_t row) {
    decltype(Format::weights(start)) weights[rows];
    for (int r = 0; r < rows; r++) weights[r] = Format::weights(start + r * row);
    for (int j = 0; j < M; j++) {
      const auto x = Format::operand(f.x + j * f.x_row + k);
      for (int r = 0; r < rows; r++) {
        Lanes& sum = sums[(i + r) * M + j];
        sum = Format::multiply_add(sum, weights[r], x);
      }
    }
  };
  constexpr std::integral_constant<int, 1> ONE;
  if constexpr (M <= 2) {  // row by row, since a processor reads one stream faster than several
    for (int i = 0; i < N; i++)
      for (int64_t k = 0; k < whole; k += STEP) add(ONE, i, k, f.weights + i * f.depth + k, 0);
  } else {  // side by side, while the next rows are requested in the order in which they lie
    const int64_t ahead = std::max<int64_t>(N * f.depth * sizeof(typename Format::Stored), AHEAD);
    const char* next = reinterpret_cast<const char*>(f.weights) + ahead;
    for (int64_t k = 0; k < whole; k += STEP) {
      for (int i = 0; i < N; i++, next += CACHE_LINE)
        __builtin_prefetch(next, 0, 2);  // into the second cache: x fills the first one
      add(std::integral_constant<int, N>(), 0, k, f.weights + k, f.depth);
    }
  }
  if (whole < f.depth) {
    typename Format::Stored rest[N][STEP] = {};
    for (int i = 0; i < N; i++) std::copy(f.weights + i * f.depth + whole, f.weights + (i + 1) * f.depth, rest[i]);
    add(std::integral_constant<int, N>(), 0, whole, rest[0], STEP);
  }
  for (int first = 0; first < N * M; first += 4) {
    float four[4];
    sum_lanes(sums + first, four);
    for (int t = first; t < std::min(first + 4, N * M); t++) y[t % M * y_row + t / M] = four[t - first];
  }
}

template <typename Format, int M>
inline void multiply_rows(int64_t outputs, Factors<Format> f, float* y, int64_t y_row) {
  constexpr int N = std::min(WEIGHTS, SUMS / M);
  int64_t i = 0;
  for (; i + N <= outputs; i += N, f.weights += N * f.depth) multiply_tile<Format, N, M>(f, y + i, y_row);
  for (; i < outputs; i++, f.weights += f.depth) multiply_tile<Format, 1, M>(f, y + i, y_row);
}

template <typename Format, int M = INPUTS>
inline void multiply_up_to(int count, int64_t outputs, Factors<Format> f, float* y, int64_t y_row) {
  if (count == M) return multiply_rows<Format, M>(outputs, f, y, y_row);
  if constexpr (M > 1) multiply_up_to<Format, M - 1>(count, outputs, f, y, y_row);
}

// y [count, outputs] (its rows y_row apart) = x [count, depth] weights^T
template <typename Format>
void multiply(int64_t count, int64_t outputs, Factors<Format> f, float* y, int64_t y_row) {
  const int64_t tiles = (count + INPUTS - 1) / INPUTS, bytes = f.depth * sizeof(typename Format::Stored);
  const int64_t panel = tiles == 1 ? outputs : rounded_up(std::max<int64_t>(PANEL / bytes, 1), SUMS);
  for (int64_t first = 0; first < outputs; first += panel)
    for (int64_t tile = 0; tile < tiles; tile++) {
      const int64_t row = tile * count / tiles, rows = (tile + 1) * count / tiles - row;
      const Factors<Format> part{f.weights + first * f.depth, f.x + row * f.x_row, f.depth, f.x_row};
      multiply_up_to<Format>(rows, std::min(panel, outputs - first), part, y + row * y_row + first, y_row);
    }
}
