/* What every part of the stand-in driver shares: the properties that it was installed with, and which device nodes
 * "reach the driver". This is a test double; no line of it talks to hardware. */
#ifndef STANDIN_H
#define STANDIN_H

#include <stddef.h>

enum { MAX_GPUS = 8, MAX_MIG = 7 };

/* Properties are lines "key=value" in a reserved part of the data section. The installer writes them into the file, so
 * that a container that mounts the library has them, and a process keeps those of the library it loaded. */
const char *property(const char *key, char *value, size_t size); /* NULL when the key is absent */
long property_number(const char *key, long otherwise);
const char *gpu_property(int gpu, const char *name, char *value, size_t size);
long gpu_number(int gpu, const char *name, long otherwise);
const char *mig_property(int gpu, int mig, const char *name, char *value, size_t size);
long mig_number(int gpu, int mig, const char *name, long otherwise);

/* 0 when opening the node (a name below /dev) gets as far as a driver would see it, else the errno. */
int node_error(const char *name);
int gpu_node_error(int gpu);
int mig_node_error(int gpu, int mig);
void node_path(const char *name, char *path, size_t size);

/* The GPUs (their place in the state file) that this process can see, in order; returns how many. */
int visible_gpus(int gpus[MAX_GPUS]);
int visible_migs(int gpu, int migs[MAX_MIG]);

#endif
