// What the stand-ins write down of the calls that MindSpore makes, and the file that it ends up in.
#pragma once
#include <cstdint>
#include <string>

namespace dryrun {

constexpr uint64_t KEPT = 1 << 20;  // bytes of an array that is really copied, filled or zeroed; larger ones are counted

// A kernel with the dtypes of its tensors; there is one of each.
struct Kernel {
  std::string name;
  std::string dtypes;  // of the tensors in the call's order, results last; a list of tensors in braces
  std::string shapes;  // the first call's
};

const char *dtype_name(int type);  // of an aclDataType
uint64_t dtype_size(int type);     // bytes; 0: unknown
const Kernel *kernel(const std::string &name, const std::string &dtypes, const std::string &shapes);

void count_kernel(const Kernel *kernel, const void *stream);
void count_executor(const Kernel *kernel);  // made for a call: as graphs are compiled, or where a call has new shapes
void count_collective(const std::string &name, uint64_t bytes, const void *stream);
void count_copy(int kind, uint64_t bytes);  // aclrtMemcpyKind
void count_wait(const char *what);          // the host stands still until a stream, an event or the device is done
// What stands between streams: an event is recorded on one, and another one waits for it.
void record_event(const void *event, const void *stream);
void wait_for_event(const void *event);
void wait_for_stream(const void *stream);  // null: for all of them
void count_memory(int64_t bytes);           // handed out by the runtime, or given back
uint64_t memory_in_use();
void note_error(const std::string &text);

}  // namespace dryrun
