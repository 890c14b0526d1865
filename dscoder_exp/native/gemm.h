// c [rows, outputs] = a [rows, depth] w [outputs, depth]^T for many rows, from copies of a and w in the order in which
// they are read. It adds in the order of stream.h, so that a row's results are the same, bit by bit, for any number of
// rows: each of LANES sums over every LANES-th product, then the sums of these two by two.
#pragma once
#include <vector>

#include "stream.h"

constexpr int VECTORS = 3;               // a tile of c is ROWS x VECTORS vectors, whose sums stay in registers
constexpr int COLUMNS = VECTORS * LANES;  // of c that are computed together; w's rows for them are copied to a panel

// What is multiplied in vector registers, a word of 4 bytes in each lane: one fp32, or two bf16 side by side.
template <typename Input>
struct Words : Float32 {
  static constexpr int SIZE = 1;
  static Lanes broadcast(const Input* word) { return Lanes{} + *word; }
};
#if defined(__AVX512BF16__)
template <>
struct Words<uint16_t> : Bfloat16 {
  static constexpr int SIZE = 2;
  static __m512bh broadcast(const uint16_t* word) {
    int32_t bits;
    memcpy(&bits, word, sizeof bits);
    return reinterpret_cast<__m512bh>(_mm512_set1_epi32(bits));
  }
};
#endif

// Words of a row are numbered by step s and lane l: word s * LANES + l. In copies lane_of(0)'s words of all steps come
// first, then lane_of(1)'s, ….
constexpr int lane_of(int number) {
  int lane = 0;
  for (int bit = 0; bit < LANE_BITS; bit++) lane += (number >> bit & 1) * LANE_STRIDES[bit];
  return lane;
}

struct Numbers {
  int of[LANES] = {};  // the number whose lane_of is the index
  constexpr Numbers() {
    for (int number = 0; number < LANES; number++) of[lane_of(number)] = number;
  }
};
constexpr Numbers NUMBERS;

template <typename T>
class CacheLines {
  struct alignas(CACHE_LINE) Line {
    T values[CACHE_LINE / sizeof(T)] = {};
  };
  std::vector<Line> lines;

 public:
  explicit CacheLines(int64_t count = 0) { grow(count); }
  void grow(int64_t count) {
    const size_t needed = rounded_up(count * sizeof(T), CACHE_LINE) / CACHE_LINE;
    if (lines.size() < needed) lines.resize(needed);
  }
  T* data() { return lines.data()->values; }
  const T* data() const { return lines.data()->values; }
};

// A copy of a: [rows / ROWS, LANES, steps, ROWS] words; what rows and words are missing to whole tiles are zeros.
template <typename Format>
class PackedRows {
  using Input = typename Format::Input;
  static constexpr int SIZE = Words<Input>::SIZE;
  CacheLines<Input> copy;
  int64_t lanes[LANES];  // where in a tile each lane's words begin, in words

 public:
  const int64_t rows, depth, steps;

  PackedRows(int64_t rows, int64_t depth)
      : copy(rounded_up(rows, ROWS) * rounded_up(depth, Format::STEP)),
        rows(rows),
        depth(depth),
        steps(rounded_up(depth, Format::STEP) / Format::STEP) {
    for (int lane = 0; lane < LANES; lane++) lanes[lane] = NUMBERS.of[lane] * steps * ROWS;
  }

  const Input* tile(int64_t number) const { return copy.data() + number * ROWS * steps * Format::STEP; }

  // Rounds `values` to the columns [first, last) of a row, which begin at a word's beginning.
  void set(int64_t row, int64_t first, int64_t last, const float* values) {
    Input* tile = copy.data() + (row / ROWS * ROWS * steps * LANES + row % ROWS) * SIZE;
    for (; first < last; first += Format::STEP, values += Format::STEP) {
      Input some[Format::STEP] = {};
      const int count = std::min<int64_t>(Format::STEP, last - first);
      if (count == Format::STEP)  // a constant, so that the loop becomes a few vector instructions
        for (int i = 0; i < Format::STEP; i++) some[i] = Format::input(rounded<Format>(values[i]));
      else
        for (int i = 0; i < count; i++) some[i] = Format::input(rounded<Format>(values[i]));
      for (int64_t i = 0, word = first / SIZE; i < count; i += SIZE, word++)
        memcpy(tile + (lanes[word % LANES] + word / LANES * ROWS) * SIZE, some + i, SIZE * sizeof(Input));
    }
  }
};

inline void transpose(Lanes (&rows)[LANES]) {
#if defined(__AVX512F__)
  __m512 a[LANES], b[LANES];
  for (int i = 0; i < LANES; i += 2) {
    const __m512 even = reinterpret_cast<__m512>(rows[i]), odd = reinterpret_cast<__m512>(rows[i + 1]);
    a[i] = _mm512_unpacklo_ps(even, odd);
    a[i + 1] = _mm512_unpackhi_ps(even, odd);
  }
  const auto pairs = [](__m512 x) { return _mm512_castps_pd(x); };
  for (int i = 0; i < LANES; i += 4)
    for (int j = 0; j < 2; j++) {
      b[i + 2 * j] = _mm512_castpd_ps(_mm512_unpacklo_pd(pairs(a[i + j]), pairs(a[i + 2 + j])));
      b[i + 2 * j + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(pairs(a[i + j]), pairs(a[i + 2 + j])));
    }
  for (int i = 0; i < 4; i++) {  // b[i + 4 g]: column i of each group of four, of rows 4 g to 4 g + 3
    const __m512 low = _mm512_shuffle_f32x4(b[i], b[i + 4], 0x88), high = _mm512_shuffle_f32x4(b[i + 8], b[i + 12], 0x88);
    const __m512 low2 = _mm512_shuffle_f32x4(b[i], b[i + 4], 0xdd), high2 = _mm512_shuffle_f32x4(b[i + 8], b[i + 12], 0xdd);
    rows[i] = reinterpret_cast<Lanes>(_mm512_shuffle_f32x4(low, high, 0x88));
    rows[i + 8] = reinterpret_cast<Lanes>(_mm512_shuffle_f32x4(low, high, 0xdd));
    rows[i + 4] = reinterpret_cast<Lanes>(_mm512_shuffle_f32x4(low2, high2, 0x88));
    rows[i + 12] = reinterpret_cast<Lanes>(_mm512_shuffle_f32x4(low2, high2, 0xdd));
  }
#else
  for (int i = 0; i < LANES; i++)
    for (int j = 0; j < i; j++) std::swap(rows[i][j], rows[j][i]);
#endif
}

// Copies `count` rows of w, its rows `depth` apart, to a panel [LANES, steps, width] of words; missing ones are zeros.
template <typename Format>
void pack_panel(const typename Format::Stored* w, int64_t count, int64_t depth, int64_t width,
                typename Format::Input* panel) {
  constexpr int SIZE = Words<typename Format::Input>::SIZE, STEP = Format::STEP;
  const int64_t steps = rounded_up(depth, STEP) / STEP;
  for (int64_t first = 0; first < width; first += LANES)
    for (int64_t step = 0; step < steps; step++) {
      Lanes words[LANES] = {};
      for (int64_t i = 0; i < std::min<int64_t>(LANES, count - first); i++) {
        const typename Format::Stored* from = w + (first + i) * depth + step * STEP;
        typename Format::Stored rest[STEP] = {};
        if ((step + 1) * STEP > depth) from = std::copy_n(from, depth - step * STEP, rest) - (depth - step * STEP);
        words[i] = reinterpret_cast<Lanes>(Format::weights(from));
      }
      transpose(words);
      for (int l = 0; l < LANES; l++)
        memcpy(panel + ((NUMBERS.of[l] * steps + step) * width + first) * SIZE, &words[l], sizeof(Lanes));
    }
}

// c [ROWS, V vectors] of a tile of a and a panel of that width
template <typename Input, int V>
void multiply_panel(int64_t steps, const Input* a, const Input* panel, Lanes (&c)[ROWS][V]) {
  using W = Words<Input>;
  alignas(CACHE_LINE) Lanes halves[LANE_BITS][ROWS][V];  // sums that wait for the other half
  for (int number = 0; number < LANES; number++) {
    Lanes sums[ROWS][V] = {};
    for (int64_t step = 0; step < steps; step++, a += ROWS * W::SIZE, panel += V * LANES * W::SIZE) {
      decltype(W::weights(panel)) weights[V];
      for (int v = 0; v < V; v++) weights[v] = W::weights(panel + v * LANES * W::SIZE);
      for (int i = 0; i < ROWS; i++) {
        const auto x = W::broadcast(a + i * W::SIZE);
        for (int v = 0; v < V; v++) sums[i][v] = W::multiply_add(sums[i][v], weights[v], x);
      }
    }
    int level = 0;
    for (; number >> level & 1; level++)
      for (int i = 0; i < ROWS; i++)
        for (int v = 0; v < V; v++) sums[i][v] = halves[level][i][v] + sums[i][v];
    Lanes(*kept)[V] = level == LANE_BITS ? c : halves[level];
    for (int i = 0; i < ROWS; i++)
      for (int v = 0; v < V; v++) kept[i][v] = sums[i][v];
  }
}

// The columns of c that a panel gives; the first `count` of its V vectors' columns are c's.
template <typename Format, int V>
void multiply_by_panel(const PackedRows<Format>& a, int64_t count, const typename Format::Input* panel, float* c,
                       int64_t c_row) {
  for (int64_t row = 0; row < a.rows; row += ROWS) {
    alignas(CACHE_LINE) Lanes tile[ROWS][V];
    multiply_panel<typename Format::Input, V>(a.steps, a.tile(row / ROWS), panel, tile);
    for (int64_t i = 0; i < std::min<int64_t>(ROWS, a.rows - row); i++)
      memcpy(c + (row + i) * c_row, tile[i], count * sizeof(float));
  }
}

// c [a.rows, outputs], its rows c_row apart, = a w^T; w: [outputs, a.depth]
template <typename Format>
void multiply(const PackedRows<Format>& a, int64_t outputs, const typename Format::Stored* w, float* c, int64_t c_row) {
  static thread_local CacheLines<typename Format::Input> panel;
  panel.grow(COLUMNS * a.steps * Format::STEP);
  for (int64_t first = 0; first < outputs; first += COLUMNS) {
    const int64_t count = std::min<int64_t>(COLUMNS, outputs - first), width = rounded_up(count, LANES);
    pack_panel<Format>(w + first * a.depth, count, a.depth, width, panel.data());
    if (width == COLUMNS) multiply_by_panel<Format, VECTORS>(a, count, panel.data(), c + first, c_row);
    else if (width == LANES) multiply_by_panel<Format, 1>(a, count, panel.data(), c + first, c_row);
    else multiply_by_panel<Format, 2>(a, count, panel.data(), c + first, c_row);
  }
}
