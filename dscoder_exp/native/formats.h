// How elements are stored: fp32, bf16 (the upper half of an fp32) or fp16. All arithmetic is in fp32.
#pragma once
#include <cstdint>
#include <cstring>

#include "matrix.h"

#if defined(__AVX2__) || defined(__AVX512F__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

inline int64_t rounded_up(int64_t number, int64_t multiple) { return (number + multiple - 1) / multiple * multiple; }

inline uint32_t bits_of(float x) {
  uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  return bits;
}

inline float float_of(uint32_t bits) {
  float x;
  memcpy(&x, &bits, sizeof x);
  return x;
}

// A format's members:
//   Stored: the type of an element in memory
//   get, put: an element as fp32, and back, to nearest with ties to even; NaN stays NaN
//   load: LANES consecutive elements as fp32
//   Input: the type of the other factor of `multiply_add`; `input` converts to it a value that `get` returned
//   STEP: number of elements that multiply_add takes of both factors; it adds their products to LANES sums
struct Float32 {
  using Stored = float;
  using Input = float;
  static constexpr int STEP = LANES;
  static float get(float x) { return x; }
  static float put(float x) { return x; }
  static float input(float x) { return x; }
  static Lanes load(const float* x) { return *reinterpret_cast<const Lanes*>(x); }
  static Lanes weights(const float* x) { return load(x); }
  static Lanes operand(const float* x) { return load(x); }
  static Lanes multiply_add(Lanes sums, Lanes weights, Lanes x) { return sums + weights * x; }
};

struct Bfloat16 {
  using Stored = uint16_t;
  static float get(uint16_t x) { return float_of(static_cast<uint32_t>(x) << 16); }
  static uint16_t put(float x) {
    const uint32_t bits = bits_of(x), nearest = bits + 0x7fff + (bits >> 16 & 1);
    return static_cast<uint16_t>((x == x ? nearest : bits | 0x400000) >> 16);
  }
  static Lanes load(const uint16_t* x) {
#if defined(__AVX512F__)
    const __m256i halves = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(x));
    return reinterpret_cast<Lanes>(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16));
#elif defined(__AVX2__)
    const __m128i halves = _mm_loadu_si128(reinterpret_cast<const __m128i*>(x));
    return reinterpret_cast<Lanes>(_mm256_slli_epi32(_mm256_cvtepu16_epi32(halves), 16));
#elif defined(__aarch64__)
    return reinterpret_cast<Lanes>(vshlq_n_u32(vmovl_u16(vld1_u16(x)), 16));
#else
    Lanes lanes;
    for (int i = 0; i < LANES; i++) lanes[i] = get(x[i]);
    return lanes;
#endif
  }
#if defined(__AVX512BF16__)
  using Input = uint16_t;
  static constexpr int STEP = 2 * LANES;
  static uint16_t input(float x) { return static_cast<uint16_t>(bits_of(x) >> 16); }
  static __m512bh weights(const uint16_t* x) { return reinterpret_cast<__m512bh>(_mm512_loadu_si512(x)); }
  static __m512bh operand(const uint16_t* x) { return weights(x); }
  static Lanes multiply_add(Lanes sums, __m512bh weights, __m512bh x) {
    return reinterpret_cast<Lanes>(_mm512_dpbf16_ps(reinterpret_cast<__m512>(sums), weights, x));
  }
#else
  using Input = float;
  static constexpr int STEP = LANES;
  static float input(float x) { return x; }
  static Lanes weights(const uint16_t* x) { return load(x); }
  static Lanes operand(const float* x) { return Float32::load(x); }
  static Lanes multiply_add(Lanes sums, Lanes weights, Lanes x) { return sums + weights * x; }
#endif
};

struct Float16 {
  using Stored = uint16_t;
  using Input = float;
  static constexpr int STEP = LANES;
  // Shifted to an fp32's place, exponent and fraction are 2^-112 times the value, exactly; inf and NaN have to be set.
  static float get(uint16_t x) {
    const float magnitude = float_of((x & 0x7fffu) << 13) * 0x1p112f;
    const uint32_t finite = bits_of(magnitude), special = finite | 0x7f800000;
    return float_of(((x & 0x7c00) == 0x7c00 ? special : finite) | (x & 0x8000u) << 16);
  }
  // Below 2^-14 an fp16 is a multiple of 2^-24, which adding 1/2 rounds to; above it, the fraction is cut to 10 bits.
  static uint16_t put(float x) {
    const uint32_t bits = bits_of(x), magnitude = bits & 0x7fffffff;
    const uint32_t small = bits_of(float_of(magnitude) + 0.5f) - 0x3f000000;
    const uint32_t normal = (magnitude + 0xfff + (magnitude >> 13 & 1) - (112u << 23)) >> 13;
    const uint32_t finite = magnitude < 0x38800000 ? small : normal;  // 2^-14
    const uint32_t special = magnitude > 0x7f800000 ? 0x7e00 : 0x7c00;
    return static_cast<uint16_t>((magnitude >= 0x477ff000 ? special : finite) | (bits >> 16 & 0x8000));  // 65,520
  }
  static float input(float x) { return x; }
  static Lanes load(const uint16_t* x) {
#if defined(__AVX512F__)
    return reinterpret_cast<Lanes>(_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(x))));
#elif defined(__AVX2__) && defined(__F16C__)
    return reinterpret_cast<Lanes>(_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(x))));
#elif defined(__aarch64__)
    return reinterpret_cast<Lanes>(vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(x))));
#else
    Lanes lanes;
    for (int i = 0; i < LANES; i++) lanes[i] = get(x[i]);
    return lanes;
#endif
  }
  static Lanes weights(const uint16_t* x) { return load(x); }
  static Lanes operand(const float* x) { return Float32::load(x); }
  static Lanes multiply_add(Lanes sums, Lanes weights, Lanes x) { return sums + weights * x; }
};

template <typename Format>
inline float rounded(float x) {
  return Format::get(Format::put(x));
}

// A view of a matrix as `Right`, whose elements are stored in a format.
template <typename Format>
struct StoredRight {
  const typename Format::Stored* start;
  int64_t row;
  Lanes load(int64_t at) const { return Format::load(start + at); }
  float get(int64_t at) const { return Format::get(start[at]); }
  StoredRight from(int64_t column) const { return {start + column, row}; }
};
