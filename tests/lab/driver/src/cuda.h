/* The part of the driver interface's binary shape that the stand-in serves, and what its files share. */
#ifndef CUDA_H
#define CUDA_H

#include <stddef.h>
#include <stdint.h>

typedef int CUresult;
typedef int CUdevice;
typedef unsigned long long CUdeviceptr;
typedef struct { unsigned char bytes[16]; } CUuuid;
typedef struct context *CUcontext;
typedef struct module *CUmodule;
typedef struct ptx_kernel *CUfunction;
typedef struct stream *CUstream;
typedef struct event *CUevent;

enum {
    CUDA_SUCCESS = 0, CUDA_ERROR_INVALID_VALUE = 1, CUDA_ERROR_OUT_OF_MEMORY = 2, CUDA_ERROR_NOT_INITIALIZED = 3,
    CUDA_ERROR_DEVICE_UNAVAILABLE = 46, CUDA_ERROR_NO_DEVICE = 100, CUDA_ERROR_INVALID_DEVICE = 101,
    CUDA_ERROR_INVALID_IMAGE = 200, CUDA_ERROR_INVALID_CONTEXT = 201, CUDA_ERROR_INVALID_PTX = 218,
    CUDA_ERROR_UNSUPPORTED_PTX_VERSION = 222, CUDA_ERROR_INVALID_HANDLE = 400, CUDA_ERROR_NOT_FOUND = 500,
    CUDA_ERROR_NOT_READY = 600, CUDA_ERROR_ILLEGAL_ADDRESS = 700, CUDA_ERROR_SYSTEM_NOT_READY = 802,
    CUDA_ERROR_SYSTEM_DRIVER_MISMATCH = 803, CUDA_ERROR_NOT_SUPPORTED = 801, CUDA_ERROR_UNKNOWN = 999
};

struct context {
    CUdevice device;
    unsigned flags;
    CUresult error; /* once a kernel has failed, everything in its context fails so */
    unsigned retained;
    struct context *below; /* on the thread's stack */
};

/* cuda.c */
CUresult device_check(CUdevice device);
int device_gpu(CUdevice device);
long device_number(CUdevice device, const char *name, long otherwise);
size_t device_memory(CUdevice device);
/* cuda_context.c */
CUresult context_check(CUcontext *current);
/* cuda_memory.c */
int memory_reachable(uint64_t address, size_t size);
void memory_forget(CUcontext context);

#define EXPORT __attribute__((visibility("default")))

#endif
