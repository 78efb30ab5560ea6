/* cuGetProcAddress: the current form of each function, by its plain name. */
#include <stddef.h>
#include <string.h>

enum { SUCCESS = 0, INVALID_VALUE = 1, NOT_FOUND = 500 };
enum { FOUND = 0, SYMBOL_NOT_FOUND = 1 };

#define SAME(f) X(f, f)
#define NEWER(f) X(f, f##_v2)
#define FUNCTIONS                                                                                                      \
    SAME(cuInit) SAME(cuDriverGetVersion) SAME(cuGetErrorName) SAME(cuGetErrorString) SAME(cuDeviceGetCount)           \
    SAME(cuDeviceGet) SAME(cuDeviceGetName) NEWER(cuDeviceGetUuid) NEWER(cuDeviceTotalMem) SAME(cuDeviceGetAttribute)  \
    SAME(cuDeviceComputeCapability) SAME(cuDeviceGetPCIBusId) NEWER(cuCtxCreate) NEWER(cuCtxDestroy)                   \
    NEWER(cuCtxPushCurrent) NEWER(cuCtxPopCurrent) SAME(cuCtxSetCurrent) SAME(cuCtxGetCurrent) SAME(cuCtxGetDevice)    \
    SAME(cuCtxGetApiVersion) SAME(cuCtxSynchronize) SAME(cuDevicePrimaryCtxRetain) NEWER(cuDevicePrimaryCtxRelease)    \
    NEWER(cuDevicePrimaryCtxReset) NEWER(cuDevicePrimaryCtxSetFlags) SAME(cuDevicePrimaryCtxGetState)                  \
    NEWER(cuMemAlloc) NEWER(cuMemFree) NEWER(cuMemGetInfo) NEWER(cuMemcpyHtoD) NEWER(cuMemcpyDtoH) NEWER(cuMemcpyDtoD) \
    NEWER(cuMemcpyHtoDAsync) NEWER(cuMemcpyDtoHAsync) NEWER(cuMemsetD8) NEWER(cuMemsetD32) NEWER(cuMemAllocHost)       \
    SAME(cuMemHostAlloc) SAME(cuMemFreeHost) SAME(cuModuleLoadData) SAME(cuModuleLoadDataEx) SAME(cuModuleUnload)      \
    SAME(cuModuleGetFunction) SAME(cuLaunchKernel) SAME(cuStreamCreate) SAME(cuStreamCreateWithPriority)               \
    SAME(cuStreamSynchronize) SAME(cuStreamQuery) NEWER(cuStreamDestroy) SAME(cuEventCreate) SAME(cuEventRecord)       \
    SAME(cuEventSynchronize) SAME(cuEventQuery) SAME(cuEventElapsedTime) NEWER(cuEventDestroy)

#define X(name, function) extern void function(void);
FUNCTIONS
#undef X

#define EXPORT __attribute__((visibility("default")))

static const struct { const char *name; void (*function)(void); } functions[] = {
#define X(name, function) {#name, function},
    FUNCTIONS
#undef X
};

EXPORT int cuGetProcAddress_v2(const char *name, void (**function)(void), int version, unsigned long long flags,
                               int *status)
{
    (void)version;
    (void)flags;
    if (name == NULL || function == NULL)
        return INVALID_VALUE;
    for (size_t i = 0; i < sizeof functions / sizeof *functions; i++)
        if (strcmp(functions[i].name, name) == 0) {
            *function = functions[i].function;
            if (status != NULL)
                *status = FOUND;
            return SUCCESS;
        }
    *function = NULL;
    if (status != NULL)
        *status = SYMBOL_NOT_FOUND;
    return NOT_FOUND;
}

EXPORT int cuGetProcAddress(const char *name, void (**function)(void), int version, unsigned long long flags)
{
    return cuGetProcAddress_v2(name, function, version, flags, NULL);
}
