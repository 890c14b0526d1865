// Operators. An aclnn operator X is called in two steps: aclnnXGetWorkspaceSize takes the arguments and returns an
// executor, and aclnnX launches it. MindSpore keeps executors and launches each many times with other addresses, so
// launches are counted, not executors.
//
// Nothing is computed. A kernel's results are set to zeros, so that a number which a program reads, such as a loss, is
// never the memory's old content.
#include <pthread.h>

#include <cstring>
#include <map>
#include <mutex>
#include <set>
#include <vector>

#include "record.h"

namespace {

// The object behind one of CANN's handles: a tensor, a list of tensors, or none for a scalar or an array of numbers.
struct Tensor {
  std::string dtype, shape;
  uint64_t bytes = 0;   // 0 where the tensor isn't contiguous
  void *address = nullptr;
  int64_t offset = 0;  // bytes from the address to the first element
};
struct Handle {
  std::vector<Tensor> tensors;
  bool list = false;
};

// One of a call's tensors, or lists of tensors. MindSpore passes its handle again when it changes an address.
struct Argument {
  const void *handle;
  Handle value;
};
struct Executor {
  const dryrun::Kernel *kernel = nullptr;
  std::vector<Argument> arguments;
  size_t first_result = 0, results_end = 0;  // range of the results among the arguments
  bool repeatable = false;
};

std::mutex lock;
std::map<const void *, Handle> handles;
std::set<Executor *> executors;
using Guard = std::lock_guard<std::mutex>;

void *add(Handle value) {
  Guard guard(lock);
  void *handle = calloc(1, 256);  // CANN's handles are opaque; MindSpore reads none of the memory
  handles[handle] = std::move(value);
  return handle;
}
int drop(const void *handle) {
  Guard guard(lock);
  if (handles.erase(handle)) free(const_cast<void *>(handle));
  return 0;
}

Tensor tensor_of(int type, const int64_t *dims, uint64_t count) {
  Tensor made{dryrun::dtype_name(type), "[", dryrun::dtype_size(type)};
  for (uint64_t i = 0; i < count; i++) {
    made.shape += (i ? "," : "") + std::to_string(dims[i]);
    made.bytes *= static_cast<uint64_t>(dims[i]);
  }
  made.shape += "]";
  return made;
}

bool contiguous(const int64_t *dims, const int64_t *strides, uint64_t count) {
  int64_t expected = 1;
  for (uint64_t i = count; i-- > 0; expected *= dims[i])
    if (dims[i] != 1 && strides[i] != expected) return false;
  return true;
}

void append(std::string &to, const std::string &what) { to += (to.empty() || what.empty() ? "" : " ") + what; }

std::string joined(const Handle &handle, std::string Tensor::*what) {
  std::string out;
  for (auto &tensor : handle.tensors) append(out, tensor.*what);
  return handle.list ? "{" + out + "}" : out;
}

void zero(const Tensor &result, const std::vector<Tensor> &given) {
  for (auto &tensor : given)
    if (tensor.address == result.address) return;  // updated in place: keeps what the host wrote to it
  if (result.address && result.bytes <= dryrun::KEPT)
    memset(static_cast<char *>(result.address) + result.offset, 0, result.bytes);
}

// The end (highest address) of the calling thread's stack.
const char *stack_end() {
  static thread_local const char *end = [] {
    pthread_attr_t attributes;
    void *start = nullptr;
    size_t size = 0;
    pthread_getattr_np(pthread_self(), &attributes);
    pthread_attr_getstack(&attributes, &start, &size);
    pthread_attr_destroy(&attributes);
    return static_cast<const char *>(start) + size;
  }();
  return end;
}

// Guess which of a call's arguments are its results. Numbers at the end, as of aclnnMm, are skipped. The results are
// the tensors before them, back to the next number; if there is no such number, only the last tensor.
void mark_results(Executor &made, const std::vector<bool> &is_tensor, bool in_place) {
  size_t end = is_tensor.size();
  while (end > 0 && !is_tensor[end - 1]) end--;
  size_t start = end;
  while (start > 0 && is_tensor[start - 1]) start--;
  made.results_end = made.arguments.size();
  made.first_result = made.results_end - (start > 0 ? end - start : end > 0);
  if (in_place) made.first_result = made.results_end;
}

int launch(const std::string &name, Executor *executor, const void *stream) {
  Guard guard(lock);
  if (!executors.count(executor)) {
    dryrun::note_error("launched without an executor: " + name);
    return 1;
  }
  dryrun::count_kernel(executor->kernel, stream);
  std::vector<Tensor> given;
  for (size_t i = 0; i < executor->arguments.size(); i++)
    for (auto &tensor : executor->arguments[i].value.tensors)
      if (i < executor->first_result)
        given.push_back(tensor);
      else
        zero(tensor, given);
  if (!executor->repeatable) {
    executors.erase(executor);
    delete executor;
  }
  return 0;
}

bool ends_with(const std::string &text, const std::string &end) {
  return text.size() > end.size() && text.compare(text.size() - end.size(), end.size(), end) == 0;
}

constexpr int MOST_ARGUMENTS = 80;  // aclnnFlashAttention… has about 50
constexpr intptr_t NEAR = 4096;     // bytes between two locals of one function

}  // namespace

extern "C" {

void *aclCreateTensor(const int64_t *dims, uint64_t count, int type, const int64_t *strides, int64_t offset, int,
                      const int64_t *, uint64_t, void *address) {
  Tensor made = tensor_of(type, dims, count);
  made.address = address;
  made.offset = offset * static_cast<int64_t>(dryrun::dtype_size(type));
  if (strides && !contiguous(dims, strides, count)) made.bytes = 0;
  return add({{made}});
}
void *aclCreateTensorDesc(int type, int count, const int64_t *dims, int) {
  return add({{tensor_of(type, dims, static_cast<uint64_t>(count))}});
}
void *aclCreateTensorList(void *const *tensors, uint64_t count) {
  Handle all{{}, true};
  {
    Guard guard(lock);
    for (uint64_t i = 0; i < count; i++)
      for (auto &tensor : handles[tensors[i]].tensors) all.tensors.push_back(tensor);
  }
  return add(all);
}
void *aclCreateScalar(void *, int) { return add({}); }
void *aclCreateIntArray(const int64_t *, uint64_t) { return add({}); }
void *aclCreateFloatArray(const float *, uint64_t) { return add({}); }
void *aclCreateBoolArray(const bool *, uint64_t) { return add({}); }
void *aclCreateScalarList(void *const *, uint64_t) { return add({}); }
int aclDestroyTensor(const void *handle) { return drop(handle); }
int aclDestroyTensorList(const void *handle) { return drop(handle); }
int aclDestroyScalar(const void *handle) { return drop(handle); }
int aclDestroyScalarList(const void *handle) { return drop(handle); }
int aclDestroyIntArray(const void *handle) { return drop(handle); }
int aclDestroyFloatArray(const void *handle) { return drop(handle); }
int aclDestroyBoolArray(const void *handle) { return drop(handle); }
void aclDestroyTensorDesc(const void *handle) { drop(handle); }

int aclSetAclOpExecutorRepeatable(Executor *executor) {
  Guard guard(lock);
  if (executors.count(executor)) executor->repeatable = true;
  return 0;
}
int aclDestroyAclOpExecutor(Executor *executor) {
  Guard guard(lock);
  if (executors.erase(executor)) delete executor;
  return 0;
}
int aclSetDynamicTensorAddr(Executor *executor, size_t, size_t place, const void *handle, void *address) {
  Guard guard(lock);
  if (!executors.count(executor)) return 1;
  for (auto &argument : executor->arguments)
    if (argument.handle == handle && place < argument.value.tensors.size()) argument.value.tensors[place].address = address;
  return 0;
}
int aclSetTensorAddr(Executor *executor, size_t index, const void *handle, void *address) {
  return aclSetDynamicTensorAddr(executor, index, 0, handle, address);
}

// Called from stub.S for every function aclnn*, with its six integer registers and the start of its stack arguments.
int dryrun_aclnn(const char *text, const uint64_t *registers, const uint64_t *stack) {
  std::string name = text, ending = "GetWorkspaceSize";
  if (name == "aclnnInit" || name == "aclnnFinalize") return 0;
  if (!ends_with(name, ending))  // (workspace, its size, executor, stream)
    return launch(name, reinterpret_cast<Executor *>(registers[2]), reinterpret_cast<void *>(registers[3]));
  name.resize(name.size() - ending.size());
  auto argument = [&](int i) { return i < 6 ? registers[i] : stack[i - 6]; };
  auto local = [&](uint64_t value) {  // whether it points to a local variable of the caller that is 0
    return value > (uint64_t)stack && value + 8 <= (uint64_t)stack_end() && value % 8 == 0 &&
           *reinterpret_cast<uint64_t *>(value) == 0;
  };
  auto *made = new Executor;
  std::string dtypes, shapes;
  std::vector<bool> is_tensor;
  Guard guard(lock);
  for (int i = 0; i < MOST_ARGUMENTS && (const char *)&stack[i - 4] < stack_end(); i++) {
    uint64_t value = argument(i), next = argument(i + 1);
    // Look for handles first: a handle may be close above this thread's stack, and its memory begins with zeros.
    auto found = handles.find(reinterpret_cast<void *>(value));
    is_tensor.push_back(found != handles.end() && !found->second.tensors.empty());
    if (is_tensor.back()) {
      append(dtypes, joined(found->second, &Tensor::dtype));
      append(shapes, joined(found->second, &Tensor::shape));
      made->arguments.push_back({found->first, found->second});
    }
    if (found != handles.end() || !local(value) || !local(next)) continue;
    if (value == next || std::abs(static_cast<intptr_t>(value - next)) > NEAR) continue;
    // The last two arguments are &workspace_size and &executor.
    is_tensor.pop_back();
    mark_results(*made, is_tensor, name.find("Inplace") != std::string::npos);
    made->kernel = dryrun::kernel(name, dtypes, shapes);
    dryrun::count_executor(made->kernel);
    executors.insert(made);
    *reinterpret_cast<Executor **>(next) = made;
    return 0;
  }
  delete made;
  dryrun::note_error("no executor found in the arguments of " + name);
  return 1;
}

// aclop, the older interface, for operators without an aclnn call.
struct Buffer {
  void *data;
  size_t size;
};
void *aclCreateDataBuffer(void *data, size_t size) { return new Buffer{data, size}; }
void *aclGetDataBufferAddr(const void *buffer) { return static_cast<const Buffer *>(buffer)->data; }
int aclUpdateDataBuffer(void *buffer, void *data, size_t size) {
  *static_cast<Buffer *>(buffer) = {data, size};
  return 0;
}
int aclDestroyDataBuffer(const void *buffer) {
  delete static_cast<const Buffer *>(buffer);
  return 0;
}

int aclopCompileAndExecuteV2(const char *op, int inputs, void **in, Buffer **in_data, int outputs, void **out,
                             Buffer **out_data, void *, int, int, const char *, void *stream) {
  std::string dtypes, shapes;
  std::vector<Tensor> given;
  Guard guard(lock);
  for (int i = 0; i < inputs + outputs; i++) {
    const Handle &handle = handles[i < inputs ? in[i] : out[i - inputs]];
    const Buffer &buffer = i < inputs ? *in_data[i] : *out_data[i - inputs];
    append(dtypes, joined(handle, &Tensor::dtype));
    append(shapes, joined(handle, &Tensor::shape));
    Tensor tensor{"", "", buffer.size, buffer.data, 0};
    if (i < inputs)
      given.push_back(tensor);
    else
      zero(tensor, given);
  }
  dryrun::count_kernel(dryrun::kernel(std::string("aclop ") + op, dtypes, shapes), stream);
  // The only operator that is computed: x[row] of a small array. The product slices the documents' ends so, and
  // FlashAttention's wrapper reads them on the host and refuses zeros.
  if (strcmp(op, "StridedSlice") == 0 && inputs > 1 && in_data[1]->size >= 8 && out_data[0]->size <= dryrun::KEPT) {
    int64_t row = *static_cast<int64_t *>(in_data[1]->data);
    char *from = static_cast<char *>(in_data[0]->data) + row * static_cast<int64_t>(out_data[0]->size);
    if (row >= 0 && (row + 1) * out_data[0]->size <= in_data[0]->size)
      memmove(out_data[0]->data, from, out_data[0]->size);
  }
  return 0;
}
int aclopCompileAndExecute(const char *op, int inputs, void **in, Buffer **in_data, int outputs, void **out,
                           Buffer **out_data, void *, int, int, const char *, void *stream) {
  return aclopCompileAndExecuteV2(op, inputs, in, in_data, outputs, out, out_data, nullptr, 0, 0, nullptr, stream);
}

}  // extern "C"
