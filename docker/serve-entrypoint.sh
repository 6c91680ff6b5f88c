#!/bin/sh
# slimgpt serve, on the address that a container must listen on. That needs an API key: VLLM_API_KEY,
# or a file named by VLLM_API_KEY_FILE, which shows neither in `docker inspect` nor in the image.
set -eu
if [ -n "${VLLM_API_KEY_FILE:-}" ]; then
    if [ -n "${VLLM_API_KEY:-}" ]; then
        echo "VLLM_API_KEY and VLLM_API_KEY_FILE are both set; set one" >&2
        exit 2
    fi
    if [ ! -r "$VLLM_API_KEY_FILE" ]; then
        echo "VLLM_API_KEY_FILE names $VLLM_API_KEY_FILE, which user $(id -u) can't read; mount it readable" >&2
        exit 2
    fi
    VLLM_API_KEY=$(cat "$VLLM_API_KEY_FILE")
    if [ -z "$VLLM_API_KEY" ]; then
        echo "VLLM_API_KEY_FILE names $VLLM_API_KEY_FILE, which is empty; put the key there" >&2
        exit 2
    fi
    export VLLM_API_KEY
    unset VLLM_API_KEY_FILE
fi
# exec: signals reach the server, which drains. A later --host or --port overrides these.
exec slimgpt serve --host 0.0.0.0 --port 8000 "$@"
