// The record of the calls that MindSpore makes to the stand-ins.
#pragma once
#include <cstdint>
#include <string>

namespace dryrun {

constexpr uint64_t KEPT = 1 << 20;  // bytes; larger arrays aren't copied, filled or zeroed, only counted

// A kernel in one set of dtypes; there is one object for each.
struct Kernel {
  std::string name;
  std::string dtypes;  // of the tensors in the call's order, results last; a list of tensors in braces
  std::string shapes;  // the first call's
};

const char *dtype_name(int type);  // of an aclDataType
uint64_t dtype_size(int type);     // bytes; 0: unknown
const Kernel *kernel(const std::string &name, const std::string &dtypes, const std::string &shapes);

void count_kernel(const Kernel *kernel, const void *stream);
void count_executor(const Kernel *kernel);  // prepared for a call: when a graph is compiled, or for new shapes
void count_collective(const std::string &name, uint64_t bytes, const void *stream);
void count_copy(int kind, uint64_t bytes);  // aclrtMemcpyKind
void count_wait(const char *what);          // the host waits for a stream, an event or the device
// Synchronization of streams: an event is recorded on one, and another one waits for it.
void record_event(const void *event, const void *stream);
void wait_for_event(const void *event);
void wait_for_stream(const void *stream);  // null: all streams
void count_memory(int64_t bytes);           // allocated from the runtime; negative: freed
uint64_t memory_in_use();
void note_error(const std::string &text);

}  // namespace dryrun
