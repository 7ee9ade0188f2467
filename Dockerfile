# CPU:  docker build -t expunge .
# CUDA: docker build -t expunge --build-arg BASE=nvidia/cuda:12.8.1-runtime-ubuntu24.04 --build-arg EXTRAS=all .
# Run:  docker run --rm -v "$PWD:/home/expunge/files" expunge quickstart        (CUDA: --gpus all)
ARG BASE=ubuntu:24.04
FROM ${BASE}

ARG EXTRAS=eval
# On a CPU base, the wheels of torch without CUDA are a tenth of the size.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu

RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3 python3-venv \
    && rm -rf /var/lib/apt/lists/*
RUN python3 -m venv /opt/expunge
ENV PATH=/opt/expunge/bin:$PATH

COPY pyproject.toml constraints.txt README.md LICENSE /src/
COPY src /src/src
# A base with CUDA takes torch from PyPI, whose wheels contain CUDA.
RUN if [ -d /usr/local/cuda ]; then INDEX=""; else INDEX="--extra-index-url ${TORCH_INDEX}"; fi \
    && pip install --no-cache-dir ${INDEX} -c /src/constraints.txt "/src[${EXTRAS}]"

# Files that a container writes belong to the user of the host who starts it with --user "$(id -u)".
RUN useradd --create-home --uid 10001 expunge
USER expunge
ENV HF_HOME=/home/expunge/files/.cache/huggingface HOME=/home/expunge
WORKDIR /home/expunge/files
ENTRYPOINT ["expunge"]
CMD ["--help"]
