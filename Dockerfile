# All that a run needs, and the demo. On a CPU:
#   docker build -t peft-glue . && docker run --rm peft-glue
# On a GPU, with a build of torch for CUDA (some gigabytes):
#   docker build -t peft-glue --build-arg BASE=nvidia/cuda:13.0.1-base-ubuntu24.04 --build-arg PIP_EXTRA_INDEX_URL= .
#   docker run --rm --gpus all -v "$PWD/runs:/app/runs" peft-glue python train.py method=dora task=cola
ARG BASE=debian:bookworm-slim
FROM ${BASE}
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates git make python3 python3-venv \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /app
# with .git, so that a record names its commit
COPY . .
ARG PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu
RUN make setup
ENV PATH=/app/.venv/bin:$PATH
CMD ["make", "demo"]
