/* Modules, kernels, streams and events. Everything queued is done at once, in order. */
#include "cuda.h"
#include "ptx.h"
#include "standin.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

struct module { CUcontext context; struct ptx_kernel *kernels; };
struct stream { CUcontext context; };
struct event { struct timespec when; int recorded; };

enum { JIT_INFO_LOG = 3, JIT_INFO_LOG_SIZE = 4, JIT_ERROR_LOG = 5, JIT_ERROR_LOG_SIZE = 6 };

static void log_error(const char *reason, unsigned count, const int *options, void **values)
{
    char *buffer = NULL;
    size_t size = 0;
    for (unsigned i = 0; i < count; i++) {
        if (options[i] == JIT_ERROR_LOG)
            buffer = values[i];
        if (options[i] == JIT_ERROR_LOG_SIZE)
            size = (size_t)(uintptr_t)values[i];
    }
    if (buffer != NULL && size > 0)
        snprintf(buffer, size, "ptxas application ptx input, %s", reason);
}

EXPORT CUresult cuModuleLoadDataEx(CUmodule *module, const void *image, unsigned count, int *options, void **values)
{
    CUcontext context;
    char reason[256] = "";
    int code = CUDA_SUCCESS;
    CUresult error = context_check(&context);
    if (error != CUDA_SUCCESS)
        return error;
    if (module == NULL || image == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    if (memcmp(image, "\177ELF", 4) == 0 || memcmp(image, "\x50\xed\x55\xba", 4) == 0)
        return CUDA_ERROR_INVALID_IMAGE; /* machine code: only text can be interpreted */
    int capability = (int)(device_number(context->device, "cc_major", 0) * 10 +
                           device_number(context->device, "cc_minor", 0));
    struct ptx_kernel *kernels = ptx_load(image, (int)property_number("ptx", 0), capability, &code, reason);
    if (kernels == NULL) {
        log_error(reason, count, options, values);
        return code;
    }
    *module = calloc(1, sizeof **module);
    (*module)->context = context;
    (*module)->kernels = kernels;
    for (; kernels != NULL; kernels = kernels->next)
        kernels->owner = *module;
    return CUDA_SUCCESS;
}

EXPORT CUresult cuModuleLoadData(CUmodule *module, const void *image)
{
    return cuModuleLoadDataEx(module, image, 0, NULL, NULL);
}

EXPORT CUresult cuModuleUnload(CUmodule module)
{
    if (module == NULL)
        return CUDA_ERROR_INVALID_HANDLE;
    ptx_free(module->kernels);
    free(module);
    return CUDA_SUCCESS;
}

EXPORT CUresult cuModuleGetFunction(CUfunction *function, CUmodule module, const char *name)
{
    if (module == NULL)
        return CUDA_ERROR_INVALID_HANDLE;
    for (struct ptx_kernel *kernel = module->kernels; kernel != NULL; kernel = kernel->next)
        if (strcmp(kernel->name, name) == 0) {
            *function = kernel;
            return CUDA_SUCCESS;
        }
    return CUDA_ERROR_NOT_FOUND;
}

EXPORT CUresult cuLaunchKernel(CUfunction function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x,
                               unsigned block_y, unsigned block_z, unsigned shared_bytes, CUstream stream,
                               void **parameters, void **extra)
{
    CUcontext context;
    (void)stream;
    CUresult error = context_check(&context);
    if (error != CUDA_SUCCESS)
        return error;
    if (function == NULL)
        return CUDA_ERROR_INVALID_HANDLE;
    if (((struct module *)function->owner)->context != context)
        return CUDA_ERROR_INVALID_CONTEXT;
    unsigned long long threads = (unsigned long long)block_x * block_y * block_z;
    if (threads == 0 || threads > 1024 || grid_x == 0 || grid_y == 0 || grid_z == 0 || shared_bytes > 49152)
        return CUDA_ERROR_INVALID_VALUE;
    if (extra != NULL || (function->parameter_count > 0 && parameters == NULL))
        return CUDA_ERROR_INVALID_VALUE;
    unsigned char *values = calloc(1, function->parameter_bytes + 1);
    for (int i = 0; i < function->parameter_count; i++)
        memcpy(values + function->parameters[i].offset, parameters[i], function->parameters[i].size);
    struct ptx_grid grid = {{grid_x, grid_y, grid_z}, {block_x, block_y, block_z},
                            (int)device_number(context->device, "wrong_result", 0)};
    context->error = ptx_run(function, &grid, values, memory_reachable);
    free(values);
    return CUDA_SUCCESS; /* a kernel's error shows at the next call, as on a device that runs beside the program */
}

EXPORT CUresult cuStreamCreate(CUstream *stream, unsigned flags)
{
    CUcontext context;
    (void)flags;
    CUresult error = context_check(&context);
    if (error != CUDA_SUCCESS)
        return error;
    *stream = calloc(1, sizeof **stream);
    (*stream)->context = context;
    return CUDA_SUCCESS;
}

EXPORT CUresult cuStreamCreateWithPriority(CUstream *stream, unsigned flags, int priority)
{
    (void)priority;
    return cuStreamCreate(stream, flags);
}

EXPORT CUresult cuStreamSynchronize(CUstream stream)
{
    CUcontext context;
    (void)stream;
    return context_check(&context);
}

EXPORT CUresult cuStreamQuery(CUstream stream) { return cuStreamSynchronize(stream); }

EXPORT CUresult cuStreamDestroy_v2(CUstream stream)
{
    free(stream);
    return stream == NULL ? CUDA_ERROR_INVALID_HANDLE : CUDA_SUCCESS;
}

EXPORT CUresult cuEventCreate(CUevent *event, unsigned flags)
{
    CUcontext context;
    (void)flags;
    CUresult error = context_check(&context);
    if (error == CUDA_SUCCESS)
        *event = calloc(1, sizeof **event);
    return error;
}

EXPORT CUresult cuEventRecord(CUevent event, CUstream stream)
{
    CUcontext context;
    (void)stream;
    CUresult error = context_check(&context);
    if (error != CUDA_SUCCESS)
        return error;
    if (event == NULL)
        return CUDA_ERROR_INVALID_HANDLE;
    clock_gettime(CLOCK_MONOTONIC, &event->when);
    event->recorded = 1;
    return CUDA_SUCCESS;
}

EXPORT CUresult cuEventSynchronize(CUevent event)
{
    CUcontext context;
    return event == NULL ? CUDA_ERROR_INVALID_HANDLE : context_check(&context);
}

EXPORT CUresult cuEventQuery(CUevent event) { return cuEventSynchronize(event); }

EXPORT CUresult cuEventElapsedTime(float *milliseconds, CUevent start, CUevent end)
{
    if (start == NULL || end == NULL || !start->recorded || !end->recorded)
        return CUDA_ERROR_INVALID_HANDLE;
    *milliseconds = (float)((double)(end->when.tv_sec - start->when.tv_sec) * 1e3 +
                            (double)(end->when.tv_nsec - start->when.tv_nsec) / 1e6);
    return CUDA_SUCCESS;
}

EXPORT CUresult cuEventDestroy_v2(CUevent event)
{
    free(event);
    return event == NULL ? CUDA_ERROR_INVALID_HANDLE : CUDA_SUCCESS;
}
