/* nvidia-modprobe: creates the nodes that a loaded driver has and that are missing; -u those of nvidia-uvm, -c N that of
 * one GPU. A node with the vendor's numbers cannot be opened where there is no driver, so the installed ones are used. */
#include "standin.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

static int make(const char *name)
{
    char path[512];
    node_path(name, path, sizeof path);
    if (mknod(path, S_IFCHR | 0666, makedev((unsigned)property_number("node_major", 1),
                                            (unsigned)property_number("node_minor", 3))) == 0)
        return chmod(path, 0666);
    return errno == EEXIST ? 0 : -1;
}

int main(int argc, char **argv)
{
    int uvm = 0, failed = 0;
    long gpu = -1;
    for (int i = 1; i < argc; i++) {
        if (strncmp(argv[i], "-c", 2) == 0) {
            const char *text = argv[i][2] == '=' ? argv[i] + 3 : argv[i][2] ? argv[i] + 2 : i + 1 < argc ? argv[++i] : "";
            gpu = strtol(text, NULL, 10);
        } else if (strcmp(argv[i], "-u") == 0) {
            uvm = 1;
        } else if (strcmp(argv[i], "-m") != 0) {
            fprintf(stderr, "nvidia-modprobe: unknown option %s\n", argv[i]);
            return 1;
        }
    }
    if (property_number("nvml.init", 0) == 9) /* there is no module to load */
        return 1;
    failed |= make("nvidiactl");
    if (uvm) {
        failed |= make("nvidia-uvm");
        failed |= make("nvidia-uvm-tools");
    } else if (gpu >= 0 && gpu < property_number("gpus", 0) && gpu_number((int)gpu, "present", 1)) {
        char name[32];
        snprintf(name, sizeof name, "nvidia%ld", gpu_number((int)gpu, "minor", gpu));
        failed |= make(name);
    }
    return failed ? 1 : 0;
}
