// The product of two small fp32 matrices, one tile of the result in vector registers at a time.
#pragma once
#include <cstdint>

#if defined(__AVX512F__)
constexpr int LANES = 16, ROWS = 8;  // ROWS x 2 sums and their operands fill the 32 registers
#elif defined(__aarch64__)
constexpr int LANES = 4, ROWS = 8;  // NEON's 32 registers, which GCC uses for 16-byte vectors even with SVE
#else
constexpr int LANES = 8, ROWS = 4;
#endif
typedef float Lanes __attribute__((vector_size(LANES * 4), aligned(4), may_alias));  // of GCC and Clang, any CPU

// Views of a matrix: element (i, j) is start[i * row + j * column]; column is 1 where there is no such field. Instead of
// Right, the functions below take any type with its members (StoredRight in formats.h).
struct Left {
  const float* start;
  int64_t row, column;
};
struct Right {
  const float* start;
  int64_t row;
  Lanes load(int64_t at) const { return *reinterpret_cast<const Lanes*>(start + at); }
  float get(int64_t at) const { return start[at]; }
  Right from(int64_t column) const { return {start + column, row}; }
};
struct Sum {
  float* start;
  int64_t row;
};

// c [M, N * LANES] += a [M, depth] b [depth, N * LANES]
template <int M, int N, typename B>
inline void add_tile(int depth, Left a, B b, Sum c) {
  Lanes sums[M][N];
  for (int i = 0; i < M; i++)
    for (int j = 0; j < N; j++) sums[i][j] = *reinterpret_cast<const Lanes*>(c.start + i * c.row + j * LANES);
  for (int k = 0; k < depth; k++) {
    Lanes row[N];
    for (int j = 0; j < N; j++) row[j] = b.load(k * b.row + j * LANES);
    for (int i = 0; i < M; i++) {
      float factor = a.start[i * a.row + k * a.column];
      for (int j = 0; j < N; j++) sums[i][j] += row[j] * factor;
    }
  }
  for (int i = 0; i < M; i++)
    for (int j = 0; j < N; j++) *reinterpret_cast<Lanes*>(c.start + i * c.row + j * LANES) = sums[i][j];
}

// c [M, columns] += a [M, depth] b [depth, columns]
template <int M, typename B>
inline void add_rows(int columns, int depth, Left a, B b, Sum c) {
  int j = 0;
  for (; j + 2 * LANES <= columns; j += 2 * LANES) add_tile<M, 2>(depth, a, b.from(j), {c.start + j, c.row});
  for (; j + LANES <= columns; j += LANES) add_tile<M, 1>(depth, a, b.from(j), {c.start + j, c.row});
  for (; j < columns; j++)
    for (int i = 0; i < M; i++) {
      float sum = 0;
      for (int k = 0; k < depth; k++) sum += a.start[i * a.row + k * a.column] * b.get(k * b.row + j);
      c.start[i * c.row + j] += sum;
    }
}

// c [rows, columns] += a [rows, depth] b [depth, columns]
template <typename B = Right>
inline void add_product(int rows, int columns, int depth, Left a, B b, Sum c) {
  int i = 0;
  for (; i + ROWS <= rows; i += ROWS)
    add_rows<ROWS>(columns, depth, {a.start + i * a.row, a.row, a.column}, b, {c.start + i * c.row, c.row});
  for (; i < rows; i++)
    add_rows<1>(columns, depth, {a.start + i * a.row, a.row, a.column}, b, {c.start + i * c.row, c.row});
}
