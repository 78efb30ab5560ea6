#!/bin/sh
# What every service of this stack starts with: `entry.sh serve|train|norm-stats|simple-client|libero|aloha-sim [ARGUMENT...]`.
# The code is in /app; relative paths (checkpoints/..., assets/...) are those of /data, where the data folders are mounted.
set -eu

# Secrets become variables of this process alone: `docker inspect` does not know them.
for name in WANDB_API_KEY HF_TOKEN; do
    if [ -s "/run/secrets/$name" ]; then
        export "$name=$(cat "/run/secrets/$name")"
    fi
done
# Without a key, wandb would ask somebody for one.
if [ -z "${WANDB_API_KEY:-}" ]; then
    export WANDB_MODE=offline
fi

verb=$1
shift
case $verb in
    serve | train)
        # JAX would go on without a GPU, a hundred times slower, and say so in one line among many.
        if [ "${NEEDS_GPU:-}" = 1 ] && ! nvidia-smi -L >/dev/null 2>&1; then
            echo "no GPU is visible: give $verb one (gpus: in the stack's settings, compose.gpu.yml by hand)" >&2
            exit 1
        fi
        ;;
esac

cd /data
case $verb in
    # $SERVER_ARGS and $CLIENT_ARGS are several words.
    serve) exec python /app/scripts/serve_policy.py ${SERVER_ARGS:-} "$@" ;;
    train) exec python /app/scripts/train.py "$@" ;;
    norm-stats) exec python /app/scripts/compute_norm_stats.py "$@" ;;
    simple-client) exec python /app/examples/simple_client/main.py --host policy-server "$@" ;;
    libero) exec python /app/examples/libero/main.py --args.host policy-server --args.video-out-path /data/videos/libero ${CLIENT_ARGS:-} "$@" ;;
    aloha-sim) exec python /app/examples/aloha_sim/main.py --args.host policy-server --args.out-dir /data/videos/aloha_sim ${CLIENT_ARGS:-} "$@" ;;
    *) echo "$verb is none of serve, train, norm-stats, simple-client, libero, aloha-sim" >&2; exit 2 ;;
esac
