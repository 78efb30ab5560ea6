/* What is asked of one GPU. */
#include "nvml.h"
#include "standin.h"

#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MIB (1024ULL * 1024ULL)

/* A question that has one number as its answer; a key that was not installed is "not supported". */
static nvmlReturn_t number(nvmlDevice_t device, const char *name, unsigned *answer)
{
    nvmlReturn_t error = device_error(device);
    if (error != NVML_SUCCESS)
        return error;
    if (answer == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    long value = device->mig >= 0 ? -1 : gpu_number(device->gpu, name, -1);
    if (value < 0)
        return NVML_ERROR_NOT_SUPPORTED;
    *answer = (unsigned)value;
    return NVML_SUCCESS;
}

#define NUMBER(function, name)                                                                                         \
    EXPORT nvmlReturn_t function(nvmlDevice_t device, unsigned *answer) { return number(device, name, answer); }
#define TEXT(function, name)                                                                                           \
    EXPORT nvmlReturn_t function(nvmlDevice_t device, char *text, unsigned size)                                       \
    {                                                                                                                  \
        return device_text(device, name, text, size);                                                                  \
    }

TEXT(nvmlDeviceGetName, "name")
TEXT(nvmlDeviceGetUUID, "uuid")
TEXT(nvmlDeviceGetSerial, "serial")
TEXT(nvmlDeviceGetVbiosVersion, "vbios")
TEXT(nvmlDeviceGetBoardPartNumber, "part_number")

NUMBER(nvmlDeviceGetMinorNumber, "minor")
NUMBER(nvmlDeviceGetBrand, "brand")
NUMBER(nvmlDeviceGetArchitecture, "architecture")
NUMBER(nvmlDeviceGetNumGpuCores, "cores")
NUMBER(nvmlDeviceGetPersistenceMode, "persistence_mode")
NUMBER(nvmlDeviceGetComputeMode, "compute_mode")
NUMBER(nvmlDeviceGetCurrPcieLinkGeneration, "pcie_generation")
NUMBER(nvmlDeviceGetMaxPcieLinkGeneration, "pcie_generation_max")
NUMBER(nvmlDeviceGetGpuMaxPcieLinkGeneration, "pcie_generation_max")
NUMBER(nvmlDeviceGetCurrPcieLinkWidth, "pcie_width")
NUMBER(nvmlDeviceGetMaxPcieLinkWidth, "pcie_width_max")
NUMBER(nvmlDeviceGetPowerUsage, "power_usage_mw")
NUMBER(nvmlDeviceGetPowerManagementLimit, "power_limit_mw")
NUMBER(nvmlDeviceGetPowerManagementDefaultLimit, "power_limit_mw")
NUMBER(nvmlDeviceGetEnforcedPowerLimit, "power_limit_mw")
NUMBER(nvmlDeviceGetPowerState, "performance_state")
NUMBER(nvmlDeviceGetPerformanceState, "performance_state")
NUMBER(nvmlDeviceGetRetiredPagesPendingStatus, "retired_pages_pending")
NUMBER(nvmlDeviceGetMultiGpuBoard, "multi_gpu_board")
NUMBER(nvmlDeviceGetDisplayActive, "display")
NUMBER(nvmlDeviceGetDisplayMode, "display")
NUMBER(nvmlDeviceGetFanSpeed, "fan_speed")

EXPORT nvmlReturn_t nvmlDeviceSetPersistenceMode(nvmlDevice_t device, unsigned mode)
{
    unsigned now;
    nvmlReturn_t error = number(device, "persistence_mode", &now);
    if (error != NVML_SUCCESS)
        return error;
    return now == mode ? NVML_SUCCESS : NVML_ERROR_NOT_SUPPORTED; /* the state file decides, nothing else */
}

static void memory(nvmlDevice_t device, nvmlMemory_v2_t *answer)
{
    int whole = device->mig < 0;
    long total = whole ? gpu_number(device->gpu, "memory_mib", 0) : mig_number(device->gpu, device->mig, "memory_mib", 0);
    answer->total = (unsigned long long)total * MIB;
    answer->reserved = (unsigned long long)(whole ? gpu_number(device->gpu, "memory_reserved_mib", 0) : 0) * MIB;
    answer->used = (unsigned long long)(whole ? gpu_number(device->gpu, "memory_used_mib", 0) : 0) * MIB;
    answer->free = answer->total - answer->reserved - answer->used;
}

EXPORT nvmlReturn_t nvmlDeviceGetMemoryInfo(nvmlDevice_t device, nvmlMemory_t *answer)
{
    nvmlReturn_t error = device_error(device);
    if (error != NVML_SUCCESS)
        return error;
    nvmlMemory_v2_t found;
    memory(device, &found);
    answer->total = found.total;
    answer->free = found.free;
    answer->used = found.used + found.reserved; /* the first form counts what the driver keeps for itself as used */
    return NVML_SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceGetMemoryInfo_v2(nvmlDevice_t device, nvmlMemory_v2_t *answer)
{
    nvmlReturn_t error = device_error(device);
    if (error != NVML_SUCCESS)
        return error;
    if (answer->version != (sizeof *answer | 2u << 24))
        return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
    memory(device, answer);
    return NVML_SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceGetBAR1MemoryInfo(nvmlDevice_t device, nvmlMemory_t *answer)
{
    nvmlReturn_t error = device_error(device);
    if (error != NVML_SUCCESS)
        return error;
    /* total, free, used stand in the same order here */
    *answer = (nvmlMemory_t){65536 * MIB, 65535 * MIB, 1 * MIB};
    return NVML_SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceGetCudaComputeCapability(nvmlDevice_t device, int *major, int *minor)
{
    nvmlReturn_t error = device_error(device);
    if (error != NVML_SUCCESS)
        return error;
    *major = (int)gpu_number(device->gpu, "cc_major", 0);
    *minor = (int)gpu_number(device->gpu, "cc_minor", 0);
    return NVML_SUCCESS;
}

static nvmlReturn_t pci(nvmlDevice_t device, nvmlPciInfoExt_t *answer)
{
    nvmlReturn_t error = device_error(device);
    if (error != NVML_SUCCESS)
        return error;
    error = device->mig >= 0 ? NVML_ERROR_NOT_SUPPORTED
                             : device_text(device, "pci", answer->bus_id, sizeof answer->bus_id);
    if (error != NVML_SUCCESS)
        return error;
    sscanf(answer->bus_id, "%x:%x:%x", &answer->domain, &answer->bus, &answer->device);
    answer->device_id = (unsigned)gpu_number(device->gpu, "pci_device_id", 0);
    answer->subsystem_id = (unsigned)gpu_number(device->gpu, "pci_subsystem_id", 0);
    answer->base_class = 3;
    answer->sub_class = 2;
    return NVML_SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceGetPciInfo_v3(nvmlDevice_t device, nvmlPciInfo_t *answer)
{
    nvmlPciInfoExt_t found = {0};
    nvmlReturn_t error = pci(device, &found);
    if (error != NVML_SUCCESS)
        return error;
    memset(answer, 0, sizeof *answer);
    snprintf(answer->bus_id_legacy, sizeof answer->bus_id_legacy, "%.12s", found.bus_id + 4);
    memcpy(answer->bus_id, found.bus_id, sizeof answer->bus_id);
    answer->domain = found.domain;
    answer->bus = found.bus;
    answer->device = found.device;
    answer->device_id = found.device_id;
    answer->subsystem_id = found.subsystem_id;
    return NVML_SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceGetPciInfo_v2(nvmlDevice_t device, nvmlPciInfo_t *answer)
{
    return nvmlDeviceGetPciInfo_v3(device, answer);
}

EXPORT nvmlReturn_t nvmlDeviceGetPciInfoExt(nvmlDevice_t device, nvmlPciInfoExt_t *answer)
{
    return pci(device, answer);
}

EXPORT nvmlReturn_t nvmlDeviceGetTemperature(nvmlDevice_t device, int sensor, unsigned *answer)
{
    return sensor == 0 ? number(device, "temperature", answer) : NVML_ERROR_INVALID_ARGUMENT;
}

EXPORT nvmlReturn_t nvmlDeviceGetTemperatureV(nvmlDevice_t device, nvmlTemperature_t *answer)
{
    return nvmlDeviceGetTemperature(device, answer->sensor, (unsigned *)&answer->temperature);
}

EXPORT nvmlReturn_t nvmlDeviceGetTemperatureThreshold(nvmlDevice_t device, int which, unsigned *answer)
{
    static const char *const names[] = {"temperature_shutdown", "temperature_slowdown"};
    return which == 0 || which == 1 ? number(device, names[which], answer) : NVML_ERROR_NOT_SUPPORTED;
}

EXPORT nvmlReturn_t nvmlDeviceGetPowerManagementLimitConstraints(nvmlDevice_t device, unsigned *low, unsigned *high)
{
    nvmlReturn_t error = number(device, "power_limit_min_mw", low);
    return error == NVML_SUCCESS ? number(device, "power_limit_max_mw", high) : error;
}

EXPORT nvmlReturn_t nvmlDeviceGetUtilizationRates(nvmlDevice_t device, nvmlUtilization_t *answer)
{
    nvmlReturn_t error = device_error(device);
    if (error == NVML_SUCCESS)
        *answer = (nvmlUtilization_t){0, 0};
    return error;
}

static nvmlReturn_t clock_of(nvmlDevice_t device, int type, const char *what, unsigned *answer)
{
    static const char *const types[] = {"graphics", "sm", "memory", "video"};
    char name[64];
    if (type < 0 || type > 3)
        return NVML_ERROR_INVALID_ARGUMENT;
    snprintf(name, sizeof name, "clock_%s_%s", types[type], what);
    return number(device, name, answer);
}

EXPORT nvmlReturn_t nvmlDeviceGetClockInfo(nvmlDevice_t device, int type, unsigned *answer)
{
    return clock_of(device, type, "now", answer);
}

EXPORT nvmlReturn_t nvmlDeviceGetMaxClockInfo(nvmlDevice_t device, int type, unsigned *answer)
{
    return clock_of(device, type, "max", answer);
}

static nvmlReturn_t reasons(nvmlDevice_t device, const char *name, unsigned long long *answer)
{
    unsigned value;
    nvmlReturn_t error = number(device, name, &value);
    if (error == NVML_SUCCESS)
        *answer = value;
    return error;
}

#define REASONS(function, name)                                                                                        \
    EXPORT nvmlReturn_t function(nvmlDevice_t device, unsigned long long *answer)                                      \
    {                                                                                                                  \
        return reasons(device, name, answer);                                                                          \
    }
REASONS(nvmlDeviceGetCurrentClocksEventReasons, "clocks_event_reasons")
REASONS(nvmlDeviceGetCurrentClocksThrottleReasons, "clocks_event_reasons")
REASONS(nvmlDeviceGetSupportedClocksEventReasons, "clocks_event_reasons_supported")
REASONS(nvmlDeviceGetSupportedClocksThrottleReasons, "clocks_event_reasons_supported")

EXPORT nvmlReturn_t nvmlDeviceGetEccMode(nvmlDevice_t device, unsigned *now, unsigned *pending)
{
    nvmlReturn_t error = number(device, "ecc", now);
    return error == NVML_SUCCESS ? number(device, "ecc_pending", pending) : error;
}

EXPORT nvmlReturn_t nvmlDeviceGetDefaultEccMode(nvmlDevice_t device, unsigned *mode)
{
    return number(device, "ecc", mode);
}

/* error type 0 corrected, 1 uncorrected; counter 0 since boot, 1 for life */
EXPORT nvmlReturn_t nvmlDeviceGetTotalEccErrors(nvmlDevice_t device, int type, int counter, unsigned long long *answer)
{
    unsigned value, enabled;
    char name[64];
    if (type < 0 || type > 1 || counter < 0 || counter > 1)
        return NVML_ERROR_INVALID_ARGUMENT;
    nvmlReturn_t error = number(device, "ecc", &enabled);
    if (error != NVML_SUCCESS)
        return error;
    if (enabled == 0)
        return NVML_ERROR_NOT_SUPPORTED;
    snprintf(name, sizeof name, "ecc_%scorrected_%s", type ? "un" : "", counter ? "aggregate" : "volatile");
    error = number(device, name, &value);
    if (error == NVML_SUCCESS)
        *answer = value;
    return error;
}

EXPORT nvmlReturn_t nvmlDeviceGetMemoryErrorCounter(nvmlDevice_t device, int type, int counter, int location,
                                                    unsigned long long *answer)
{
    if (location != 2) /* all counted errors are in device memory */
        return NVML_ERROR_NOT_SUPPORTED;
    return nvmlDeviceGetTotalEccErrors(device, type, counter, answer);
}

EXPORT nvmlReturn_t nvmlDeviceGetRemappedRows(nvmlDevice_t device, unsigned *corrected, unsigned *uncorrected,
                                              unsigned *pending, unsigned *failed)
{
    static const char *const names[] = {"remapped_corrected", "remapped_uncorrected", "remapped_pending",
                                        "remapped_failure"};
    unsigned *answers[] = {corrected, uncorrected, pending, failed};
    nvmlReturn_t error = NVML_SUCCESS;
    for (int i = 0; i < 4 && error == NVML_SUCCESS; i++)
        error = number(device, names[i], answers[i]);
    return error;
}

EXPORT nvmlReturn_t nvmlDeviceGetRowRemapperHistogram(nvmlDevice_t device, nvmlRowRemapperHistogramValues_t *answer)
{
    nvmlReturn_t error = device_error(device);
    if (error == NVML_SUCCESS)
        *answer = (nvmlRowRemapperHistogramValues_t){640, 0, 0, 0, 0};
    return error;
}

/* What the functions of version 2 and 3 fill in; the first version's entries end before the instances. */
typedef struct {
    unsigned pid;
    unsigned long long memory;
    unsigned gpu_instance, compute_instance;
} process_t;

/* The stand-in does not know who uses a GPU: it lists the processes that its state names, as "PID:MIB,PID:MIB". */
static nvmlReturn_t processes(nvmlDevice_t device, const char *name, unsigned *count, char *list, size_t size)
{
    char text[512];
    nvmlReturn_t error = device_error(device);
    if (error != NVML_SUCCESS)
        return error;
    if (count == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    unsigned room = list == NULL ? 0 : *count, there = 0;
    const char *next = device->mig < 0 ? gpu_property(device->gpu, name, text, sizeof text) : NULL;
    while (next != NULL && *next != '\0') {
        char *end;
        process_t one = {(unsigned)strtoul(next, &end, 10), 0, ~0u, ~0u};
        if (*end == ':')
            one.memory = strtoull(end + 1, &end, 10) << 20;
        if (there < room)
            memcpy(list + there * size, &one, size);
        there++;
        next = *end == ',' ? end + 1 : NULL;
    }
    *count = there;
    return there > room ? NVML_ERROR_INSUFFICIENT_SIZE : NVML_SUCCESS;
}

#define PROCESSES(function, name, size)                                                                                \
    EXPORT nvmlReturn_t function(nvmlDevice_t device, unsigned *count, void *list)                                     \
    {                                                                                                                  \
        return processes(device, name, count, list, size);                                                             \
    }
PROCESSES(nvmlDeviceGetComputeRunningProcesses, "processes", offsetof(process_t, gpu_instance))
PROCESSES(nvmlDeviceGetComputeRunningProcesses_v2, "processes", sizeof(process_t))
PROCESSES(nvmlDeviceGetComputeRunningProcesses_v3, "processes", sizeof(process_t))
PROCESSES(nvmlDeviceGetGraphicsRunningProcesses, "none", offsetof(process_t, gpu_instance))
PROCESSES(nvmlDeviceGetGraphicsRunningProcesses_v2, "none", sizeof(process_t))
PROCESSES(nvmlDeviceGetGraphicsRunningProcesses_v3, "none", sizeof(process_t))
PROCESSES(nvmlDeviceGetMPSComputeRunningProcesses_v3, "none", sizeof(process_t))

/* Two GPUs on the same NUMA node, below different host bridges. */
EXPORT nvmlReturn_t nvmlDeviceGetTopologyCommonAncestor(nvmlDevice_t one, nvmlDevice_t other, int *level)
{
    nvmlReturn_t error = device_error(one);
    if (error == NVML_SUCCESS)
        error = device_error(other);
    if (error == NVML_SUCCESS)
        *level = one->gpu == other->gpu ? 0 : (int)property_number("topology", 40);
    return error;
}

EXPORT nvmlReturn_t nvmlDeviceGetGpuFabricInfo(nvmlDevice_t device, void *info)
{
    (void)info;
    nvmlReturn_t error = device_error(device);
    return error == NVML_SUCCESS ? NVML_ERROR_NOT_SUPPORTED : error;
}

EXPORT nvmlReturn_t nvmlDeviceGetGpuFabricInfoV(nvmlDevice_t device, void *info)
{
    /* version, cluster id (16 bytes), status, clique, state, health: on a board with a fabric manager only */
    unsigned state, *words = info;
    nvmlReturn_t error = device_error(device);
    if (error != NVML_SUCCESS)
        return error;
    if (number(device, "fabric_state", &state) != NVML_SUCCESS)
        return NVML_ERROR_NOT_SUPPORTED;
    memset(words + 1, 0, 8 * sizeof *words);
    words[7] = state;
    return NVML_SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceGetNvLinkState(nvmlDevice_t device, unsigned link, unsigned *active)
{
    (void)link;
    (void)active;
    nvmlReturn_t error = device_error(device);
    return error == NVML_SUCCESS ? NVML_ERROR_NOT_SUPPORTED : error;
}
