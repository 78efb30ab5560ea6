#include "standin.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

/* The installer looks for the first line and replaces what follows it. */
#define PROPERTIES_MARK "gpulab-standin-properties\n"
volatile char standin_properties[32768] = PROPERTIES_MARK;

const char *property(const char *key, char *value, size_t size)
{
    const char *text = (const char *)standin_properties;
    size_t length = strlen(key);
    for (const char *line = strchr(text, '\n'); line != NULL && *++line != '\0'; line = strchr(line, '\n')) {
        if (strncmp(line, key, length) != 0 || line[length] != '=')
            continue;
        const char *start = line + length + 1;
        size_t count = strcspn(start, "\n");
        if (count >= size)
            count = size - 1;
        memcpy(value, start, count);
        value[count] = '\0';
        return value;
    }
    return NULL;
}

long property_number(const char *key, long otherwise)
{
    char value[64];
    return property(key, value, sizeof value) == NULL ? otherwise : strtol(value, NULL, 0);
}

static void gpu_key(char key[128], int gpu, const char *name)
{
    snprintf(key, 128, "gpu.%d.%s", gpu, name);
}

const char *gpu_property(int gpu, const char *name, char *value, size_t size)
{
    char key[128];
    gpu_key(key, gpu, name);
    return property(key, value, size);
}

long gpu_number(int gpu, const char *name, long otherwise)
{
    char key[128];
    gpu_key(key, gpu, name);
    return property_number(key, otherwise);
}

const char *mig_property(int gpu, int mig, const char *name, char *value, size_t size)
{
    char key[96];
    snprintf(key, sizeof key, "mig.%d.%s", mig, name);
    return gpu_property(gpu, key, value, size);
}

long mig_number(int gpu, int mig, const char *name, long otherwise)
{
    char key[96];
    snprintf(key, sizeof key, "mig.%d.%s", mig, name);
    return gpu_number(gpu, key, otherwise);
}

void node_path(const char *name, char *path, size_t size)
{
    char folder[256];
    snprintf(path, size, "%s/%s", property("dev", folder, sizeof folder) ? folder : "/dev", name);
}

int node_error(const char *name)
{
    char path[512];
    struct stat info;
    node_path(name, path, sizeof path);
    if (stat(path, &info) != 0)
        return errno;
    if (!S_ISCHR(info.st_mode))
        return ENODEV;
    int file = open(path, O_RDWR | O_CLOEXEC);
    if (file >= 0) {
        close(file);
        return 0;
    }
    /* A node with the vendor's numbers passed every check of the kernel; only the module behind it is not there. */
    unsigned type = major(info.st_rdev);
    return errno == ENXIO && (type == 195 || type == 511 || type == 510) ? 0 : errno;
}

int gpu_node_error(int gpu)
{
    char name[32];
    snprintf(name, sizeof name, "nvidia%ld", gpu_number(gpu, "minor", gpu));
    return node_error(name);
}

int mig_node_error(int gpu, int mig)
{
    static const char *const parts[] = {"gi_cap", "ci_cap"};
    for (int i = 0; i < 2; i++) {
        char name[64];
        snprintf(name, sizeof name, "nvidia-caps/nvidia-cap%ld", mig_number(gpu, mig, parts[i], 0));
        int error = node_error(name);
        if (error != 0)
            return error;
    }
    return 0;
}

int visible_gpus(int gpus[MAX_GPUS])
{
    int count = 0;
    long all = property_number("gpus", 0);
    for (int gpu = 0; gpu < all && gpu < MAX_GPUS; gpu++)
        if (gpu_number(gpu, "present", 1) && gpu_node_error(gpu) == 0)
            gpus[count++] = gpu;
    return count;
}

int visible_migs(int gpu, int migs[MAX_MIG])
{
    int count = 0;
    long all = gpu_number(gpu, "mig.count", 0);
    for (int mig = 0; mig < all && mig < MAX_MIG; mig++)
        if (mig_node_error(gpu, mig) == 0)
            migs[count++] = mig;
    return count;
}
