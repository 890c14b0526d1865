// The simulated device. Its memory is this process's, reserved without being backed until written; its streams execute
// everything synchronously.
#include <sys/mman.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <string>

#include "record.h"

namespace {

constexpr int OUT_OF_MEMORY = 207001;  // ACL_ERROR_RT_MEMORY_ALLOCATION
constexpr int HOST_TO_DEVICE = 1, DEVICE_TO_HOST = 2;
constexpr size_t PAGE = 4096;

std::mutex lock;
std::map<char *, size_t> regions;   // of the device's memory, by start address
std::map<void *, size_t> physical;  // handle -> size of physical memory, which MindSpore maps into a region later
using Guard = std::lock_guard<std::mutex>;

uint64_t capacity() {
  static const char *text = getenv("ASCEND_DRYRUN_HBM");
  static uint64_t value = text ? strtoull(text, nullptr, 10) : 64ull << 30;
  return value;
}

size_t mapped(size_t bytes) { return (bytes + PAGE - 1) / PAGE * PAGE + PAGE; }
void *reserve(size_t bytes) {
  void *memory = mmap(nullptr, mapped(bytes), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  return memory == MAP_FAILED ? nullptr : memory;
}
bool fits(size_t bytes) { return dryrun::memory_in_use() + bytes <= capacity(); }

int allocate(void **memory, size_t bytes) {
  *memory = fits(bytes) ? reserve(bytes) : nullptr;
  if (!*memory) return OUT_OF_MEMORY;
  Guard guard(lock);
  regions[static_cast<char *>(*memory)] = bytes;
  dryrun::count_memory(static_cast<int64_t>(bytes));
  return 0;
}
size_t forget(void *memory) {
  Guard guard(lock);
  auto found = regions.find(static_cast<char *>(memory));
  if (found == regions.end()) return 0;
  size_t bytes = found->second;
  munmap(memory, mapped(bytes));
  regions.erase(found);
  return bytes;
}
bool on_device(const void *at, size_t bytes) {
  Guard guard(lock);
  auto after = regions.upper_bound(static_cast<char *>(const_cast<void *>(at)));
  if (after == regions.begin()) return false;
  auto &[start, size] = *--after;
  return static_cast<const char *>(at) + bytes <= start + size;
}

int copy(void *to, size_t room, const void *from, size_t bytes, int kind) {
  dryrun::count_copy(kind, bytes);
  const void *device = kind == HOST_TO_DEVICE ? to : from;
  if ((kind == HOST_TO_DEVICE || kind == DEVICE_TO_HOST) && !on_device(device, bytes))
    dryrun::note_error("a copy of " + std::to_string(bytes) + " bytes, kind " + std::to_string(kind) +
                       ", outside what was allocated on the device");
  if (bytes > room) dryrun::note_error("a copy of " + std::to_string(bytes) + " bytes to " + std::to_string(room));
  if (bytes <= dryrun::KEPT) memmove(to, from, bytes);
  return 0;
}
int fill(void *memory, int value, size_t bytes) {
  if (bytes <= dryrun::KEPT) memset(memory, value, bytes);
  return 0;
}

int make_handle(void **handle) {
  *handle = calloc(1, 256);
  return 0;
}

thread_local void *context;
void *first_context;

}  // namespace

extern "C" {

const char *aclrtGetSocName() { return "Ascend910B1"; }
const char *aclGetRecentErrMsg() { return "none"; }

int aclrtCreateContext(void **made, int) {
  make_handle(made);
  context = *made;
  if (!first_context) first_context = context;
  return 0;
}
int aclrtGetCurrentContext(void **found) {
  if (!first_context) make_handle(&first_context);
  if (!context) context = first_context;
  *found = context;
  return 0;
}
int aclrtSetCurrentContext(void *given) {
  context = given;
  return 0;
}
int aclrtGetDevice(int *device) { return *device = 0; }
int aclrtGetDeviceCount(uint32_t *count) {
  *count = 8;
  return 0;
}
int aclrtGetRunMode(int *mode) {
  *mode = 1;  // ACL_HOST
  return 0;
}
int aclrtGetMemInfo(int, size_t *free, size_t *total) {
  *total = capacity();
  *free = capacity() - dryrun::memory_in_use();
  return 0;
}
int aclrtDeviceGetStreamPriorityRange(int *least, int *greatest) {
  *least = 7;
  return *greatest = 0;
}
int aclrtGetResInCurrentThread(int, uint32_t *cores) {
  *cores = 24;
  return 0;
}
int aclrtGetDeviceResLimit(int, int, uint32_t *cores) {
  *cores = 24;
  return 0;
}

int aclrtMalloc(void **memory, size_t bytes, int) { return allocate(memory, bytes); }
int aclrtMallocAlign32(void **memory, size_t bytes, int) { return allocate(memory, bytes); }
int aclrtFree(void *memory) {
  dryrun::count_memory(-static_cast<int64_t>(forget(memory)));
  return 0;
}
int aclrtMallocHost(void **memory, size_t bytes) { return posix_memalign(memory, PAGE, bytes ? bytes : 1); }
int aclrtFreeHost(void *memory) {
  free(memory);
  return 0;
}
// Virtual memory: address ranges, and physical memory behind them. Only the latter counts against the card's capacity.
int aclrtReserveMemAddress(void **memory, size_t bytes, size_t, void *, uint64_t) {
  *memory = reserve(bytes);
  if (!*memory) return OUT_OF_MEMORY;
  Guard guard(lock);
  regions[static_cast<char *>(*memory)] = bytes;
  return 0;
}
int aclrtReleaseMemAddress(void *memory) {
  forget(memory);
  return 0;
}
int aclrtMallocPhysical(void **handle, size_t bytes, const void *, uint64_t) {
  if (!fits(bytes)) return OUT_OF_MEMORY;
  make_handle(handle);
  Guard guard(lock);
  physical[*handle] = bytes;
  dryrun::count_memory(static_cast<int64_t>(bytes));
  return 0;
}
int aclrtFreePhysical(void *handle) {
  Guard guard(lock);
  auto found = physical.find(handle);
  if (found == physical.end()) return 0;
  dryrun::count_memory(-static_cast<int64_t>(found->second));
  physical.erase(found);
  free(handle);
  return 0;
}

int aclrtMemcpy(void *to, size_t room, const void *from, size_t bytes, int kind) {
  return copy(to, room, from, bytes, kind);
}
int aclrtMemcpyAsync(void *to, size_t room, const void *from, size_t bytes, int kind, void *) {
  return copy(to, room, from, bytes, kind);
}
int aclrtMemset(void *memory, size_t, int value, size_t bytes) { return fill(memory, value, bytes); }
int aclrtMemsetAsync(void *memory, size_t, int value, size_t bytes, void *) { return fill(memory, value, bytes); }

int aclrtCreateStream(void **stream) { return make_handle(stream); }
int aclrtCreateStreamWithConfig(void **stream, uint32_t, uint32_t) { return make_handle(stream); }
int aclrtCreateEventWithFlag(void **event, uint32_t) { return make_handle(event); }
int aclrtCreateEventExWithFlag(void **event, uint32_t) { return make_handle(event); }
int aclrtStreamQuery(void *, int *status) { return *status = 0; }  // complete
int aclrtQueryEventStatus(void *, int *status) {
  *status = 1;  // complete
  return 0;
}
int aclrtEventElapsedTime(float *milliseconds, void *, void *) {
  *milliseconds = 0;
  return 0;
}
int aclrtLaunchCallback(void (*function)(void *), void *data, int, void *) {
  function(data);
  return 0;
}

// A thread polls this for callbacks. There are none: aclrtLaunchCallback calls its function at once.
int aclrtProcessReport(int) {
  usleep(20000);
  return 0;
}

int aclrtSynchronizeStream(void *stream) {
  dryrun::count_wait("stream");
  dryrun::wait_for_stream(stream);
  return 0;
}
int aclrtSynchronizeStreamWithTimeout(void *stream, int) { return aclrtSynchronizeStream(stream); }
int aclrtSynchronizeDevice() {
  dryrun::count_wait("device");
  dryrun::wait_for_stream(nullptr);
  return 0;
}
int aclrtSynchronizeDeviceWithTimeout(int) { return aclrtSynchronizeDevice(); }
int aclrtSynchronizeEvent(void *event) {
  dryrun::count_wait("event");
  dryrun::wait_for_event(event);
  return 0;
}
int aclrtRecordEvent(void *event, void *stream) {
  dryrun::record_event(event, stream);
  return 0;
}
int aclrtStreamWaitEvent(void *, void *event) {
  dryrun::wait_for_event(event);
  return 0;
}

}  // extern "C"
