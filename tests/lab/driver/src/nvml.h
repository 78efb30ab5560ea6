/* The part of the management library's binary interface that the stand-in serves. */
#ifndef NVML_H
#define NVML_H

#include <stddef.h>

typedef int nvmlReturn_t;
enum {
    NVML_SUCCESS = 0, NVML_ERROR_UNINITIALIZED = 1, NVML_ERROR_INVALID_ARGUMENT = 2, NVML_ERROR_NOT_SUPPORTED = 3,
    NVML_ERROR_NO_PERMISSION = 4, NVML_ERROR_NOT_FOUND = 6, NVML_ERROR_INSUFFICIENT_SIZE = 7,
    NVML_ERROR_DRIVER_NOT_LOADED = 9, NVML_ERROR_TIMEOUT = 10, NVML_ERROR_GPU_IS_LOST = 15,
    NVML_ERROR_RESET_REQUIRED = 16, NVML_ERROR_LIB_RM_VERSION_MISMATCH = 18, NVML_ERROR_ARGUMENT_VERSION_MISMATCH = 25,
    NVML_ERROR_UNKNOWN = 999
};

/* A GPU, or one MIG device of it (mig >= 0). Callers hold pointers to these and never look inside. */
struct nvml_device {
    int gpu;
    int mig;
};
typedef struct nvml_device *nvmlDevice_t;

typedef struct {
    char bus_id_legacy[16];
    unsigned domain, bus, device, device_id, subsystem_id;
    char bus_id[32];
} nvmlPciInfo_t;
typedef struct {
    unsigned version, domain, bus, device, device_id, subsystem_id, base_class, sub_class;
    char bus_id[32];
} nvmlPciInfoExt_t;
typedef struct { unsigned long long total, free, used; } nvmlMemory_t;
typedef struct { unsigned version; unsigned long long total, reserved, free, used; } nvmlMemory_v2_t;
typedef struct { unsigned gpu, memory; } nvmlUtilization_t;
typedef struct { unsigned max, high, partial, low, none; } nvmlRowRemapperHistogramValues_t;
typedef struct { unsigned version; int sensor; int temperature; } nvmlTemperature_t;
typedef struct {
    unsigned multiprocessors, copy_engines, decoders, encoders, jpeg, ofa, gpu_slices, compute_slices;
    unsigned long long memory_mib;
} nvmlDeviceAttributes_t;

/* In nvml.c */
nvmlReturn_t device_error(nvmlDevice_t device); /* what every question about this device is answered with */
nvmlReturn_t device_text(nvmlDevice_t device, const char *property, char *text, unsigned size);
nvmlReturn_t copy_text(const char *from, char *text, unsigned size);
nvmlDevice_t gpu_handle(int gpu);
nvmlDevice_t mig_handle(int gpu, int mig);

#define EXPORT __attribute__((visibility("default")))

#endif
