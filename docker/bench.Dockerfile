# The measurements: a client that loads a server from elsewhere, and the capacity calculator.
#
#   docker build -f docker/bench.Dockerfile -t slimgpt-bench \
#       --build-arg BASE=python:3.11-slim@sha256:... .
#
# BASE has no default: a tag floats, and a digest that is written here would go stale unseen.
ARG BASE

FROM ${BASE} AS build
ARG BASE
RUN expr "${BASE}" : '.*@sha256:[0-9a-f]\{64\}$' > /dev/null \
    || { echo "BASE is '${BASE}'; give it by digest: --build-arg BASE=NAME:TAG@sha256:DIGEST" >&2; exit 1; }
WORKDIR /src
# For torch's index of CPU builds, say: a client needs no other. An index with a password comes as
# --secret id=pip,src=pip.conf, which no layer keeps.
ARG PIP_EXTRA_INDEX_URL
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_ROOT_USER_ACTION=ignore
RUN python3 -m venv /opt/slimgpt
ENV PATH=/opt/slimgpt/bin:${PATH}
COPY constraints.txt ./
# torch comes before the source: it is most of the bytes, and a change of code leaves its layer as it is.
RUN --mount=type=cache,target=/root/.cache/pip --mount=type=secret,id=pip,target=/etc/pip.conf \
    pip install --upgrade --constraint constraints.txt setuptools torch
COPY pyproject.toml README.md LICENSE NOTICE ./
COPY slimgpt slimgpt/
COPY export export/
COPY serve serve/
COPY bench bench/
RUN pip wheel --no-deps --no-build-isolation --wheel-dir dist .
RUN --mount=type=cache,target=/root/.cache/pip --mount=type=secret,id=pip,target=/etc/pip.conf \
    pip install --constraint constraints.txt "$(echo dist/*.whl)[bench]"

FROM ${BASE}
ARG BASE
ARG REVISION=unknown
LABEL org.opencontainers.image.title="slimgpt-bench" \
      org.opencontainers.image.description="SlimGPT: latency, load and capacity measurements" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.base.name="${BASE}"
RUN groupadd --gid 10001 slimgpt \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /cache --shell /usr/sbin/nologin slimgpt \
    && install --directory --owner=10001 --group=10001 /cache /work
COPY --from=build /opt/slimgpt /opt/slimgpt
# All that a library writes at run time goes below HOME, so the root file system may be read-only.
ENV PATH=/opt/slimgpt/bin:${PATH} \
    HOME=/cache \
    HF_HOME=/cache/huggingface \
    HF_HUB_OFFLINE=1 \
    HF_HUB_DISABLE_TELEMETRY=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
VOLUME ["/cache"]
USER 10001:10001
WORKDIR /work
# A job has no port to ask. What can be asked is whether a process can still start in here.
HEALTHCHECK --interval=5m --timeout=30s --start-period=1m \
    CMD ["slimgpt", "--version"]
ENTRYPOINT ["slimgpt"]
CMD ["--help"]
