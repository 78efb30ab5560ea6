/* nvidia-smi: what scripts ask it for. Messages go to stdout and NVML's code is the exit status, as with the real one. */
#include "nvml.h"
#include "standin.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static void *library;

/* Calls the library's function by name; FUNCTION(int, "nvmlX", type)(argument) */
static void *function(const char *name)
{
    void *found = dlsym(library, name);
    if (found == NULL) {
        printf("Function %s is not in libnvidia-ml.so.1\n", name);
        exit(13);
    }
    return found;
}
#define CALL(name, types, ...) (((nvmlReturn_t(*) types)function(#name))(__VA_ARGS__))

static const char *error_string(nvmlReturn_t code)
{
    return ((const char *(*)(nvmlReturn_t))function("nvmlErrorString"))(code);
}

/* 550.163.01 is 550.163 where the library's own version is told */
static const char *short_version(char text[64])
{
    property("library", text, 64);
    char *first = strchr(text, '.'), *second = first ? strchr(first + 1, '.') : NULL;
    if (second != NULL)
        *second = '\0';
    return text;
}

static void start(void)
{
    char version[64];
    library = dlopen("libnvidia-ml.so.1", RTLD_NOW);
    if (library == NULL) {
        puts("NVIDIA-SMI couldn't find libnvidia-ml.so library in your system. Please make sure that the NVIDIA Display "
             "Driver is properly installed and present in your system.\n"
             "Please also try adding directory that contains libnvidia-ml.so to your system PATH.");
        exit(12);
    }
    nvmlReturn_t code = CALL(nvmlInit_v2, (void));
    if (code == NVML_SUCCESS)
        return;
    if (code == NVML_ERROR_DRIVER_NOT_LOADED)
        puts("NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. Make sure that the latest "
             "NVIDIA driver is installed and running.\n");
    else
        printf("Failed to initialize NVML: %s\n", error_string(code));
    if (code == NVML_ERROR_LIB_RM_VERSION_MISMATCH)
        printf("NVML library version: %s\n", short_version(version));
    exit(code & 255);
}

static unsigned count(void)
{
    unsigned answer = 0;
    CALL(nvmlDeviceGetCount_v2, (unsigned *), &answer);
    return answer;
}

static nvmlDevice_t device(unsigned index)
{
    nvmlDevice_t found = NULL;
    nvmlReturn_t code = CALL(nvmlDeviceGetHandleByIndex_v2, (unsigned, nvmlDevice_t *), index, &found);
    if (code != NVML_SUCCESS) {
        char bus_id[32] = "";
        if (found != NULL)
            gpu_property(found->gpu, "pci", bus_id, sizeof bus_id);
        printf("Unable to determine the device handle for GPU%u: %s: %s%s\n", index, bus_id, error_string(code),
               code == NVML_ERROR_GPU_IS_LOST ? ".  Reboot the system to recover this GPU" : "");
        exit(code & 255);
    }
    return found;
}

static int list(void)
{
    unsigned all = count();
    if (all == 0)
        puts("No devices found.");
    for (unsigned i = 0; i < all; i++) {
        char name[96] = "", uuid[96] = "";
        nvmlDevice_t gpu = device(i), mig;
        CALL(nvmlDeviceGetName, (nvmlDevice_t, char *, unsigned), gpu, name, sizeof name);
        CALL(nvmlDeviceGetUUID, (nvmlDevice_t, char *, unsigned), gpu, uuid, sizeof uuid);
        printf("GPU %u: %s (UUID: %s)\n", i, name, uuid);
        for (unsigned m = 0; CALL(nvmlDeviceGetMigDeviceHandleByIndex, (nvmlDevice_t, unsigned, nvmlDevice_t *), gpu, m,
                                  &mig) == NVML_SUCCESS;
             m++) {
            char profile[32] = "";
            mig_property(mig->gpu, mig->mig, "profile", profile, sizeof profile);
            CALL(nvmlDeviceGetUUID, (nvmlDevice_t, char *, unsigned), mig, uuid, sizeof uuid);
            printf("  MIG %-12s Device %2u: (UUID: %s)\n", profile, m, uuid);
        }
    }
    return 0;
}

enum shape { TEXT_OF, NUMBER_OF, MEMORY_OF, CAPABILITY, PCI, SWITCH, COMPUTE_MODE, MILLIWATTS, PSTATE, MIG, ECC, ECC_COUNT,
             TEMPERATURE, REASONS, CLOCK, INDEX, COUNT, DRIVER, UTILIZATION, TIMESTAMP };
static const struct field { const char *name, *header, *unit; enum shape shape; const char *function; int which; } fields[] = {
    {"index", "index", "", INDEX, "", 0},
    {"count", "count", "", COUNT, "", 0},
    {"timestamp", "timestamp", "", TIMESTAMP, "", 0},
    {"name", "name", "", TEXT_OF, "nvmlDeviceGetName", 0},
    {"gpu_name", "name", "", TEXT_OF, "nvmlDeviceGetName", 0},
    {"uuid", "uuid", "", TEXT_OF, "nvmlDeviceGetUUID", 0},
    {"gpu_uuid", "uuid", "", TEXT_OF, "nvmlDeviceGetUUID", 0},
    {"serial", "serial", "", TEXT_OF, "nvmlDeviceGetSerial", 0},
    {"gpu_serial", "serial", "", TEXT_OF, "nvmlDeviceGetSerial", 0},
    {"vbios_version", "vbios_version", "", TEXT_OF, "nvmlDeviceGetVbiosVersion", 0},
    {"driver_version", "driver_version", "", DRIVER, "", 0},
    {"memory.total", "memory.total", "MiB", MEMORY_OF, "", 0},
    {"memory.reserved", "memory.reserved", "MiB", MEMORY_OF, "", 1},
    {"memory.used", "memory.used", "MiB", MEMORY_OF, "", 2},
    {"memory.free", "memory.free", "MiB", MEMORY_OF, "", 3},
    {"compute_cap", "compute_cap", "", CAPABILITY, "", 0},
    {"pci.bus_id", "pci.bus_id", "", PCI, "", 0},
    {"gpu_bus_id", "pci.bus_id", "", PCI, "", 0},
    {"pci.device_id", "pci.device_id", "", PCI, "", 1},
    {"persistence_mode", "persistence_mode", "", SWITCH, "nvmlDeviceGetPersistenceMode", 0},
    {"display_active", "display_active", "", SWITCH, "nvmlDeviceGetDisplayActive", 0},
    {"display_mode", "display_mode", "", SWITCH, "nvmlDeviceGetDisplayMode", 0},
    {"compute_mode", "compute_mode", "", COMPUTE_MODE, "", 0},
    {"mig.mode.current", "mig.mode.current", "", MIG, "", 0},
    {"mig.mode.pending", "mig.mode.pending", "", MIG, "", 1},
    {"ecc.mode.current", "ecc.mode.current", "", ECC, "", 0},
    {"ecc.mode.pending", "ecc.mode.pending", "", ECC, "", 1},
    {"ecc.errors.corrected.volatile.total", "ecc.errors.corrected.volatile.total", "", ECC_COUNT, "", 0},
    {"ecc.errors.corrected.aggregate.total", "ecc.errors.corrected.aggregate.total", "", ECC_COUNT, "", 1},
    {"ecc.errors.uncorrected.volatile.total", "ecc.errors.uncorrected.volatile.total", "", ECC_COUNT, "", 2},
    {"ecc.errors.uncorrected.aggregate.total", "ecc.errors.uncorrected.aggregate.total", "", ECC_COUNT, "", 3},
    {"temperature.gpu", "temperature.gpu", "", TEMPERATURE, "", 0},
    {"power.draw", "power.draw", "W", MILLIWATTS, "nvmlDeviceGetPowerUsage", 0},
    {"power.limit", "power.limit", "W", MILLIWATTS, "nvmlDeviceGetPowerManagementLimit", 0},
    {"enforced.power.limit", "enforced.power.limit", "W", MILLIWATTS, "nvmlDeviceGetEnforcedPowerLimit", 0},
    {"utilization.gpu", "utilization.gpu", "%", UTILIZATION, "", 0},
    {"utilization.memory", "utilization.memory", "%", UTILIZATION, "", 1},
    {"pstate", "pstate", "", PSTATE, "", 0},
    {"fan.speed", "fan.speed", "%", NUMBER_OF, "nvmlDeviceGetFanSpeed", 0},
    {"pcie.link.gen.current", "pcie.link.gen.current", "", NUMBER_OF, "nvmlDeviceGetCurrPcieLinkGeneration", 0},
    {"pcie.link.gen.max", "pcie.link.gen.max", "", NUMBER_OF, "nvmlDeviceGetMaxPcieLinkGeneration", 0},
    {"pcie.link.width.current", "pcie.link.width.current", "", NUMBER_OF, "nvmlDeviceGetCurrPcieLinkWidth", 0},
    {"pcie.link.width.max", "pcie.link.width.max", "", NUMBER_OF, "nvmlDeviceGetMaxPcieLinkWidth", 0},
    {"clocks.sm", "clocks.current.sm", "MHz", CLOCK, "", 1},
    {"clocks.mem", "clocks.current.memory", "MHz", CLOCK, "", 2},
    {"clocks.gr", "clocks.current.graphics", "MHz", CLOCK, "", 0},
    {"clocks_event_reasons.active", "clocks_event_reasons.active", "", REASONS, "", 0},
    {"clocks_throttle_reasons.active", "clocks_event_reasons.active", "", REASONS, "", 0},
};

static nvmlReturn_t ask(nvmlDevice_t gpu, const struct field *field, unsigned index, char text[128])
{
    static const char *const modes[] = {"Default", "Exclusive_Thread", "Prohibited", "Exclusive_Process"};
    unsigned value = 0, pair[2] = {0, 0};
    unsigned long long large = 0;
    nvmlReturn_t code = NVML_SUCCESS;
    int major, minor;
    switch (field->shape) {
    case TEXT_OF:
        return ((nvmlReturn_t(*)(nvmlDevice_t, char *, unsigned))function(field->function))(gpu, text, 128);
    case NUMBER_OF:
    case SWITCH:
    case MILLIWATTS:
        code = ((nvmlReturn_t(*)(nvmlDevice_t, unsigned *))function(field->function))(gpu, &value);
        if (field->shape == SWITCH)
            strcpy(text, value ? "Enabled" : "Disabled");
        else if (field->shape == MILLIWATTS)
            snprintf(text, 128, "%.2f", value / 1000.0);
        else
            snprintf(text, 128, "%u", value);
        return code;
    case INDEX:
        snprintf(text, 128, "%u", index);
        return code;
    case COUNT:
        snprintf(text, 128, "%u", count());
        return code;
    case TIMESTAMP: {
        time_t now = time(NULL);
        strftime(text, 128, "%Y/%m/%d %H:%M:%S.000", localtime(&now));
        return code;
    }
    case DRIVER:
        return CALL(nvmlSystemGetDriverVersion, (char *, unsigned), text, 128);
    case MEMORY_OF: {
        nvmlMemory_v2_t memory = {.version = sizeof memory | 2u << 24};
        code = CALL(nvmlDeviceGetMemoryInfo_v2, (nvmlDevice_t, nvmlMemory_v2_t *), gpu, &memory);
        unsigned long long parts[] = {memory.total, memory.reserved, memory.used, memory.free};
        snprintf(text, 128, "%llu", parts[field->which] >> 20);
        return code;
    }
    case CAPABILITY:
        code = CALL(nvmlDeviceGetCudaComputeCapability, (nvmlDevice_t, int *, int *), gpu, &major, &minor);
        snprintf(text, 128, "%d.%d", major, minor);
        return code;
    case PCI: {
        nvmlPciInfo_t pci;
        code = CALL(nvmlDeviceGetPciInfo_v3, (nvmlDevice_t, nvmlPciInfo_t *), gpu, &pci);
        if (field->which == 0)
            snprintf(text, 128, "%s", pci.bus_id);
        else
            snprintf(text, 128, "0x%08X", pci.device_id);
        return code;
    }
    case COMPUTE_MODE:
        code = CALL(nvmlDeviceGetComputeMode, (nvmlDevice_t, unsigned *), gpu, &value);
        strcpy(text, modes[value & 3]);
        return code;
    case PSTATE:
        code = CALL(nvmlDeviceGetPerformanceState, (nvmlDevice_t, unsigned *), gpu, &value);
        snprintf(text, 128, "P%u", value);
        return code;
    case MIG:
    case ECC:
        if (field->shape == MIG)
            code = CALL(nvmlDeviceGetMigMode, (nvmlDevice_t, unsigned *, unsigned *), gpu, &pair[0], &pair[1]);
        else
            code = CALL(nvmlDeviceGetEccMode, (nvmlDevice_t, unsigned *, unsigned *), gpu, &pair[0], &pair[1]);
        strcpy(text, pair[field->which] ? "Enabled" : "Disabled");
        return code;
    case ECC_COUNT:
        code = CALL(nvmlDeviceGetTotalEccErrors, (nvmlDevice_t, int, int, unsigned long long *), gpu, field->which / 2,
                    field->which % 2, &large);
        snprintf(text, 128, "%llu", large);
        return code;
    case TEMPERATURE:
        code = CALL(nvmlDeviceGetTemperature, (nvmlDevice_t, int, unsigned *), gpu, 0, &value);
        snprintf(text, 128, "%u", value);
        return code;
    case REASONS:
        code = CALL(nvmlDeviceGetCurrentClocksEventReasons, (nvmlDevice_t, unsigned long long *), gpu, &large);
        snprintf(text, 128, "0x%016llx", large);
        return code;
    case CLOCK:
        code = CALL(nvmlDeviceGetClockInfo, (nvmlDevice_t, int, unsigned *), gpu, field->which, &value);
        snprintf(text, 128, "%u", value);
        return code;
    case UTILIZATION: {
        nvmlUtilization_t both = {0, 0};
        code = CALL(nvmlDeviceGetUtilizationRates, (nvmlDevice_t, nvmlUtilization_t *), gpu, &both);
        snprintf(text, 128, "%u", field->which ? both.memory : both.gpu);
        return code;
    }
    }
    return NVML_ERROR_NOT_SUPPORTED;
}

static int query(const char *names, const char *format, long only)
{
    const struct field *chosen[64];
    int columns = 0, header = strstr(format, "noheader") == NULL, units = strstr(format, "nounits") == NULL;
    char copy[2048], *rest = NULL;
    if (strncmp(format, "csv", 3) != 0) {
        puts("\"--format=\" switch is missing or does not start with csv. Please run 'nvidia-smi -h' for help.");
        return 1;
    }
    snprintf(copy, sizeof copy, "%s", names);
    for (char *name = strtok_r(copy, ",", &rest); name != NULL && columns < 64; name = strtok_r(NULL, ",", &rest)) {
        size_t i = 0, all = sizeof fields / sizeof *fields;
        name += strspn(name, " ");
        while (i < all && strcmp(fields[i].name, name) != 0)
            i++;
        if (i == all) {
            printf("Field \"%s\" is not a valid field to query.\n\n", name);
            return 2;
        }
        chosen[columns++] = &fields[i];
    }
    unsigned all = count();
    if (all == 0 || only >= (long)all) {
        puts("No devices were found");
        return 6;
    }
    for (int c = 0; header && c < columns; c++) {
        int unit = units && chosen[c]->unit[0] != '\0';
        printf("%s%s%s%s%s", c ? ", " : "", chosen[c]->header, unit ? " [" : "", unit ? chosen[c]->unit : "",
               unit ? "]" : "");
    }
    if (header)
        puts("");
    for (unsigned i = 0; i < all; i++) {
        if (only >= 0 && (unsigned)only != i)
            continue;
        nvmlDevice_t gpu = device(i);
        for (int c = 0; c < columns; c++) {
            char text[128] = "";
            nvmlReturn_t code = ask(gpu, chosen[c], i, text);
            if (code != NVML_SUCCESS)
                snprintf(text, sizeof text, code == NVML_ERROR_NOT_SUPPORTED ? "[N/A]" : "[%s]", error_string(code));
            int unit = code == NVML_SUCCESS && units && chosen[c]->unit[0] != '\0';
            printf("%s%s%s%s", c ? ", " : "", text, unit ? " " : "", unit ? chosen[c]->unit : "");
        }
        puts("");
    }
    return 0;
}

static const struct field *field_named(const char *name)
{
    for (size_t i = 0;; i++)
        if (strcmp(fields[i].name, name) == 0)
            return &fields[i];
}

static int table(long only)
{
    char driver[64] = "", own[64] = "", now[64];
    int cuda = 0;
    unsigned all = count();
    time_t clock = time(NULL);
    if (all == 0 || only >= (long)all) {
        puts("No devices were found");
        return 6;
    }
    strftime(now, sizeof now, "%a %b %e %H:%M:%S %Y", localtime(&clock));
    property("library", own, sizeof own);
    CALL(nvmlSystemGetDriverVersion, (char *, unsigned), driver, sizeof driver);
    CALL(nvmlSystemGetCudaDriverVersion, (int *), &cuda);
    const char *line = "+-----------------------------------------------------------------------------------------+";
    printf("%s       \n%s\n", now, line);
    printf("| NVIDIA-SMI %-23s Driver Version: %-14s CUDA Version: %2d.%-4d |\n", own, driver, cuda / 1000,
           cuda % 1000 / 10);
    puts("|-----------------------------------------+------------------------+----------------------+");
    puts("| GPU  Name                 Persistence-M | Bus-Id          Disp.A | Volatile Uncorr. ECC |");
    puts("| Fan  Temp   Perf          Pwr:Usage/Cap |           Memory-Usage | GPU-Util  Compute M. |");
    puts("|                                         |                        |               MIG M. |");
    puts("|=========================================+========================+======================|");
    for (unsigned i = 0; i < all; i++) {
        static const char *const asked[] = {"name", "persistence_mode", "pci.bus_id", "display_active",
                                            "ecc.errors.uncorrected.volatile.total", "temperature.gpu", "pstate",
                                            "power.draw", "power.limit", "memory.used", "memory.total",
                                            "compute_mode", "mig.mode.current"};
        char t[13][128] = {{0}};
        if (only >= 0 && (unsigned)only != i)
            continue;
        nvmlDevice_t gpu = device(i);
        for (int f = 0; f < 13; f++)
            if (ask(gpu, field_named(asked[f]), i, t[f]) != NVML_SUCCESS)
                strcpy(t[f], "N/A");
        printf("| %3u  %-25.25s%8s  | %18s %3s | %20s |\n", i, t[0], strcmp(t[1], "Enabled") ? "Off" : "On", t[2],
               strcmp(t[3], "Enabled") ? "Off" : "On", t[4]);
        printf("| N/A  %3sC    %-4s %11.0fW / %4.0fW | %7sMiB / %6sMiB | %7s%% %12.11s |\n", t[5], t[6], atof(t[7]),
               atof(t[8]), t[9], t[10], "0", t[11]);
        printf("| %39s | %22s | %20s |\n%s\n", "", "", t[12],
               "+-----------------------------------------+------------------------+----------------------+");
    }
    printf("\n%s\n", line);
    puts("| Processes:                                                                              |");
    puts("|  GPU   GI   CI        PID   Type   Process name                              GPU Memory |");
    puts("|        ID   ID                                                               Usage      |");
    puts("|=========================================================================================|");
    puts("|  No running processes found                                                             |");
    puts(line);
    return 0;
}

static int persistence(const char *wanted, long only)
{
    int rc = 0;
    for (unsigned i = 0; i < count(); i++) {
        char bus_id[128];
        if (only >= 0 && (unsigned)only != i)
            continue;
        nvmlDevice_t gpu = device(i);
        ask(gpu, field_named("pci.bus_id"), i, bus_id);
        nvmlReturn_t code =
            CALL(nvmlDeviceSetPersistenceMode, (nvmlDevice_t, unsigned), gpu, wanted[0] == '1' || wanted[0] == 'E');
        if (code == NVML_SUCCESS)
            printf("Persistence mode is already %s for GPU %s.\n", wanted[0] == '1' ? "Enabled" : "Disabled", bus_id);
        else
            printf("Unable to set persistence mode for GPU %s: %s\n", bus_id, error_string(rc = code));
    }
    puts("All done.");
    return rc & 255;
}

static int versions(void)
{
    char own[64] = "", nvml[64], driver[64] = "";
    int cuda = 0;
    property("library", own, sizeof own);
    CALL(nvmlSystemGetDriverVersion, (char *, unsigned), driver, sizeof driver);
    CALL(nvmlSystemGetCudaDriverVersion, (int *), &cuda);
    printf("NVIDIA-SMI version  : %s\nNVML version        : %s\nDRIVER version      : %s\nCUDA Version        : %d.%d\n",
           own, short_version(nvml), driver, cuda / 1000, cuda % 1000 / 10);
    return 0;
}

/* The value of "--name=value" or of "-x value", or NULL when the argument is another one. */
static const char *option(char **arguments, int *at, const char *name)
{
    size_t length = strlen(name);
    if (strcmp(arguments[*at], name) == 0)
        return arguments[*at + 1] != NULL ? arguments[++*at] : "";
    if (strncmp(arguments[*at], name, length) == 0 && arguments[*at][length] == '=')
        return arguments[*at] + length + 1;
    return NULL;
}

int main(int argc, char **argv)
{
    const char *names = NULL, *format = "", *value, *mode = NULL, *processes = NULL, *id = NULL;
    int listing = 0, version = 0;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "-L") == 0 || strcmp(argv[i], "--list-gpus") == 0)
            listing = 1;
        else if (strcmp(argv[i], "--version") == 0)
            version = 1;
        else if (strcmp(argv[i], "-h") == 0 || strcmp(argv[i], "--help") == 0) {
            puts("nvidia-smi [-L] [-i ID] [--query-gpu=FIELDS --format=csv[,noheader][,nounits]] [-pm 0|1] [--version]\n"
                 "This is the stand-in of gpulab.fleet's test hosts.");
            return 0;
        } else if ((value = option(argv, &i, "--query-gpu")) != NULL)
            names = value;
        else if ((value = option(argv, &i, "--query-compute-apps")) != NULL)
            processes = value;
        else if ((value = option(argv, &i, "--format")) != NULL)
            format = value;
        else if ((value = option(argv, &i, "-i")) != NULL || (value = option(argv, &i, "--id")) != NULL)
            id = value;
        else if ((value = option(argv, &i, "-pm")) != NULL || (value = option(argv, &i, "--persistence-mode")) != NULL)
            mode = value;
        else {
            printf("ERROR: Option %s is not recognized. Please run 'nvidia-smi -h'.\n\n", argv[i]);
            return 255;
        }
    }
    start();
    long only = -1;
    if (id != NULL && id[0] >= '0' && id[0] <= '9' && strchr(id, ':') == NULL) {
        only = strtol(id, NULL, 10);
    } else if (id != NULL) {
        nvmlDevice_t found;
        unsigned index;
        if (CALL(nvmlDeviceGetHandleByUUID, (const char *, nvmlDevice_t *), id, &found) != NVML_SUCCESS &&
            CALL(nvmlDeviceGetHandleByPciBusId_v2, (const char *, nvmlDevice_t *), id, &found) != NVML_SUCCESS) {
            puts("No devices were found");
            return 6;
        }
        CALL(nvmlDeviceGetIndex, (nvmlDevice_t, unsigned *), found, &index);
        only = (long)index;
    }
    if (version)
        return versions();
    if (processes != NULL) {
        if (strstr(format, "noheader") == NULL)
            puts(processes);
        return 0;
    }
    if (listing)
        return list();
    if (names != NULL)
        return query(names, format, only);
    if (mode != NULL)
        return persistence(mode, only);
    return table(only);
}
