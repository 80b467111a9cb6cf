// A CUDA driver that runs kernels on the CPU: what `cuda/gpu.rs` calls of libcuda, and no more. Work is queued by stream and
// done only when somebody waits for it, or another stream waits for an event behind it, so that memory that is used again
// too early, or read before it is there, shows as a wrong result. Kernels are those of the libraries in `kernels` beside this
// one, found by name; what a module's image is does not matter. A stream that captures keeps what it is given, with copies of
// the arguments, and a graph does it again at each launch; what a real capture refuses spoils it here too: waits, memory,
// modules, events of others, work of the legacy stream. For tests of everything around the kernels: it says nothing of a device.
//
// What it plays is set by the environment: SIMT_STREAMS (what streams do between waits: "late": nothing; "beside": all but
// the first of who opened a device do what they can at once; "random:n": now and then a step of any), SIMT_CAPTURE ("no": there is none;
// "kernels": of kernels, copies and zeros only), SIMT_DEAF (set: no stream waits for an event), SIMT_DRIVER (13000), SIMT_DEVICES (1), SIMT_CAPABILITY (90), SIMT_MEMORY (bytes,
// 8 GiB), SIMT_BUSY (set: the device is another's), SIMT_SILENT (set: it does not tell how
// far it is), SIMT_FAIL (name:n: the n-th start of that kernel, from 1, fails, and so
// does everything after it; name may be "*"), SIMT_LOST (a file: made at that failure, and while it is there no process gets a
// device).
#include <array>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <dirent.h>
#include <dlfcn.h>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <unistd.h>
#include <utility>
#include <vector>

extern "C" {
typedef int CUresult;
enum : CUresult { SUCCESS = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, UNAVAILABLE = 46, INVALID_HANDLE = 400, CAPTURE_UNSUPPORTED = 900, CAPTURE_INVALIDATED = 901, CAPTURE_IMPLICIT = 906, INVALID_DEVICE = 101, NOT_FOUND = 500, NOT_SUPPORTED = 801, NOT_READY = 600, ILLEGAL_ADDRESS = 700, LAUNCH_FAILED = 719, UNKNOWN = 999 };
}

namespace {
typedef int (*Simt)(const unsigned*, size_t, unsigned, uint64_t, char*, size_t, void**);
struct Function { std::string name; Simt run; size_t starts = 0; };

// What a stream is to do next; false: not yet, ask again.
typedef std::function<bool()> Step;
// What makes a step each time that it is put on a stream.
typedef std::function<Step()> Maker;
struct Graph { std::vector<Maker> makers; bool spoilt = false, destroyed = false; };
struct Stream { std::deque<Step> queue; bool busy = false, first = false; Graph* capture = nullptr; };
// How often it was recorded, how much of that is done, where it was recorded last, and when that was done by the host's clock.
struct Event { uint64_t recorded = 0, done = 0; Stream* stream = nullptr; double at_ms = 0; };

std::recursive_mutex all;
CUresult failed = SUCCESS;
std::map<uint64_t, std::vector<unsigned char>> memory;
size_t used = 0, any_starts = 0;
std::map<std::string, Function> functions;
std::vector<Stream*> streams;
// What the thread captures.
thread_local Graph* capturing = nullptr;

const char* text(const char* name, const char* otherwise) { const char* v = getenv(name); return v && *v ? v : otherwise; }
int number(const char* name, int otherwise) { const char* v = getenv(name); return v && *v ? atoi(v) : otherwise; }
size_t room() { return strtoull(text("SIMT_MEMORY", "8589934592"), nullptr, 10); }

// Does what a stream can do, up to where `enough`; whether it came there.
template <typename Enough> bool advance(Stream* stream, Enough enough) {
  while (!enough()) {
    // Busy: it waits for an event behind itself.
    if (stream->queue.empty() || stream->busy) return false;
    stream->busy = true;
    bool done = failed != SUCCESS || stream->queue.front()();
    stream->busy = false;
    if (!done) return false;
    stream->queue.pop_front();
  }
  return true;
}
// The same, as long as it takes, with the lock open for others in between.
template <typename Enough> CUresult wait_for(std::unique_lock<std::recursive_mutex>& lock, Stream* stream, Enough enough) {
  while (!advance(stream, enough) && failed == SUCCESS) {
    lock.unlock();
    usleep(50);
    lock.lock();
  }
  return failed;
}
bool happened(Event* event, uint64_t number) {
  auto enough = [=] { return event->done >= number; };
  return enough() || advance(event->stream, enough);
}
// The allocation that holds these bytes.
bool inside(uint64_t at, size_t bytes) {
  auto next = memory.upper_bound(at);
  if (next == memory.begin()) return false;
  auto& held = *--next;
  return at + bytes <= held.first + held.second.size();
}
// What streams do by themselves, between waits.
void play() {
  static const std::string order = text("SIMT_STREAMS", "late");
  static uint64_t state = order.rfind("random:", 0) == 0 ? strtoull(order.c_str() + 7, nullptr, 10) * 2 + 1 : 0;
  if (order == "beside") {
    for (size_t i = 0; i < streams.size(); i++) {
      Stream* stream = streams[i];
      if (!stream->first) advance(stream, [=] { return stream->queue.empty(); });
    }
  } else if (state) {
    for (int turns = 0; turns < 3; turns++) {
      state = state * 6364136223846793005u + 1442695040888963407u;
      Stream* stream = streams[(state >> 33) % streams.size()];
      size_t left = stream->queue.size();
      if ((state >> 60) % 2 && left) advance(stream, [=] { return stream->queue.size() < left; });
    }
  }
}
// What a capture does not take spoils it.
CUresult spoil(Graph* graph, CUresult why) { graph->spoilt = true; return why; }
CUresult put(void* to, Maker make) {
  if (failed != SUCCESS) return failed;
  auto* stream = static_cast<Stream*>(to);
  if (!stream) return capturing ? spoil(capturing, CAPTURE_IMPLICIT) : INVALID_HANDLE;
  if (stream->capture) {
    stream->capture->makers.push_back(std::move(make));
    return SUCCESS;
  }
  stream->queue.push_back(make());
  play();
  return SUCCESS;
}
// What is never part of a capture.
CUresult enqueue_step(void* to, Step what) {
  auto* stream = static_cast<Stream*>(to);
  if (stream && stream->capture) return spoil(stream->capture, CAPTURE_UNSUPPORTED);
  return put(to, [what = std::move(what)] { return what; });
}
CUresult enqueue(void* stream, std::function<void()> what) {
  Step step = [what = std::move(what)] { what(); return true; };
  return put(stream, [step = std::move(step)] { return step; });
}
CUresult allocate(uint64_t* to, size_t bytes) {
  if (failed != SUCCESS) return failed;
  if (bytes == 0) return INVALID_VALUE;
  if (used + bytes > room()) return OUT_OF_MEMORY;
  std::vector<unsigned char> held(bytes, 0xff);
  uint64_t at = reinterpret_cast<uint64_t>(held.data());
  memory[at] = std::move(held);
  used += bytes;
  *to = at;
  return SUCCESS;
}
void release(uint64_t at) {
  {
    auto found = memory.find(at);
    if (found == memory.end()) { failed = ILLEGAL_ADDRESS; return; }
    used -= found->second.size();
    memory.erase(found);
  }
}
void open_kernels() {
  static bool opened = false;
  if (opened) return;
  opened = true;
  Dl_info info;
  if (!dladdr(reinterpret_cast<void*>(&open_kernels), &info)) return;
  std::string folder = info.dli_fname;
  folder = folder.substr(0, folder.rfind('/')) + "/kernels";
  DIR* entries = opendir(folder.c_str());
  if (!entries) return;
  while (dirent* entry = readdir(entries)) {
    std::string file = folder + "/" + entry->d_name;
    if (file.size() < 3 || file.substr(file.size() - 3) != ".so") continue;
    void* library = dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (!library) { fprintf(stderr, "played driver: %s\n", dlerror()); continue; }
    // The list of its kernels stands in the library itself, separated by spaces.
    auto names = static_cast<const char* const*>(dlsym(library, "simt_names"));
    if (!names) continue;
    std::string rest = *names;
    for (size_t from = 0; from < rest.size();) {
      size_t to = rest.find(' ', from);
      if (to == std::string::npos) to = rest.size();
      std::string name = rest.substr(from, to - from);
      from = to + 1;
      if (name.empty()) continue;
      auto run = reinterpret_cast<Simt>(dlsym(library, ("simt_" + name).c_str()));
      if (run) functions[name] = Function{name, run};
    }
  }
  closedir(entries);
}
bool fails(Function& function) {
  std::string wanted = text("SIMT_FAIL", "");
  size_t colon = wanted.find(':');
  if (colon == std::string::npos) return false;
  size_t n = strtoull(wanted.c_str() + colon + 1, nullptr, 10);
  std::string name = wanted.substr(0, colon);
  return (name == function.name && function.starts == n) || (name == "*" && any_starts == n);
}
}  // namespace

#define LOCKED std::unique_lock<std::recursive_mutex> locked(all)
// What a thread that captures must not call.
#define OUTSIDE_CAPTURE if (capturing) return spoil(capturing, CAPTURE_UNSUPPORTED)

static thread_local int current = -1;
// The thread has opened a device and made no stream yet.
static thread_local bool opened = false;

extern "C" {
CUresult cuInit(unsigned) { return SUCCESS; }
// NVRTC asks the driver that it finds in its process for tools.
CUresult cuGetExportTable(const void** table, const void*) { *table = nullptr; return NOT_FOUND; }
CUresult cuDriverGetVersion(int* version) { *version = number("SIMT_DRIVER", 13000); return SUCCESS; }
CUresult cuDeviceGetCount(int* count) { *count = number("SIMT_DEVICES", 1); return SUCCESS; }
CUresult cuDeviceGet(int* device, int ordinal) {
  *device = ordinal;
  return ordinal >= 0 && ordinal < number("SIMT_DEVICES", 1) ? SUCCESS : INVALID_DEVICE;
}
CUresult cuDeviceGetName(char* name, int length, int) { snprintf(name, length, "played device"); return SUCCESS; }
CUresult cuDeviceTotalMem_v2(size_t* bytes, int) { *bytes = room(); return SUCCESS; }
CUresult cuDeviceGetAttribute(int* value, int which, int) {
  int capability = number("SIMT_CAPABILITY", 90);
  *value = which == 75 ? capability / 10 : which == 76 ? capability % 10 : which == 115 ? 1 : 0;
  return SUCCESS;
}
CUresult cuDeviceGetPCIBusId(char* id, int length, int device) { snprintf(id, length, "0000:%02x:00.0", device); return SUCCESS; }
CUresult cuDevicePrimaryCtxRetain(void** context, int device) {
  if (*text("SIMT_BUSY", "")) return UNAVAILABLE;
  if (*text("SIMT_LOST", "") && !access(text("SIMT_LOST", ""), F_OK)) return UNKNOWN;
  opened = true;
  *context = reinterpret_cast<void*>(intptr_t(device + 1));
  return SUCCESS;
}
CUresult cuDevicePrimaryCtxRelease_v2(int) { return SUCCESS; }
CUresult cuCtxSetCurrent(void* context) { current = int(reinterpret_cast<intptr_t>(context)) - 1; return SUCCESS; }
CUresult cuCtxGetDevice(int* device) { *device = current; return current < 0 ? INVALID_VALUE : SUCCESS; }
// Devices of one machine differ in the last byte.
CUresult cuDeviceGetUuid_v2(unsigned char* uuid, int device) {
  memcpy(uuid, "played device  ", 15);
  uuid[15] = static_cast<unsigned char>(device);
  return SUCCESS;
}
CUresult cuStreamCreate(void** to, unsigned) {
  LOCKED;
  auto* stream = new Stream;
  stream->first = std::exchange(opened, false);
  streams.push_back(stream);
  *to = stream;
  return SUCCESS;
}
// Threads may still look at it, so its memory stays.
CUresult cuStreamDestroy_v2(void*) { return SUCCESS; }
CUresult cuStreamSynchronize(void* of) {
  LOCKED;
  OUTSIDE_CAPTURE;
  auto* stream = static_cast<Stream*>(of);
  return wait_for(locked, stream, [=] { return stream->queue.empty(); });
}
CUresult cuStreamWaitEvent(void* stream, void* of, unsigned) {
  LOCKED;
  auto* event = static_cast<Event*>(of);
  if (*text("SIMT_DEAF", "")) return SUCCESS;
  // As it was recorded last, whatever comes of it later.
  uint64_t number = event->recorded;
  return enqueue_step(stream, [=] { return happened(event, number); });
}
// What a library beside this one has a stream do: `step` is called with `data` until it says true.
int simt_enqueue(void* stream, bool (*step)(void*), void* data) { LOCKED; return enqueue_step(stream, [=] { return step(data); }); }
bool simt_inside(uint64_t at, size_t bytes) { LOCKED; return inside(at, bytes); }
void simt_fail() { LOCKED; failed = ILLEGAL_ADDRESS; }
CUresult cuDeviceGetDefaultMemPool(void** pool, int) { *pool = &memory; return SUCCESS; }
CUresult cuMemPoolSetAttribute(void*, int, void*) { return SUCCESS; }
CUresult cuMemHostAlloc(void** at, size_t bytes, unsigned) { *at = aligned_alloc(4096, (bytes + 4095) / 4096 * 4096); return *at ? SUCCESS : OUT_OF_MEMORY; }
CUresult cuMemFreeHost(void* at) { free(at); return SUCCESS; }
CUresult cuMemHostGetDevicePointer_v2(uint64_t* to, void* at, unsigned) { *to = reinterpret_cast<uint64_t>(at); return SUCCESS; }
CUresult cuEventCreate(void** event, unsigned) { *event = new Event; return SUCCESS; }
// A stream may still wait for it, so its memory stays.
CUresult cuEventDestroy_v2(void*) { return SUCCESS; }
CUresult cuEventRecord(void* of, void* stream) {
  LOCKED;
  auto* event = static_cast<Event*>(of);
  auto* on = static_cast<Stream*>(stream);
  if (on->capture) return spoil(on->capture, CAPTURE_UNSUPPORTED);
  uint64_t number = ++event->recorded;
  event->stream = on;
  return enqueue_step(stream, [=] {
    event->done = number;
    event->at_ms = std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now().time_since_epoch()).count();
    return true;
  });
}
CUresult cuEventElapsedTime_v2(float* milliseconds, void* begin, void* end) {
  LOCKED;
  *milliseconds = static_cast<float>(static_cast<Event*>(end)->at_ms - static_cast<Event*>(begin)->at_ms);
  return failed;
}
CUresult cuEventElapsedTime(float* milliseconds, void* begin, void* end) { return cuEventElapsedTime_v2(milliseconds, begin, end); }
CUresult cuEventQuery(void* of) {
  LOCKED;
  OUTSIDE_CAPTURE;
  auto* event = static_cast<Event*>(of);
  bool done = happened(event, event->recorded);
  return failed != SUCCESS ? failed : done ? SUCCESS : NOT_READY;
}
CUresult cuEventSynchronize(void* of) {
  LOCKED;
  OUTSIDE_CAPTURE;
  auto* event = static_cast<Event*>(of);
  uint64_t number = event->recorded;
  return wait_for(locked, event->stream, [=] { return event->done >= number; });
}
CUresult cuGetErrorName(CUresult status, const char** name) {
  *name = status == NOT_SUPPORTED ? "CUDA_ERROR_NOT_SUPPORTED" : status == CAPTURE_UNSUPPORTED ? "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED" : status == OUT_OF_MEMORY ? "CUDA_ERROR_OUT_OF_MEMORY" : status == ILLEGAL_ADDRESS ? "CUDA_ERROR_ILLEGAL_ADDRESS" : status == LAUNCH_FAILED ? "CUDA_ERROR_LAUNCH_FAILED" : "CUDA_ERROR_UNKNOWN";
  return SUCCESS;
}
CUresult cuGetErrorString(CUresult status, const char** what) {
  *what = status == NOT_SUPPORTED ? "operation not supported" : status == CAPTURE_UNSUPPORTED ? "operation not permitted when stream is capturing" : status == OUT_OF_MEMORY ? "out of memory" : status == ILLEGAL_ADDRESS ? "an illegal memory access was encountered" : status == LAUNCH_FAILED ? "unspecified launch failure" : "unknown error";
  return SUCCESS;
}
CUresult cuModuleLoadData(void** module, const void* image) {
  // Machine code is an ELF file, whoever runs it.
  if (memcmp(image, "\177ELF", 4)) return INVALID_VALUE;
  LOCKED;
  OUTSIDE_CAPTURE;
  open_kernels();
  *module = &functions;
  return SUCCESS;
}
CUresult cuModuleGetFunction(void** function, void*, const char* name) {
  LOCKED;
  auto found = functions.find(name);
  if (found == functions.end()) return NOT_FOUND;
  *function = &found->second;
  return SUCCESS;
}
CUresult cuMemAlloc_v2(uint64_t* to, size_t bytes) { LOCKED; OUTSIDE_CAPTURE; return allocate(to, bytes); }
CUresult cuMemAllocAsync(uint64_t* to, size_t bytes, void*) { LOCKED; OUTSIDE_CAPTURE; return allocate(to, bytes); }
CUresult cuMemFree_v2(uint64_t at) { LOCKED; OUTSIDE_CAPTURE; release(at); return failed; }
CUresult cuMemFreeAsync(uint64_t at, void* stream) { LOCKED; OUTSIDE_CAPTURE; return enqueue(stream, [at] { release(at); }); }
CUresult cuMemGetInfo_v2(size_t* free, size_t* total) { LOCKED; *total = room(); *free = room() - used; return SUCCESS; }
CUresult cuMemcpyHtoDAsync_v2(uint64_t to, const void* from, size_t bytes, void* stream) {
  LOCKED;
  return enqueue(stream, [=] { if (inside(to, bytes)) memcpy(reinterpret_cast<void*>(to), from, bytes); else failed = ILLEGAL_ADDRESS; });
}
CUresult cuMemcpyDtoHAsync_v2(void* to, uint64_t from, size_t bytes, void* stream) {
  LOCKED;
  return enqueue(stream, [=] { if (inside(from, bytes)) memcpy(to, reinterpret_cast<void*>(from), bytes); else failed = ILLEGAL_ADDRESS; });
}
CUresult cuMemcpyDtoDAsync_v2(uint64_t to, uint64_t from, size_t bytes, void* stream) {
  LOCKED;
  return enqueue(stream, [=] { if (inside(to, bytes) && inside(from, bytes)) memmove(reinterpret_cast<void*>(to), reinterpret_cast<void*>(from), bytes); else failed = ILLEGAL_ADDRESS; });
}
CUresult cuMemsetD8Async(uint64_t at, unsigned char value, size_t bytes, void* stream) {
  LOCKED;
  return enqueue(stream, [=] { if (inside(at, bytes)) memset(reinterpret_cast<void*>(at), value, bytes); else failed = ILLEGAL_ADDRESS; });
}
CUresult cuStreamWriteValue32_v2(void* stream, uint64_t at, unsigned value, unsigned) {
  LOCKED;
  if (*text("SIMT_SILENT", "")) return NOT_SUPPORTED;
  Graph* capture = static_cast<Stream*>(stream)->capture;
  if (capture && !strcmp(text("SIMT_CAPTURE", ""), "kernels")) return spoil(capture, CAPTURE_UNSUPPORTED);
  return enqueue(stream, [=] { __atomic_store_n(reinterpret_cast<unsigned*>(at), value, __ATOMIC_RELEASE); });
}
CUresult cuLaunchKernel(void* of, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned shared, void* stream, void** arguments, void**) {
  LOCKED;
  auto* function = static_cast<Function*>(of);
  if (!gx || !gy || !gz || !bx || !by || !bz) return INVALID_VALUE;
  // How many arguments there are, and how large, the kernel's own library knows; the caller's are 40 bytes each, up to 24.
  std::vector<std::array<uint64_t, 5>> given(24);
  for (size_t i = 0; i < given.size(); i++) memcpy(given[i].data(), arguments[i], 40);
  return put(stream, [=]() -> Step {
    function->starts++;
    any_starts++;
    bool fault = fails(*function);
    return [=] {
      if (fault) {
        if (*text("SIMT_LOST", "")) fclose(fopen(text("SIMT_LOST", ""), "w"));
        failed = ILLEGAL_ADDRESS;
        return true;
      }
      unsigned size[6] = {gx, gy, gz, bx, by, bz};
      auto places = given;
      std::vector<void*> pointers;
      for (auto& place : places) pointers.push_back(place.data());
      char message[256];
      if (function->run(size, shared, 0, 7, message, sizeof message, pointers.data())) {
        fprintf(stderr, "played driver: %s: %s\n", function->name.c_str(), message);
        failed = LAUNCH_FAILED;
      }
      return true;
    };
  });
}
CUresult cuStreamBeginCapture_v2(void* of, int mode) {
  LOCKED;
  auto* stream = static_cast<Stream*>(of);
  if (!strcmp(text("SIMT_CAPTURE", ""), "no")) return NOT_SUPPORTED;
  // Others may go on with their own streams only where a capture is the thread's.
  if (!stream || mode != 1 || capturing || stream->capture || !stream->queue.empty()) return INVALID_VALUE;
  stream->capture = capturing = new Graph;
  return SUCCESS;
}
CUresult cuStreamEndCapture(void* of, void** graph) {
  LOCKED;
  auto* stream = static_cast<Stream*>(of);
  if (!stream->capture || stream->capture != capturing) return INVALID_VALUE;
  Graph* made = std::exchange(stream->capture, nullptr);
  capturing = nullptr;
  *graph = made->spoilt ? nullptr : made;
  return made->spoilt ? CAPTURE_INVALIDATED : SUCCESS;
}
CUresult cuGraphInstantiateWithFlags(void** exec, void* graph, unsigned long long) {
  LOCKED;
  if (static_cast<Graph*>(graph)->destroyed) return INVALID_VALUE;
  *exec = new Graph(*static_cast<Graph*>(graph));
  return SUCCESS;
}
CUresult cuGraphLaunch(void* of, void* stream) {
  LOCKED;
  auto* exec = static_cast<Graph*>(of);
  if (exec->destroyed) return INVALID_VALUE;
  for (auto& make : exec->makers) {
    if (CUresult status = put(stream, make)) return status;
  }
  return SUCCESS;
}
// Their memory stays, so that who uses one after its end is told.
CUresult cuGraphDestroy(void* graph) { LOCKED; static_cast<Graph*>(graph)->destroyed = true; return SUCCESS; }
CUresult cuGraphExecDestroy(void* exec) { LOCKED; static_cast<Graph*>(exec)->destroyed = true; return SUCCESS; }
}
