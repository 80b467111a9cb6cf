// What `cuda/nvml.rs` calls of NVML: a device that uses a joule each time that it is asked. SIMT_NVML set: it is out of order.
#include <cstdio>
#include <cstdlib>

extern "C" {
int nvmlInit_v2() { return getenv("SIMT_NVML") ? 999 : 0; }
int nvmlShutdown() { return 0; }
int nvmlDeviceGetHandleByPciBusId_v2(const char* id, void** device) {
  static int only;
  *device = &only;
  return id && *id ? 0 : 2;
}
int nvmlDeviceGetTotalEnergyConsumption(void*, unsigned long long* millijoules) {
  static unsigned long long used = 0;
  *millijoules = used += 1000;
  return 0;
}
int nvmlSystemGetDriverVersion(char* version, unsigned length) { snprintf(version, length, "580.0.played"); return 0; }
}
