# The server: the official vLLM image and the SlimGPT plugin, nothing else changed.
#
#   docker build -f docker/serve.Dockerfile -t slimgpt-serve \
#       --build-arg BASE=vllm/vllm-openai:v0.32.0@sha256:... .
#
# BASE has no default: a tag floats, and a digest that is written here would go stale unseen.
ARG BASE

FROM ${BASE} AS build
ARG BASE
RUN expr "${BASE}" : '.*@sha256:[0-9a-f]\{64\}$' > /dev/null \
    || { echo "BASE is '${BASE}'; give it by digest: --build-arg BASE=NAME:TAG@sha256:DIGEST" >&2; exit 1; }
WORKDIR /src
COPY constraints.txt pyproject.toml README.md LICENSE NOTICE ./
COPY slimgpt slimgpt/
COPY export export/
COPY serve serve/
COPY bench bench/
# vLLM brings a setuptools of its own, which is recent enough.
RUN python3 -m pip wheel --no-deps --no-build-isolation --wheel-dir dist .
# What vLLM brought stays as it is: each of its versions is a constraint, and only what it lacks is
# added, at our versions. Where the two can't agree the build fails, and says about what.
RUN mkdir constraints \
    && python3 -m pip list --format=freeze > constraints/held.txt \
    && awk -F'==' '{ name = tolower($1); gsub("_", "-", name) } \
        FNR == NR { held[name]; next } !(name in held)' \
        constraints/held.txt constraints.txt > constraints/added.txt

FROM ${BASE}
ARG BASE
ARG REVISION=unknown
LABEL org.opencontainers.image.title="slimgpt-serve" \
      org.opencontainers.image.description="SlimGPT: vLLM that serves pruned models" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.base.name="${BASE}"
# An index with a password comes as --secret id=pip,src=pip.conf, which no layer keeps.
RUN --mount=type=bind,from=build,source=/src,target=/src \
    --mount=type=secret,id=pip,target=/etc/pip.conf \
    PIP_BREAK_SYSTEM_PACKAGES=1 python3 -m pip install --no-cache-dir \
        --constraint /src/constraints/held.txt --constraint /src/constraints/added.txt /src/dist/*.whl
RUN groupadd --gid 10001 slimgpt \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /cache --shell /usr/sbin/nologin slimgpt \
    && install --directory --owner=10001 --group=10001 /cache
COPY --chmod=0755 docker/serve-entrypoint.sh /usr/local/bin/slimgpt-serve
# All that a library writes at run time goes below HOME, so the root file system may be read-only.
# Compiled kernels are loaded from where they are written, and /tmp is often mounted noexec.
ENV HOME=/cache \
    HF_HOME=/cache/huggingface \
    VLLM_CACHE_ROOT=/cache/vllm \
    TORCHINDUCTOR_CACHE_DIR=/cache/torchinductor \
    TRITON_CACHE_DIR=/cache/triton \
    HF_HUB_OFFLINE=1 \
    HF_HUB_DISABLE_TELEMETRY=1 \
    VLLM_NO_USAGE_STATS=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
VOLUME ["/cache"]
USER 10001:10001
WORKDIR /cache
EXPOSE 8000
# /health needs no key, and answers only once the model is loaded; http.client heeds no proxy setting.
HEALTHCHECK --interval=30s --timeout=10s --start-period=30m --retries=3 \
    CMD ["python3", "-c", "from http.client import HTTPConnection as C; c = C('127.0.0.1', 8000, timeout=5); c.request('GET', '/health'); raise SystemExit(c.getresponse().status != 200)"]
ENTRYPOINT ["slimgpt-serve"]
CMD ["/model"]
