// 2^x and the sigmoid in plain arithmetic, so that a compiler vectorizes loops over them.
#pragma once
#include <cstdint>
#include <cstring>

constexpr float LOG2_E = 1.44269504f;

// 2^x = 2^n 2^f with n = round(x); the Taylor series of 2^f for |f| <= 1/2 has a relative error of 2e-7. Results below
// 2^-126 become 0, whose bit pattern n = -127 gives; x above 127 is clamped; NaN stays NaN.
inline float power_of_2(float x) {
  x = x < -127.0f ? -127.0f : x;
  x = x > 127.0f ? 127.0f : x;
  float whole = __builtin_rintf(x), f = x - whole;
  float series = 1.5403530e-4f;  // coefficients ln(2)^k / k!, k = 6 to 0
  series = series * f + 1.3333558e-3f;
  series = series * f + 9.6181291e-3f;
  series = series * f + 5.5504109e-2f;
  series = series * f + 2.4022651e-1f;
  series = series * f + 6.9314718e-1f;
  series = series * f + 1.0f;
  int32_t bits = (static_cast<int32_t>(whole) + 127) << 23;
  float power;
  memcpy(&power, &bits, sizeof power);
  return series * power;
}

inline float sigmoid(float x) { return 1.0f / (1.0f + power_of_2(-x * LOG2_E)); }
