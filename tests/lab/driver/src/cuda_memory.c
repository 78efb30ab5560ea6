/* "Device" memory is memory of the process; what was allocated is known, so that nothing else can be touched. */
#include "cuda.h"
#include "standin.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum { MOST = 4096 };
static struct { uint64_t start; size_t size; CUcontext context; } blocks[MOST];
static int used;
static __thread int last; /* the block found last is likely to be the next one, too */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

int memory_reachable(uint64_t address, size_t size)
{
    int hint = last;
    if (hint < used && address - blocks[hint].start < blocks[hint].size)
        return address - blocks[hint].start + size <= blocks[hint].size;
    for (int i = 0; i < used; i++)
        if (address >= blocks[i].start && address - blocks[i].start < blocks[i].size) {
            last = i;
            return address - blocks[i].start + size <= blocks[i].size;
        }
    return 0;
}

static void drop(int index)
{
    munmap((void *)(uintptr_t)blocks[index].start, blocks[index].size);
    blocks[index] = blocks[--used];
}

void memory_forget(CUcontext context)
{
    pthread_mutex_lock(&lock);
    for (int i = used - 1; i >= 0; i--)
        if (blocks[i].context == context)
            drop(i);
    pthread_mutex_unlock(&lock);
}

static size_t taken(CUdevice device)
{
    size_t sum = 0;
    for (int i = 0; i < used; i++)
        if (blocks[i].context->device == device)
            sum += blocks[i].size;
    return sum;
}

EXPORT CUresult cuMemAlloc_v2(CUdeviceptr *address, size_t size)
{
    CUcontext context;
    CUresult error = context_check(&context);
    if (error != CUDA_SUCCESS)
        return error;
    if (size == 0)
        return CUDA_ERROR_INVALID_VALUE;
    pthread_mutex_lock(&lock);
    error = CUDA_ERROR_OUT_OF_MEMORY;
    if (used < MOST && size <= device_memory(context->device) - taken(context->device)) {
        void *block = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (block != MAP_FAILED) {
            blocks[used].start = *address = (uintptr_t)block;
            blocks[used].size = size;
            blocks[used++].context = context;
            error = CUDA_SUCCESS;
        }
    }
    pthread_mutex_unlock(&lock);
    return error;
}

EXPORT CUresult cuMemFree_v2(CUdeviceptr address)
{
    CUcontext context;
    CUresult error = context_check(&context);
    if (error != CUDA_SUCCESS || address == 0)
        return error;
    error = CUDA_ERROR_INVALID_VALUE;
    pthread_mutex_lock(&lock);
    for (int i = 0; i < used; i++)
        if (blocks[i].start == address) {
            drop(i);
            error = CUDA_SUCCESS;
            break;
        }
    pthread_mutex_unlock(&lock);
    return error;
}

EXPORT CUresult cuMemGetInfo_v2(size_t *free_bytes, size_t *total)
{
    CUcontext context;
    CUresult error = context_check(&context);
    if (error != CUDA_SUCCESS)
        return error;
    *total = device_memory(context->device);
    *free_bytes = *total - taken(context->device);
    return CUDA_SUCCESS;
}

/* A copy can be told to take as long as a slow link would, everywhere or in containers only. */
static void take_time(CUdevice device, size_t size)
{
    long mib_s = device_number(device, "copy_mib_s", 0);
    if (access("/.dockerenv", F_OK) == 0)
        mib_s = device_number(device, "copy_container_mib_s", mib_s);
    if (mib_s <= 0)
        return;
    double seconds = (double)size / ((double)mib_s * 1024 * 1024);
    struct timespec pause = {(time_t)seconds, (long)((seconds - (double)(time_t)seconds) * 1e9)};
    nanosleep(&pause, NULL);
}

static CUresult copy(void *to, const void *from, size_t size, CUdeviceptr device_side, CUcontext *context)
{
    CUresult error = context_check(context);
    if (error != CUDA_SUCCESS)
        return error;
    if (size > 0 && (to == NULL || from == NULL || !memory_reachable(device_side, size)))
        return CUDA_ERROR_INVALID_VALUE;
    memcpy(to, from, size);
    take_time((*context)->device, size);
    return CUDA_SUCCESS;
}

EXPORT CUresult cuMemcpyHtoD_v2(CUdeviceptr to, const void *from, size_t size)
{
    CUcontext context;
    return copy((void *)(uintptr_t)to, from, size, to, &context);
}

EXPORT CUresult cuMemcpyDtoH_v2(void *to, CUdeviceptr from, size_t size)
{
    CUcontext context;
    CUresult error = copy(to, (const void *)(uintptr_t)from, size, from, &context);
    if (error == CUDA_SUCCESS && size > 0 && device_number(context->device, "corrupt_copy", 0))
        ((unsigned char *)to)[size / 2] ^= 0x10;
    return error;
}

EXPORT CUresult cuMemcpyDtoD_v2(CUdeviceptr to, CUdeviceptr from, size_t size)
{
    CUcontext context;
    if (!memory_reachable(from, size))
        return CUDA_ERROR_INVALID_VALUE;
    return copy((void *)(uintptr_t)to, (const void *)(uintptr_t)from, size, to, &context);
}

EXPORT CUresult cuMemcpyHtoDAsync_v2(CUdeviceptr to, const void *from, size_t size, CUstream stream)
{
    (void)stream;
    return cuMemcpyHtoD_v2(to, from, size);
}

EXPORT CUresult cuMemcpyDtoHAsync_v2(void *to, CUdeviceptr from, size_t size, CUstream stream)
{
    (void)stream;
    return cuMemcpyDtoH_v2(to, from, size);
}

static CUresult fill(CUdeviceptr address, unsigned value, size_t width, size_t times)
{
    CUcontext context;
    CUresult error = context_check(&context);
    if (error != CUDA_SUCCESS)
        return error;
    if (times > 0 && !memory_reachable(address, width * times))
        return CUDA_ERROR_INVALID_VALUE;
    for (size_t i = 0; i < times; i++)
        memcpy((char *)(uintptr_t)address + i * width, &value, width);
    return CUDA_SUCCESS;
}

EXPORT CUresult cuMemsetD8_v2(CUdeviceptr address, unsigned char value, size_t times)
{
    return fill(address, value, 1, times);
}

EXPORT CUresult cuMemsetD32_v2(CUdeviceptr address, unsigned value, size_t times)
{
    return fill(address, value, 4, times);
}

EXPORT CUresult cuMemAllocHost_v2(void **address, size_t size)
{
    CUcontext context;
    CUresult error = context_check(&context);
    if (error != CUDA_SUCCESS)
        return error;
    return posix_memalign(address, 4096, size ? size : 1) == 0 ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
}

EXPORT CUresult cuMemHostAlloc(void **address, size_t size, unsigned flags)
{
    (void)flags;
    return cuMemAllocHost_v2(address, size);
}

EXPORT CUresult cuMemFreeHost(void *address)
{
    free(address);
    return CUDA_SUCCESS;
}
