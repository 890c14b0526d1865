// The signature of MindSpore's ops.Custom(func_type="aot"): `params` and `shapes` list the inputs, then the outputs.
// All arrays are fp32 unless a kernel's comment says otherwise. A kernel returns 0, or an error code.
#pragma once
#include <cstdint>

#define KERNEL(name) \
  extern "C" int name(int, void** params, int*, int64_t** shapes, const char**, void* /*stream*/, void* /*extra*/)

template <typename T>
inline const T* input(void** params, int number) {
  return static_cast<const T*>(params[number]);
}

inline float* output(void** params, int number) { return static_cast<float*>(params[number]); }
