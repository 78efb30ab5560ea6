#!/bin/bash
# Starts CARLA in its own image, after looking at what it would end without a word for.
set -eu

if [ "$(id -u)" = 0 ]; then
    echo "e2ead: CARLA refuses to run as root: leave the image's user carla as it is" >&2
    exit 1
fi

# Off screen it still draws with Vulkan, and Vulkan finds a driver by a file that comes with the GPU.
case " ${CARLA_ARGS:-} " in
*" -nullrhi "*)
    echo "e2ead: -nullrhi: nothing is drawn, and cameras show nothing" >&2
    ;;
*)
    icd=
    for file in /etc/vulkan/icd.d/nvidia_icd*.json /usr/share/vulkan/icd.d/nvidia_icd*.json; do
        if [ -f "$file" ]; then
            icd=$file
            break
        fi
    done
    if [ -z "$icd" ]; then
        echo "e2ead: no Vulkan driver of NVIDIA's in this container (vulkan/icd.d/nvidia_icd.json): give the service" \
            "carla a GPU (gpus: {carla: 1}) and see that the host has the driver's graphics part (libnvidia-gl-…," \
            "nvidia-driver-libs); or set CARLA_ARGS to -nullrhi for a simulation without pictures" >&2
        exit 1
    fi
    # Mesa's software driver is found first otherwise.
    export VK_ICD_FILENAMES=$icd VK_DRIVER_FILES=$icd
    ;;
esac

cd "${CARLA_HOME:-/home/carla}"
# shellcheck disable=SC2086 # CARLA_ARGS are several words
exec /bin/bash "${CARLA_START:-./CarlaUE4.sh}" ${CARLA_ARGS:-} \
    "-carla-rpc-port=${CARLA_PORT:-2000}" \
    "-carla-streaming-port=${CARLA_STREAMING_PORT:-2001}" \
    "-carla-primary-port=${CARLA_SECONDARY_PORT:-2002}"
