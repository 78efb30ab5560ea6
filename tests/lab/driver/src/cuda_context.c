/* Contexts: one current per thread, with a stack below it; and who may have one (the compute mode). */
#include "cuda.h"
#include "standin.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <unistd.h>

static __thread CUcontext current_context;
static struct context primary[MAX_GPUS];

/* Exclusive-process mode: a lock on the GPU's own node is what processes in different containers have in common. */
static int claims[MAX_GPUS], claim_files[MAX_GPUS];

static CUresult claim(CUdevice device)
{
    int gpu = device_gpu(device);
    if (device_number(device, "error", 0) != 0)
        return CUDA_ERROR_DEVICE_UNAVAILABLE;
    switch (device_number(device, "compute_mode", 0)) {
    case 0:
        return CUDA_SUCCESS;
    case 3:
        break;
    default:
        return CUDA_ERROR_DEVICE_UNAVAILABLE;
    }
    if (claims[gpu]++ > 0)
        return CUDA_SUCCESS;
    char name[32], path[512];
    snprintf(name, sizeof name, "nvidia%ld", gpu_number(gpu, "minor", gpu));
    node_path(name, path, sizeof path);
    claim_files[gpu] = open(path, O_RDWR | O_CLOEXEC);
    if (claim_files[gpu] >= 0 && flock(claim_files[gpu], LOCK_EX | LOCK_NB) == 0)
        return CUDA_SUCCESS;
    if (claim_files[gpu] >= 0)
        close(claim_files[gpu]);
    claims[gpu] = 0;
    return CUDA_ERROR_DEVICE_UNAVAILABLE;
}

static void unclaim(CUdevice device)
{
    int gpu = device_gpu(device);
    if (claims[gpu] > 0 && --claims[gpu] == 0)
        close(claim_files[gpu]);
}

CUresult context_check(CUcontext *current)
{
    if (device_check(0) == CUDA_ERROR_NOT_INITIALIZED)
        return CUDA_ERROR_NOT_INITIALIZED;
    if (current_context == NULL)
        return CUDA_ERROR_INVALID_CONTEXT;
    *current = current_context;
    return current_context->error;
}

EXPORT CUresult cuCtxPushCurrent_v2(CUcontext context)
{
    if (context == NULL)
        return CUDA_ERROR_INVALID_CONTEXT;
    context->below = current_context;
    current_context = context;
    return CUDA_SUCCESS;
}

EXPORT CUresult cuCtxPopCurrent_v2(CUcontext *context)
{
    if (current_context == NULL)
        return CUDA_ERROR_INVALID_CONTEXT;
    if (context != NULL)
        *context = current_context;
    current_context = current_context->below;
    return CUDA_SUCCESS;
}

EXPORT CUresult cuCtxCreate_v2(CUcontext *context, unsigned flags, CUdevice device)
{
    CUresult error = device_check(device);
    if (error == CUDA_SUCCESS)
        error = claim(device);
    if (error != CUDA_SUCCESS)
        return error;
    CUcontext made = calloc(1, sizeof *made);
    if (made == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    made->device = device;
    made->flags = flags;
    *context = made;
    return cuCtxPushCurrent_v2(made);
}

EXPORT CUresult cuCtxCreate_v3(CUcontext *context, void *affinity, int affinities, unsigned flags, CUdevice device)
{
    (void)affinity;
    return affinities == 0 ? cuCtxCreate_v2(context, flags, device) : CUDA_ERROR_NOT_SUPPORTED;
}

EXPORT CUresult cuCtxDestroy_v2(CUcontext context)
{
    if (context == NULL)
        return CUDA_ERROR_INVALID_CONTEXT;
    if (context == current_context)
        current_context = context->below;
    memory_forget(context);
    unclaim(context->device);
    free(context);
    return CUDA_SUCCESS;
}

EXPORT CUresult cuCtxSetCurrent(CUcontext context)
{
    if (device_check(0) == CUDA_ERROR_NOT_INITIALIZED)
        return CUDA_ERROR_NOT_INITIALIZED;
    if (context != NULL)
        context->below = current_context != NULL ? current_context->below : NULL;
    current_context = context;
    return CUDA_SUCCESS;
}

EXPORT CUresult cuCtxGetCurrent(CUcontext *context)
{
    *context = current_context;
    return CUDA_SUCCESS;
}

EXPORT CUresult cuCtxGetDevice(CUdevice *device)
{
    CUcontext context;
    CUresult error = context_check(&context);
    if (error == CUDA_SUCCESS)
        *device = context->device;
    return error;
}

EXPORT CUresult cuCtxGetApiVersion(CUcontext context, unsigned *version)
{
    (void)context;
    *version = 3020;
    return CUDA_SUCCESS;
}

EXPORT CUresult cuCtxSynchronize(void)
{
    CUcontext context;
    return context_check(&context); /* work is done by the time it is queued */
}

EXPORT CUresult cuDevicePrimaryCtxRetain(CUcontext *context, CUdevice device)
{
    CUresult error = device_check(device);
    if (error == CUDA_SUCCESS && primary[device].retained == 0)
        error = claim(device);
    if (error != CUDA_SUCCESS)
        return error;
    primary[device].device = device;
    primary[device].retained++;
    *context = &primary[device];
    return CUDA_SUCCESS;
}

static void end_primary(CUdevice device)
{
    memory_forget(&primary[device]);
    unclaim(device);
    primary[device].retained = 0;
    primary[device].error = CUDA_SUCCESS;
}

EXPORT CUresult cuDevicePrimaryCtxRelease_v2(CUdevice device)
{
    CUresult error = device_check(device);
    if (error != CUDA_SUCCESS)
        return error;
    if (primary[device].retained == 0)
        return CUDA_ERROR_INVALID_CONTEXT;
    if (--primary[device].retained == 0)
        end_primary(device);
    return CUDA_SUCCESS;
}

EXPORT CUresult cuDevicePrimaryCtxRelease(CUdevice device) { return cuDevicePrimaryCtxRelease_v2(device); }

EXPORT CUresult cuDevicePrimaryCtxReset_v2(CUdevice device)
{
    CUresult error = device_check(device);
    if (error == CUDA_SUCCESS && primary[device].retained > 0)
        end_primary(device);
    return error;
}

EXPORT CUresult cuDevicePrimaryCtxSetFlags_v2(CUdevice device, unsigned flags)
{
    CUresult error = device_check(device);
    if (error == CUDA_SUCCESS)
        primary[device].flags = flags;
    return error;
}

EXPORT CUresult cuDevicePrimaryCtxGetState(CUdevice device, unsigned *flags, int *active)
{
    CUresult error = device_check(device);
    if (error != CUDA_SUCCESS)
        return error;
    *flags = primary[device].flags;
    *active = primary[device].retained > 0;
    return CUDA_SUCCESS;
}
