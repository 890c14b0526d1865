// This process's counters, written to $ASCEND_DRYRUN_RECORDS/PID.json when it ends, if it used a device; and to
// PID-NUMBER.json where it calls dryrun_mark(NUMBER).
#include "record.h"

#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

// The stubs in stub.S that only return success, and the number of calls of each.
extern "C" const char *const dryrun_stub_names[];
extern "C" uint64_t dryrun_stub_counts[];
extern "C" const uint64_t dryrun_stub_total;

namespace dryrun {
namespace {

struct Sum {
  uint64_t count = 0, bytes = 0;
  void add(uint64_t more) { count++, bytes += more; }
};

// A collective that counts as running until another stream or the host waits for it.
struct Running {
  std::string name;
  uint64_t launched_before;  // kernels launched until it started, on streams without collectives
};

struct Exchanged {
  Sum sum;
  uint64_t overlapped = 0;  // kernels launched while it ran
};

struct Calls {
  uint64_t launches = 0, executors = 0;
};

struct State {
  std::mutex lock;
  std::map<std::string, std::unique_ptr<Kernel>> known;
  std::map<const Kernel *, Calls> kernels;
  std::map<std::string, Exchanged> collectives;
  std::map<const void *, std::vector<Running>> running;  // by stream
  // event -> stream, and number of collectives that ran there when it was recorded
  std::map<const void *, std::pair<const void *, size_t>> events;
  uint64_t launched = 0;
  std::map<std::string, Sum> copies;
  std::map<std::string, uint64_t> waits;
  std::map<std::string, double> notes;  // figures of MindSpore's pool, from sitecustomize.py
  std::vector<std::string> errors;
  uint64_t in_use = 0, peak = 0;
};

State &state() {
  static State *only = new State;  // never destroyed: MindSpore's threads may call until the process ends
  return *only;
}

using Guard = std::lock_guard<std::mutex>;

std::string quoted(const std::string &text) {
  std::string out = "\"";
  for (unsigned char c : text) {
    if (c == '"' || c == '\\') out += '\\';
    out += c < 32 ? ' ' : static_cast<char>(c);
  }
  return out + "\"";
}

std::string json(uint64_t value) { return std::to_string(value); }
std::string json(double value) { return std::to_string(value); }
std::string json(const Sum &sum) { return "[" + json(sum.count) + ", " + json(sum.bytes) + "]"; }

std::string json(const Exchanged &exchanged) {
  return "[" + json(exchanged.sum.count) + ", " + json(exchanged.sum.bytes) + ", " + json(exchanged.overlapped) + "]";
}

template <class Value>
std::string json(const std::map<std::string, Value> &values) {
  std::string out;
  for (auto &[key, value] : values) out += (out.empty() ? "" : ", ") + quoted(key) + ": " + json(value);
  return "{" + out + "}";
}

std::string json(const std::map<const Kernel *, Calls> &kernels) {
  std::string out;
  for (auto &[kernel, calls] : kernels)
    out += (out.empty() ? "[" : ",\n  [") + quoted(kernel->name) + ", " + quoted(kernel->dtypes) + ", " +
           quoted(kernel->shapes) + ", " + json(calls.launches) + ", " + json(calls.executors) + "]";
  return "[" + out + "]";
}

std::string json(const std::vector<std::string> &texts) {
  std::string out;
  for (auto &text : texts) out += (out.empty() ? "" : ", ") + quoted(text);
  return "[" + out + "]";
}

void write(const std::string &ending = "") {
  const char *folder = getenv("ASCEND_DRYRUN_RECORDS"), *rank = getenv("RANK_ID");
  State &s = state();
  if (!folder || !s.peak) return;
  std::string path = folder + ("/" + std::to_string(getpid()) + ending + ".json");
  FILE *file = fopen((path + ".part").c_str(), "w");
  if (!file) return;
  std::map<std::string, uint64_t> others;
  for (uint64_t i = 0; i < dryrun_stub_total; i++)
    if (dryrun_stub_counts[i]) others[dryrun_stub_names[i]] = dryrun_stub_counts[i];
  std::string out = "{\"rank\": " + std::to_string(rank ? atoi(rank) : 0) + ", \"peak\": " + json(s.peak) +
                    ", \"notes\": " + json(s.notes) + ",\n \"copies\": " + json(s.copies) + ", \"waits\": " +
                    json(s.waits) + ",\n \"collectives\": " + json(s.collectives) + ",\n \"errors\": " +
                    json(s.errors) + ",\n \"others\": " + json(others) + ",\n \"kernels\": " + json(s.kernels) + "}\n";
  bool whole = fputs(out.c_str(), file) >= 0;
  whole = fclose(file) == 0 && whole;
  if (!whole || rename((path + ".part").c_str(), path.c_str())) perror(path.c_str());
}

// End the first `count` collectives that run on a stream: something waits for them.
void end_first(const void *stream, size_t count) {
  State &s = state();
  auto &running = s.running[stream];
  count = count < running.size() ? count : running.size();
  for (size_t i = 0; i < count; i++) s.collectives[running[i].name].overlapped += s.launched - running[i].launched_before;
  running.erase(running.begin(), running.begin() + static_cast<std::ptrdiff_t>(count));
  for (auto &[event, mark] : s.events)  // later events on this stream have fewer collectives before them now
    if (mark.first == stream) mark.second -= count < mark.second ? count : mark.second;
}

struct AtEnd {
  ~AtEnd() {
    Guard guard(state().lock);
    write();
  }
} at_end;

constexpr int BF16 = 27;
const struct {
  const char *name;
  uint64_t size;
} types[] = {{"fp32", 4},   {"fp16", 2},   {"int8", 1},  {"int32", 4},  {"uint8", 1},  {"?5", 0},
             {"int16", 2},  {"uint16", 2}, {"uint32", 4}, {"int64", 8}, {"uint64", 8}, {"fp64", 8},
             {"bool", 1},   {"string", 0}, {"?14", 0},   {"?15", 0},    {"complex64", 8}, {"complex128", 16}};

}  // namespace

const char *dtype_name(int type) { return type == BF16 ? "bf16" : type >= 0 && type < 18 ? types[type].name : "?"; }
uint64_t dtype_size(int type) { return type == BF16 ? 2 : type >= 0 && type < 18 ? types[type].size : 0; }

const Kernel *kernel(const std::string &name, const std::string &dtypes, const std::string &shapes) {
  Guard guard(state().lock);
  auto &found = state().known[name + " " + dtypes];
  if (!found) found.reset(new Kernel{name, dtypes, shapes});
  return found.get();
}

void count_kernel(const Kernel *kernel, const void *stream) {
  Guard guard(state().lock);
  state().kernels[kernel].launches++;
  state().launched += !state().running.count(stream);
}

void count_executor(const Kernel *kernel) {
  Guard guard(state().lock);
  state().kernels[kernel].executors++;
}

void count_collective(const std::string &name, uint64_t bytes, const void *stream) {
  Guard guard(state().lock);
  state().collectives[name].sum.add(bytes);
  state().running[stream].push_back({name, state().launched});
}

void record_event(const void *event, const void *stream) {
  Guard guard(state().lock);
  auto found = state().running.find(stream);
  if (found != state().running.end()) state().events[event] = {stream, found->second.size()};
}

void wait_for_event(const void *event) {
  Guard guard(state().lock);
  auto found = state().events.find(event);
  if (found == state().events.end()) return;
  end_first(found->second.first, found->second.second);
  state().events.erase(found);
}

void wait_for_stream(const void *stream) {
  Guard guard(state().lock);
  for (auto &[other, running] : state().running)
    if (!stream || other == stream) end_first(other, running.size());
}

void count_copy(int kind, uint64_t bytes) {
  static const char *kinds[] = {"host to host", "host to device", "device to host", "device to device"};
  Guard guard(state().lock);
  state().copies[kind >= 0 && kind < 4 ? kinds[kind] : "kind " + std::to_string(kind)].add(bytes);
}

void count_wait(const char *what) {
  Guard guard(state().lock);
  state().waits[what]++;
}

void count_memory(int64_t bytes) {
  Guard guard(state().lock);
  state().in_use += bytes;
  if (state().in_use > state().peak) state().peak = state().in_use;
}

uint64_t memory_in_use() {
  Guard guard(state().lock);
  return state().in_use;
}

void note_error(const std::string &text) {
  Guard guard(state().lock);
  if (state().errors.size() < 100) state().errors.push_back(text);
}

}  // namespace dryrun

// Called by inside/sitecustomize.py, and dryrun_mark by a dry run's own script.
extern "C" {

int dryrun_used() { return dryrun::state().peak > 0; }

void dryrun_note(const char *key, double value) {
  dryrun::Guard guard(dryrun::state().lock);
  dryrun::state().notes[key] = value;
}

void dryrun_mark(int number) {
  dryrun::Guard guard(dryrun::state().lock);
  dryrun::write("-" + std::to_string(number));
}

}  // extern "C"
