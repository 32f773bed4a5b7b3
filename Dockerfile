# qbench for a CPU, or for NVIDIA GPUs: docs/docker.md tells how to run it.
#
#   docker build --target cpu --tag qbench:cpu .
#   docker build --target cuda --tag qbench:cuda .     another CUDA: --build-arg CUDA=cu126
#
# The images hold Python, the tested versions of constraints.txt and qbench's wheel: no compiler, and
# nothing of the repository. The CUDA libraries come with torch's wheel, the driver from the host.

FROM python:3.12.11-slim-bookworm AS base
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_ROOT_USER_ACTION=ignore


# uv, which finds torch's build, and what builds the wheel stay behind here.
FROM base AS builder
WORKDIR /src
COPY constraints.txt ./
RUN --mount=type=cache,target=/root/.cache/pip \
    python -m venv /opt/qbench && \
    python -m venv /opt/build && \
    /opt/build/bin/python -m pip install --constraint constraints.txt build uv
ENV PATH=/opt/build/bin:$PATH
COPY tools/install_torch.sh tools/


FROM builder AS wheel
COPY . .
RUN --mount=type=cache,target=/root/.cache/pip \
    /opt/build/bin/python -m build --wheel --outdir /wheels


FROM builder AS cpu-environment
ENV UV_TORCH_BACKEND=cpu
RUN --mount=type=cache,target=/root/.cache/pip --mount=type=cache,target=/root/.cache/uv \
    tools/install_torch.sh /opt/qbench/bin/python
# Where torch's own index was out of reach, the build is another one.
RUN /opt/qbench/bin/python -c "import sys, torch; sys.exit(torch.version.cuda and 'torch has CUDA')"
COPY --from=wheel /wheels /wheels
RUN --mount=type=cache,target=/root/.cache/pip \
    /opt/qbench/bin/python -m pip install --constraint constraints.txt /wheels/*.whl


FROM builder AS cuda-environment
ARG CUDA=cu130
ENV UV_TORCH_BACKEND=$CUDA
RUN --mount=type=cache,target=/root/.cache/pip --mount=type=cache,target=/root/.cache/uv \
    tools/install_torch.sh /opt/qbench/bin/python
RUN /opt/qbench/bin/python -c "import sys, torch; sys.exit(not torch.version.cuda and 'torch has no CUDA')"
COPY --from=wheel /wheels /wheels
RUN --mount=type=cache,target=/root/.cache/pip \
    /opt/qbench/bin/python -m pip install --constraint constraints.txt /wheels/*.whl


FROM base AS runtime
# libgomp1: bitsandbytes on a CPU is linked with it. Debian keeps no old versions to pin.
# hadolint ignore=DL3008
RUN apt-get update && \
    apt-get install --yes --no-install-recommends libgomp1 && \
    rm -rf /var/lib/apt/lists/*
# A user of another number (`docker run --user`) can write into the cache too.
RUN groupadd --gid 10001 qbench && \
    useradd --uid 10001 --gid 10001 --no-create-home --home-dir /cache qbench && \
    mkdir --mode 1777 /cache && \
    mkdir /work && \
    chown 10001:10001 /work
ENV PATH=/opt/qbench/bin:$PATH \
    HOME=/cache \
    USER=qbench \
    QBENCH_CACHE=/cache/qbench \
    HF_HOME=/cache/huggingface
VOLUME /cache
WORKDIR /work
USER 10001:10001
ENTRYPOINT ["qbench"]
CMD ["--help"]


FROM runtime AS cuda
ENV NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
COPY --from=cuda-environment /opt/qbench /opt/qbench


FROM runtime AS cpu
COPY --from=cpu-environment /opt/qbench /opt/qbench
