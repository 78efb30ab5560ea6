/* Start-up, errors and devices. */
#include "cuda.h"
#include "standin.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int initialised;
static int count;
static struct shown { int gpu, mig; } devices[MAX_GPUS];

static const struct { CUresult code; const char *name, *text; } errors[] = {
    {0, "CUDA_SUCCESS", "no error"},
    {1, "CUDA_ERROR_INVALID_VALUE", "invalid argument"},
    {2, "CUDA_ERROR_OUT_OF_MEMORY", "out of memory"},
    {3, "CUDA_ERROR_NOT_INITIALIZED", "initialization error"},
    {34, "CUDA_ERROR_STUB_LIBRARY", "CUDA driver is a stub library"},
    {46, "CUDA_ERROR_DEVICE_UNAVAILABLE", "CUDA-capable device(s) is/are busy or unavailable"},
    {100, "CUDA_ERROR_NO_DEVICE", "no CUDA-capable device is detected"},
    {101, "CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal"},
    {200, "CUDA_ERROR_INVALID_IMAGE", "device kernel image is invalid"},
    {201, "CUDA_ERROR_INVALID_CONTEXT", "invalid device context"},
    {209, "CUDA_ERROR_NO_BINARY_FOR_GPU", "no kernel image is available for execution on the device"},
    {214, "CUDA_ERROR_ECC_UNCORRECTABLE", "uncorrectable ECC error encountered"},
    {218, "CUDA_ERROR_INVALID_PTX", "a PTX JIT compilation failed"},
    {222, "CUDA_ERROR_UNSUPPORTED_PTX_VERSION", "the provided PTX was compiled with an unsupported toolchain."},
    {400, "CUDA_ERROR_INVALID_HANDLE", "invalid resource handle"},
    {500, "CUDA_ERROR_NOT_FOUND", "named symbol not found"},
    {600, "CUDA_ERROR_NOT_READY", "device not ready"},
    {700, "CUDA_ERROR_ILLEGAL_ADDRESS", "an illegal memory access was encountered"},
    {719, "CUDA_ERROR_LAUNCH_FAILED", "unspecified launch failure"},
    {801, "CUDA_ERROR_NOT_SUPPORTED", "operation not supported"},
    {802, "CUDA_ERROR_SYSTEM_NOT_READY", "system not yet initialized"},
    {803, "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH", "system has unsupported display driver / cuda driver combination"},
    {804, "CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE", "forward compatibility was attempted on non supported HW"},
    {999, "CUDA_ERROR_UNKNOWN", "unknown error"},
};

static CUresult error_text(CUresult code, int name, const char **text)
{
    for (size_t i = 0; i < sizeof errors / sizeof *errors; i++)
        if (errors[i].code == code) {
            *text = name ? errors[i].name : errors[i].text;
            return CUDA_SUCCESS;
        }
    *text = NULL;
    return CUDA_ERROR_INVALID_VALUE;
}

EXPORT CUresult cuGetErrorName(CUresult code, const char **text) { return error_text(code, 1, text); }
EXPORT CUresult cuGetErrorString(CUresult code, const char **text) { return error_text(code, 0, text); }

/* CUDA_VISIBLE_DEVICES: indices, or UUIDs of which a unique beginning is enough; the list ends at the first bad one. */
static void choose(const char *wanted)
{
    int seen = count, chosen = 0;
    struct shown all[MAX_GPUS], picked[MAX_GPUS] = {{0, 0}};
    memcpy(all, devices, sizeof all);
    for (const char *item = wanted; *item != '\0' && chosen < MAX_GPUS;) {
        size_t length = strcspn(item, ",");
        int found = -1;
        if (*item >= '0' && *item <= '9') {
            long index = strtol(item, NULL, 10);
            found = index < seen ? (int)index : -1;
        } else {
            for (int i = 0; i < seen && length > 4; i++) {
                char uuid[64] = "";
                if (all[i].mig >= 0)
                    mig_property(all[i].gpu, all[i].mig, "uuid", uuid, sizeof uuid);
                else
                    gpu_property(all[i].gpu, "uuid", uuid, sizeof uuid);
                if (strncmp(uuid, item, length) == 0)
                    found = i;
            }
        }
        if (found < 0)
            break;
        picked[chosen++] = all[found];
        item += length;
        item += *item == ',';
    }
    memcpy(devices, picked, sizeof devices);
    count = chosen;
}

EXPORT CUresult cuInit(unsigned flags)
{
    int gpus[MAX_GPUS], migs[MAX_MIG];
    if (flags != 0)
        return CUDA_ERROR_INVALID_VALUE;
    if (initialised)
        return CUDA_SUCCESS;
    long fault = property_number("cuda.init", 0);
    if (fault != 0)
        return (CUresult)fault;
    if (node_error("nvidiactl") != 0)
        return CUDA_ERROR_NO_DEVICE;
    int seen = visible_gpus(gpus), mig_taken = 0;
    count = 0;
    for (int i = 0; i < seen; i++) {
        if (gpu_number(gpus[i], "error", 0) == 15) /* lost: it is not on the bus any more */
            continue;
        if (gpu_number(gpus[i], "mig.mode", 0) <= 0) {
            devices[count].gpu = gpus[i];
            devices[count++].mig = -1;
        } else if (!mig_taken && visible_migs(gpus[i], migs) > 0) { /* CUDA shows one MIG device only */
            devices[count].gpu = gpus[i];
            devices[count++].mig = migs[0];
            mig_taken = 1;
        }
    }
    const char *wanted = getenv("CUDA_VISIBLE_DEVICES");
    if (wanted != NULL)
        choose(wanted);
    if (count == 0)
        return CUDA_ERROR_NO_DEVICE;
    if (node_error("nvidia-uvm") != 0)
        return CUDA_ERROR_UNKNOWN;
    initialised = 1;
    return CUDA_SUCCESS;
}

EXPORT CUresult cuDriverGetVersion(int *version)
{
    if (version == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    *version = (int)property_number("cuda", 0);
    return CUDA_SUCCESS;
}

CUresult device_check(CUdevice device)
{
    if (!initialised)
        return CUDA_ERROR_NOT_INITIALIZED;
    return device >= 0 && device < count ? CUDA_SUCCESS : CUDA_ERROR_INVALID_DEVICE;
}

int device_gpu(CUdevice device) { return devices[device].gpu; }

long device_number(CUdevice device, const char *name, long otherwise)
{
    return gpu_number(devices[device].gpu, name, otherwise);
}

size_t device_memory(CUdevice device)
{
    long mib = devices[device].mig >= 0 ? mig_number(devices[device].gpu, devices[device].mig, "memory_mib", 0)
                                        : device_number(device, "memory_mib", 0) -
                                              device_number(device, "memory_reserved_mib", 0);
    return (size_t)mib << 20;
}

EXPORT CUresult cuDeviceGetCount(int *answer)
{
    if (!initialised)
        return CUDA_ERROR_NOT_INITIALIZED;
    *answer = count;
    return CUDA_SUCCESS;
}

EXPORT CUresult cuDeviceGet(CUdevice *device, int ordinal)
{
    CUresult error = device_check(ordinal);
    if (error == CUDA_SUCCESS)
        *device = ordinal;
    return error;
}

EXPORT CUresult cuDeviceGetName(char *name, int size, CUdevice device)
{
    CUresult error = device_check(device);
    if (error != CUDA_SUCCESS)
        return error;
    if (gpu_property(devices[device].gpu, "name", name, (size_t)size) == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    return CUDA_SUCCESS;
}

static void parse_uuid(const char *text, CUuuid *uuid)
{
    int digits = 0;
    memset(uuid, 0, sizeof *uuid);
    for (text += 4; *text != '\0' && digits < 32; text++) { /* behind "GPU-" or "MIG-" */
        char digit[2] = {*text, '\0'};
        if (*text == '-')
            continue;
        uuid->bytes[digits / 2] |= (unsigned char)(strtol(digit, NULL, 16) << (digits % 2 ? 0 : 4));
        digits++;
    }
}

EXPORT CUresult cuDeviceGetUuid(CUuuid *uuid, CUdevice device)
{
    char text[64] = "";
    CUresult error = device_check(device);
    if (error != CUDA_SUCCESS)
        return error;
    gpu_property(devices[device].gpu, "uuid", text, sizeof text);
    parse_uuid(text, uuid);
    return CUDA_SUCCESS;
}

EXPORT CUresult cuDeviceGetUuid_v2(CUuuid *uuid, CUdevice device)
{
    char text[64] = "";
    CUresult error = device_check(device);
    if (error != CUDA_SUCCESS || devices[device].mig < 0)
        return error != CUDA_SUCCESS ? error : cuDeviceGetUuid(uuid, device);
    mig_property(devices[device].gpu, devices[device].mig, "uuid", text, sizeof text);
    parse_uuid(text, uuid);
    return CUDA_SUCCESS;
}

EXPORT CUresult cuDeviceTotalMem_v2(size_t *bytes, CUdevice device)
{
    CUresult error = device_check(device);
    if (error == CUDA_SUCCESS)
        *bytes = device_memory(device);
    return error;
}

EXPORT CUresult cuDeviceTotalMem(unsigned *bytes, CUdevice device)
{
    CUresult error = device_check(device);
    if (error == CUDA_SUCCESS)
        *bytes = (unsigned)device_memory(device); /* the first form counts in 32 bits */
    return error;
}

EXPORT CUresult cuDeviceComputeCapability(int *major, int *minor, CUdevice device)
{
    CUresult error = device_check(device);
    if (error != CUDA_SUCCESS)
        return error;
    *major = (int)device_number(device, "cc_major", 0);
    *minor = (int)device_number(device, "cc_minor", 0);
    return CUDA_SUCCESS;
}

EXPORT CUresult cuDeviceGetPCIBusId(char *text, int size, CUdevice device)
{
    char bus_id[32] = "";
    CUresult error = device_check(device);
    if (error != CUDA_SUCCESS)
        return error;
    gpu_property(devices[device].gpu, "pci", bus_id, sizeof bus_id);
    snprintf(text, (size_t)size, "%s", bus_id + 4);
    return CUDA_SUCCESS;
}

static unsigned pci_part(CUdevice device, int part)
{
    char bus_id[32] = "";
    unsigned parts[3] = {0};
    gpu_property(devices[device].gpu, "pci", bus_id, sizeof bus_id);
    sscanf(bus_id, "%x:%x:%x", &parts[0], &parts[1], &parts[2]);
    return parts[part];
}

EXPORT CUresult cuDeviceGetAttribute(int *answer, int attribute, CUdevice device)
{
    static const struct { int attribute, value; } constants[] = {
        {1, 1024}, {2, 1024}, {3, 1024}, {4, 64}, {5, 2147483647}, {6, 65535}, {7, 65535}, {8, 49152}, {9, 65536},
        {10, 32}, {12, 65536}, {15, 1}, {18, 0}, {19, 1}, {31, 1}, {37, 5120}, {38, 41943040}, {39, 2048}, {40, 3},
        {41, 1}, {81, 167936}, {82, 65536},
    };
    CUresult error = device_check(device);
    if (error != CUDA_SUCCESS)
        return error;
    *answer = 0;
    for (size_t i = 0; i < sizeof constants / sizeof *constants; i++)
        if (constants[i].attribute == attribute)
            *answer = constants[i].value;
    switch (attribute) {
    case 13:
        *answer = (int)device_number(device, "clock_sm_max", 0) * 1000;
        break;
    case 16:
        *answer = (int)device_number(device, "multiprocessors", 0);
        break;
    case 20:
        *answer = (int)device_number(device, "compute_mode", 0);
        break;
    case 32:
        *answer = (int)device_number(device, "ecc", 0);
        break;
    case 33:
        *answer = (int)pci_part(device, 1);
        break;
    case 34:
        *answer = (int)pci_part(device, 2);
        break;
    case 36:
        *answer = (int)device_number(device, "clock_memory_max", 0) * 1000;
        break;
    case 50:
        *answer = (int)pci_part(device, 0);
        break;
    case 75:
        *answer = (int)device_number(device, "cc_major", 0);
        break;
    case 76:
        *answer = (int)device_number(device, "cc_minor", 0);
        break;
    default:
        if (attribute < 1 || attribute > 140)
            return CUDA_ERROR_INVALID_VALUE;
    }
    return CUDA_SUCCESS;
}
