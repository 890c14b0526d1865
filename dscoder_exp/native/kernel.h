// The signature of MindSpore's ops.Custom(func_type="aot"): `params` and `shapes` list the inputs, then the outputs.
// A kernel returns 0, or an error code.
#pragma once
#include <cstdint>

#include "formats.h"

#define KERNEL(name) \
  extern "C" int name(int, void** params, int*, int64_t** shapes, const char**, void* /*stream*/, void* /*extra*/)

// Defines name_fp32, name_bf16 and name_fp16 by the template name<Format>(params, shapes). Arrays are of the format unless
// the template's comment says fp32; all arithmetic is in fp32, and a result is rounded once.
#define KERNELS(name)                                      \
  KERNEL(name##_fp32) { return name<Float32>(params, shapes); }  \
  KERNEL(name##_bf16) { return name<Bfloat16>(params, shapes); } \
  KERNEL(name##_fp16) { return name<Float16>(params, shapes); }

template <typename T>
inline const T* input(void** params, int number) {
  return static_cast<const T*>(params[number]);
}

template <typename T>
inline T* output(void** params, int number) {
  return static_cast<T*>(params[number]);
}
