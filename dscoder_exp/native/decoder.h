// What decoder.cc is called with. model/decoder.py has the same structs for ctypes; the order of their fields counts.
#pragma once
#include <cstdint>

// Positions in a block of the cache of keys: consecutive positions lie side by side, so that their scores are computed
// in vector registers. Rows of the cache of values end with zeros up to a multiple of it, for the same reason.
constexpr int64_t KEYS = 16;

// A block's weights, each matrix [out, in] as Hugging Face stores it, in the model's format.
struct Block {
  const void *input_norm, *q, *k, *v, *o, *post_attention_norm, *gate, *up, *down;
};

// cos, sin: fp32 [positions, head_dim]. keys: [layers, slots, key_heads, capacity / KEYS, head_dim, KEYS], values:
// [layers, slots, key_heads, capacity, head_dim rounded up], in the model's format; capacity is a multiple of KEYS.
struct Decoder {
  int64_t layers, hidden, heads, key_heads, head_dim, intermediate, vocabulary, slots, capacity;
  const Block* blocks;
  const void *embedding, *norm, *head;
  const float *cos, *sin;
  void *keys, *values;
  float eps;
};

// `count` tokens, each at a position of a slot. Tokens of one slot are in the order of their positions. Logits are
// computed for the last `num_logits` of them: fp32 [num_logits, vocabulary].
struct Tokens {
  int64_t count, num_logits;
  const int32_t *slots, *ids, *positions;
  float* logits;
};
