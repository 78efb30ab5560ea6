/* MIG: the mode of a GPU and the devices that it is cut into. */
#include "nvml.h"
#include "standin.h"

EXPORT nvmlReturn_t nvmlDeviceGetMigMode(nvmlDevice_t device, unsigned *now, unsigned *pending)
{
    nvmlReturn_t error = device_error(device);
    if (error != NVML_SUCCESS)
        return error;
    long mode = gpu_number(device->gpu, "mig.mode", -1);
    if (mode < 0 || device->mig >= 0)
        return NVML_ERROR_NOT_SUPPORTED;
    *now = (unsigned)mode;
    *pending = (unsigned)gpu_number(device->gpu, "mig.pending", mode);
    return NVML_SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceGetMaxMigDeviceCount(nvmlDevice_t device, unsigned *count)
{
    nvmlReturn_t error = device_error(device);
    if (error == NVML_SUCCESS)
        *count = gpu_number(device->gpu, "mig.mode", -1) < 0 ? 0 : MAX_MIG;
    return error;
}

EXPORT nvmlReturn_t nvmlDeviceGetMigDeviceHandleByIndex(nvmlDevice_t device, unsigned index, nvmlDevice_t *found)
{
    int seen[MAX_MIG];
    nvmlReturn_t error = device_error(device);
    if (error != NVML_SUCCESS)
        return error;
    if (gpu_number(device->gpu, "mig.mode", -1) < 0)
        return NVML_ERROR_NOT_SUPPORTED;
    if (index >= MAX_MIG)
        return NVML_ERROR_INVALID_ARGUMENT;
    if (index >= (unsigned)visible_migs(device->gpu, seen))
        return NVML_ERROR_NOT_FOUND;
    *found = mig_handle(device->gpu, seen[index]);
    return NVML_SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceGetDeviceHandleFromMigDeviceHandle(nvmlDevice_t device, nvmlDevice_t *parent)
{
    nvmlReturn_t error = device_error(device);
    if (error != NVML_SUCCESS)
        return error;
    if (device->mig < 0)
        return NVML_ERROR_INVALID_ARGUMENT;
    *parent = gpu_handle(device->gpu);
    return NVML_SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceIsMigDeviceHandle(nvmlDevice_t device, unsigned *answer)
{
    nvmlReturn_t error = device_error(device);
    if (error == NVML_SUCCESS)
        *answer = device->mig >= 0;
    return error;
}

static nvmlReturn_t instance(nvmlDevice_t device, const char *name, unsigned *id)
{
    nvmlReturn_t error = device_error(device);
    if (error != NVML_SUCCESS)
        return error;
    if (device->mig < 0)
        return NVML_ERROR_NOT_SUPPORTED;
    *id = (unsigned)mig_number(device->gpu, device->mig, name, 0);
    return NVML_SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceGetGpuInstanceId(nvmlDevice_t device, unsigned *id) { return instance(device, "gi", id); }

EXPORT nvmlReturn_t nvmlDeviceGetComputeInstanceId(nvmlDevice_t device, unsigned *id)
{
    return instance(device, "ci", id);
}

EXPORT nvmlReturn_t nvmlDeviceGetAttributes_v2(nvmlDevice_t device, nvmlDeviceAttributes_t *answer)
{
    nvmlReturn_t error = device_error(device);
    if (error != NVML_SUCCESS)
        return error;
    if (device->mig < 0)
        return NVML_ERROR_NOT_SUPPORTED;
    unsigned slices = (unsigned)mig_number(device->gpu, device->mig, "slices", 1);
    *answer = (nvmlDeviceAttributes_t){
        .multiprocessors = 14 * slices,
        .copy_engines = slices,
        .gpu_slices = slices,
        .compute_slices = slices,
        .memory_mib = (unsigned long long)mig_number(device->gpu, device->mig, "memory_mib", 0),
    };
    return NVML_SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceGetAttributes(nvmlDevice_t device, nvmlDeviceAttributes_t *answer)
{
    return nvmlDeviceGetAttributes_v2(device, answer);
}
