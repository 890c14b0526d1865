// Collectives. Small ones exchange real data: the ranks of a communicator share a memory-mapped file and wait for each
// other there. Larger ones are counted and do nothing, since no result of theirs is read.
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <random>
#include <string>
#include <vector>

#include "record.h"

namespace {

constexpr uint64_t SMALL = 1 << 16;      // bytes of a rank's input; larger collectives exchange nothing
constexpr int FAILED = 15;               // HCCL_E_TIMEOUT
constexpr useconds_t LOOK_AGAIN = 100, LATER = 10000;  // polling intervals, microseconds: in the first second, after it
constexpr size_t ROOT_INFO = 4108;       // HCCL_ROOT_INFO_BYTES
constexpr uint32_t MAX_RANKS = 64;
constexpr uint64_t SECOND = 1000 * 1000, TIMEOUT = 1800 * SECOND;  // as HCCL_CONNECT_TIMEOUT: rank 0 may be saving 7B

// One rank's input to a collective. The file holds two counters, then a slot for each rank.
struct Slot {
  uint64_t bytes;
  char call[64];
  char data[SMALL];
};
struct Shared {
  std::atomic<uint64_t> arrived, left;  // ranks that wrote their slot, that read all slots; sums over all exchanges
  Slot slots[];
};

struct Comm {
  uint32_t ranks, rank;
  std::string name;
  Shared *shared;
  uint64_t exchanges = 0;
  std::mutex lock;
};

constexpr int INT8 = 0, INT16 = 1, INT32 = 2, FP32 = 4, INT64 = 5, UINT64 = 6, UINT8 = 7, FP64 = 10;
const struct {
  const char *name;
  uint64_t size;
} types[] = {{"int8", 1}, {"int16", 2}, {"int32", 4}, {"fp16", 2}, {"fp32", 4}, {"int64", 8},
             {"uint64", 8}, {"uint8", 1}, {"uint16", 2}, {"uint32", 4}, {"fp64", 8}, {"bf16", 2}};
uint64_t size_of(int type) { return type >= 0 && type < 12 ? types[type].size : 0; }
const char *name_of(int type) { return type >= 0 && type < 12 ? types[type].name : "?"; }

bool wait_for(const std::atomic<uint64_t> &count, uint64_t at_least) {
  for (uint64_t waited = 0; count.load() < at_least;) {
    if (waited > TIMEOUT) return false;
    useconds_t pause = waited < SECOND ? LOOK_AGAIN : LATER;
    usleep(pause);
    waited += pause;
  }
  return true;
}

// Exchange data with all ranks of the communicator: the data of each rank, in their order; empty after a timeout.
std::vector<std::vector<char>> exchange(Comm *comm, const std::string &call, const void *data, uint64_t bytes) {
  std::lock_guard<std::mutex> guard(comm->lock);
  std::vector<std::vector<char>> all;
  uint64_t before = comm->ranks * comm->exchanges++, after = before + comm->ranks;
  Slot &own = comm->shared->slots[comm->rank];
  bool free = wait_for(comm->shared->left, before);  // all ranks have read the previous exchange's slots
  own.bytes = bytes;
  snprintf(own.call, sizeof own.call, "%s", call.c_str());
  memcpy(own.data, data, bytes);
  comm->shared->arrived++;
  if (!free || !wait_for(comm->shared->arrived, after)) {
    dryrun::note_error("rank " + std::to_string(comm->rank) + " of " + std::to_string(comm->ranks) +
                       " timed out: not all ranks called " + call);
    return all;
  }
  for (uint32_t i = 0; i < comm->ranks; i++) {
    const Slot &slot = comm->shared->slots[i];
    if (slot.call != std::string(own.call) || slot.bytes != bytes)
      dryrun::note_error("ranks call different collectives: " + call + " here, " + slot.call + " on rank " +
                         std::to_string(i));
    all.emplace_back(slot.data, slot.data + bytes);
  }
  comm->shared->left++;
  return all;
}

template <class T>
void combine(char *to, const char *from, uint64_t values, int op) {
  auto *a = reinterpret_cast<T *>(to);
  auto *b = reinterpret_cast<const T *>(from);
  for (uint64_t i = 0; i < values; i++) {
    T x = a[i], y = b[i];
    a[i] = op == 0 ? static_cast<T>(x + y) : op == 1 ? static_cast<T>(x * y) : op == 2 ? (x > y ? x : y) : (x < y ? x : y);
  }
}

// The reduction of all ranks' data. Zeros for 16-bit floats: only kernels produce these, and kernels compute nothing.
std::vector<char> reduced(const std::vector<std::vector<char>> &all, int type, int op) {
  std::vector<char> out = all[0];
  uint64_t values = out.size() / size_of(type);
  for (size_t i = 1; i < all.size(); i++) switch (type) {
      case INT8: combine<int8_t>(out.data(), all[i].data(), values, op); break;
      case INT16: combine<int16_t>(out.data(), all[i].data(), values, op); break;
      case INT32: combine<int32_t>(out.data(), all[i].data(), values, op); break;
      case INT64: combine<int64_t>(out.data(), all[i].data(), values, op); break;
      case UINT64: combine<uint64_t>(out.data(), all[i].data(), values, op); break;
      case UINT8: combine<uint8_t>(out.data(), all[i].data(), values, op); break;
      case FP32: combine<float>(out.data(), all[i].data(), values, op); break;
      case FP64: combine<double>(out.data(), all[i].data(), values, op); break;
      default: out.assign(out.size(), 0);
    }
  return out;
}

// Records a collective, and returns the text that ranks compare to see whether they call the same one.
std::string record_call(const char *what, uint64_t bytes, int type, const Comm *comm, const void *stream) {
  std::string name = std::string(what) + " " + name_of(type) + " of " + std::to_string(comm->ranks);
  dryrun::count_collective(name, bytes, stream);
  return name;
}

int join(uint32_t ranks, const void *info, uint32_t rank, void **comm) {
  const char *folder = getenv("ASCEND_DRYRUN_RECORDS");
  std::string name(static_cast<const char *>(info));
  std::string path = std::string(folder ? folder : ".") + "/" + name + ".meeting";
  uint64_t bytes = sizeof(Shared) + ranks * sizeof(Slot);
  int file = open(path.c_str(), O_RDWR | O_CREAT, 0600);
  void *memory = file >= 0 && ftruncate(file, static_cast<off_t>(bytes)) == 0
                     ? mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0)
                     : MAP_FAILED;
  if (file >= 0) close(file);
  if (memory == MAP_FAILED || ranks > MAX_RANKS) {
    dryrun::note_error("can't share the file " + path + " among " + std::to_string(ranks) + " ranks");
    return FAILED;
  }
  auto *made = new Comm{ranks, rank, name, static_cast<Shared *>(memory), 0, {}};
  *comm = made;
  // Wait for all ranks, as HCCL does: afterwards the first rank withdraws the root info that the others need to join.
  return exchange(made, "HcclCommInitRootInfo", "", 0).empty() ? FAILED : 0;
}

}  // namespace

extern "C" {

// One rank calls this, and MindSpore sends the result to the others: the name of the file that they share.
int HcclGetRootInfo(void *info) {
  std::random_device random;
  memset(info, 0, ROOT_INFO);  // MindSpore sends all of it as text, which must be UTF-8
  snprintf(static_cast<char *>(info), 64, "comm-%08x%08x", random(), random());
  return 0;
}
int HcclCommInitRootInfo(uint32_t ranks, const void *info, uint32_t rank, void **comm) {
  return join(ranks, info, rank, comm);
}
int HcclCommInitRootInfoConfig(uint32_t ranks, const void *info, uint32_t rank, const void *, void **comm) {
  return join(ranks, info, rank, comm);
}
int HcclCommDestroy(void *) { return 0; }
int HcclGetRankId(Comm *comm, uint32_t *rank) {
  *rank = comm->rank;
  return 0;
}
int HcclGetRankSize(Comm *comm, uint32_t *ranks) {
  *ranks = comm->ranks;
  return 0;
}
int HcclGetCommName(Comm *comm, char *name) {
  strcpy(name, comm->name.c_str());
  return 0;
}
const char *HcclGetErrorString(int) { return "none"; }

int HcclAllReduce(void *in, void *out, uint64_t values, int type, int op, Comm *comm, void *stream) {
  uint64_t bytes = values * size_of(type);
  std::string call = record_call("AllReduce", bytes, type, comm, stream);
  if (bytes > SMALL) return 0;
  auto all = exchange(comm, call, in, bytes);
  if (all.empty()) return FAILED;
  memcpy(out, reduced(all, type, op).data(), bytes);
  return 0;
}
int HcclAllGather(void *in, void *out, uint64_t values, int type, Comm *comm, void *stream) {
  uint64_t bytes = values * size_of(type);
  std::string call = record_call("AllGather", bytes * comm->ranks, type, comm, stream);  // its whole output
  if (bytes > SMALL) return 0;
  auto all = exchange(comm, call, in, bytes);
  if (all.empty()) return FAILED;
  for (uint32_t i = 0; i < comm->ranks; i++) memcpy(static_cast<char *>(out) + i * bytes, all[i].data(), bytes);
  return 0;
}
int HcclReduceScatter(void *in, void *out, uint64_t values, int type, int op, Comm *comm, void *stream) {
  uint64_t bytes = values * size_of(type);
  std::string call = record_call("ReduceScatter", bytes * comm->ranks, type, comm, stream);  // its whole input
  if (bytes * comm->ranks > SMALL) return 0;
  auto all = exchange(comm, call, in, bytes * comm->ranks);
  if (all.empty()) return FAILED;
  memcpy(out, reduced(all, type, op).data() + comm->rank * bytes, bytes);
  return 0;
}
int HcclBroadcast(void *values_here, uint64_t values, int type, uint32_t root, Comm *comm, void *stream) {
  uint64_t bytes = values * size_of(type);
  std::string call = record_call("Broadcast", bytes, type, comm, stream);
  if (bytes > SMALL) return 0;
  auto all = exchange(comm, call, values_here, bytes);
  if (all.empty()) return FAILED;
  memcpy(values_here, all[root].data(), bytes);
  return 0;
}
int HcclBarrier(Comm *comm, void *stream) {
  std::string call = record_call("Barrier", 0, FP32, comm, stream);
  return exchange(comm, call, "", 0).empty() ? FAILED : 0;
}

}  // extern "C"
