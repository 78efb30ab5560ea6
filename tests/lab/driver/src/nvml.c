/* Start-up, errors, the system's versions, and finding devices. */
#include "nvml.h"
#include "standin.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

static int initialised;
static struct nvml_device gpus[MAX_GPUS];
static struct nvml_device migs[MAX_GPUS][MAX_MIG];

nvmlDevice_t gpu_handle(int gpu)
{
    gpus[gpu] = (struct nvml_device){gpu, -1};
    return &gpus[gpu];
}

nvmlDevice_t mig_handle(int gpu, int mig)
{
    migs[gpu][mig] = (struct nvml_device){gpu, mig};
    return &migs[gpu][mig];
}

EXPORT nvmlReturn_t nvmlInitWithFlags(unsigned flags)
{
    (void)flags;
    long fault = property_number("nvml.init", 0);
    if (fault != 0)
        return (nvmlReturn_t)fault;
    switch (node_error("nvidiactl")) {
    case 0:
        initialised++;
        return NVML_SUCCESS;
    case EACCES:
        return NVML_ERROR_NO_PERMISSION;
    case EPERM: /* the device cgroup says no */
        return NVML_ERROR_UNKNOWN;
    default:
        return NVML_ERROR_DRIVER_NOT_LOADED;
    }
}

EXPORT nvmlReturn_t nvmlInit_v2(void) { return nvmlInitWithFlags(0); }
EXPORT nvmlReturn_t nvmlInit(void) { return nvmlInitWithFlags(0); }

EXPORT nvmlReturn_t nvmlShutdown(void)
{
    if (initialised == 0)
        return NVML_ERROR_UNINITIALIZED;
    initialised--;
    return NVML_SUCCESS;
}

EXPORT const char *nvmlErrorString(nvmlReturn_t code)
{
    static const char *const texts[] = {
        "Success", "Uninitialized", "Invalid Argument", "Not Supported", "Insufficient Permissions",
        "Already Initialized", "Not Found", "Insufficient Size", "Insufficient External Power", "Driver Not Loaded",
        "Timeout", "Interrupt Request Issue", "NVML Shared Library Not Found", "Function Not Found",
        "Corrupted infoROM", "GPU is lost", "GPU requires reset", "GPU access blocked by the operating system",
        "Driver/library version mismatch", "In use by another client", "Insufficient Memory", "No data",
        "Operation is not available due to vGPU ECC", "Insufficient Resources", "Frequency Not Supported",
        "Argument version mismatch", "Deprecated", "System is not in ready state", "GPU not found", "Invalid State",
    };
    if (code >= 0 && code < (int)(sizeof texts / sizeof *texts))
        return texts[code];
    return "Unknown Error";
}

nvmlReturn_t copy_text(const char *from, char *text, unsigned size)
{
    if (text == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    if (strlen(from) >= size)
        return NVML_ERROR_INSUFFICIENT_SIZE;
    strcpy(text, from);
    return NVML_SUCCESS;
}

static nvmlReturn_t system_text(const char *key, char *text, unsigned size)
{
    char value[128];
    if (property(key, value, sizeof value) == NULL)
        return NVML_ERROR_NOT_SUPPORTED;
    return copy_text(value, text, size);
}

EXPORT nvmlReturn_t nvmlSystemGetDriverVersion(char *text, unsigned size)
{
    return initialised ? system_text("driver", text, size) : NVML_ERROR_UNINITIALIZED;
}

EXPORT nvmlReturn_t nvmlSystemGetNVMLVersion(char *text, unsigned size) { return system_text("nvml", text, size); }

EXPORT nvmlReturn_t nvmlSystemGetCudaDriverVersion(int *version)
{
    if (version == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    *version = (int)property_number("cuda", 0);
    return NVML_SUCCESS;
}

EXPORT nvmlReturn_t nvmlSystemGetCudaDriverVersion_v2(int *version) { return nvmlSystemGetCudaDriverVersion(version); }

EXPORT nvmlReturn_t nvmlSystemGetProcessName(unsigned pid, char *name, unsigned size)
{
    char path[64], line[256];
    snprintf(path, sizeof path, "/proc/%u/cmdline", pid);
    FILE *file = fopen(path, "r");
    if (file == NULL)
        return NVML_ERROR_NOT_FOUND;
    size_t count = fread(line, 1, sizeof line - 1, file);
    fclose(file);
    line[count] = '\0';
    return copy_text(line, name, size);
}

nvmlReturn_t device_error(nvmlDevice_t device)
{
    if (initialised == 0)
        return NVML_ERROR_UNINITIALIZED;
    if (device == NULL || device->gpu < 0 || device->gpu >= MAX_GPUS)
        return NVML_ERROR_INVALID_ARGUMENT;
    return (nvmlReturn_t)gpu_number(device->gpu, "error", 0);
}

nvmlReturn_t device_text(nvmlDevice_t device, const char *name, char *text, unsigned size)
{
    char value[128];
    nvmlReturn_t error = device_error(device);
    if (error != NVML_SUCCESS)
        return error;
    const char *found = device->mig >= 0 ? mig_property(device->gpu, device->mig, name, value, sizeof value)
                                         : gpu_property(device->gpu, name, value, sizeof value);
    return found == NULL ? NVML_ERROR_NOT_SUPPORTED : copy_text(found, text, size);
}

EXPORT nvmlReturn_t nvmlDeviceGetCount_v2(unsigned *count)
{
    int seen[MAX_GPUS];
    if (initialised == 0)
        return NVML_ERROR_UNINITIALIZED;
    if (count == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    *count = (unsigned)visible_gpus(seen);
    return NVML_SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceGetCount(unsigned *count) { return nvmlDeviceGetCount_v2(count); }

EXPORT nvmlReturn_t nvmlDeviceGetHandleByIndex_v2(unsigned index, nvmlDevice_t *device)
{
    int seen[MAX_GPUS];
    if (initialised == 0)
        return NVML_ERROR_UNINITIALIZED;
    if (device == NULL || index >= (unsigned)visible_gpus(seen))
        return NVML_ERROR_INVALID_ARGUMENT;
    *device = gpu_handle(seen[index]);
    return device_error(*device);
}

EXPORT nvmlReturn_t nvmlDeviceGetHandleByIndex(unsigned index, nvmlDevice_t *device)
{
    return nvmlDeviceGetHandleByIndex_v2(index, device);
}

EXPORT nvmlReturn_t nvmlDeviceGetIndex(nvmlDevice_t device, unsigned *index)
{
    int seen[MAX_GPUS], count = visible_gpus(seen);
    nvmlReturn_t error = device_error(device);
    if (error != NVML_SUCCESS)
        return error;
    for (int i = 0; i < count; i++) {
        if (device->mig < 0 && seen[i] == device->gpu) {
            *index = (unsigned)i;
            return NVML_SUCCESS;
        }
    }
    return NVML_ERROR_NOT_SUPPORTED;
}

/* A visible GPU whose property equals the text; letter case and a PCI domain's leading zeros do not matter. */
static nvmlReturn_t find(const char *name, const char *text, nvmlDevice_t *device)
{
    int seen[MAX_GPUS], count = visible_gpus(seen);
    if (initialised == 0)
        return NVML_ERROR_UNINITIALIZED;
    if (text == NULL || device == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    for (int i = 0; i < count; i++) {
        char value[128];
        if (gpu_property(seen[i], name, value, sizeof value) != NULL &&
            (strcmp(value, text) == 0 || (strlen(text) == 12 && strcmp(value + 4, text) == 0))) {
            *device = gpu_handle(seen[i]);
            return device_error(*device);
        }
        int inside[MAX_MIG], migs_seen = visible_migs(seen[i], inside);
        for (int m = 0; m < migs_seen; m++)
            if (mig_property(seen[i], inside[m], name, value, sizeof value) != NULL && strcmp(value, text) == 0) {
                *device = mig_handle(seen[i], inside[m]);
                return device_error(*device);
            }
    }
    return NVML_ERROR_NOT_FOUND;
}

EXPORT nvmlReturn_t nvmlDeviceGetHandleByUUID(const char *uuid, nvmlDevice_t *device)
{
    return find("uuid", uuid, device);
}

EXPORT nvmlReturn_t nvmlDeviceGetHandleByPciBusId_v2(const char *bus_id, nvmlDevice_t *device)
{
    return find("pci", bus_id, device);
}

EXPORT nvmlReturn_t nvmlDeviceGetHandleByPciBusId(const char *bus_id, nvmlDevice_t *device)
{
    return find("pci", bus_id, device);
}

EXPORT nvmlReturn_t nvmlDeviceGetHandleBySerial(const char *serial, nvmlDevice_t *device)
{
    return find("serial", serial, device);
}
