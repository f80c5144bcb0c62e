# maml-tf in a container.
#
#   docker build -t maml-tf .                                                     for CPUs
#   docker build --build-arg 'TENSORFLOW=tensorflow[and-cuda]' -t maml-tf .       for GPUs
#   docker run --rm -v "$PWD:/work" maml-tf reproduce quick                       add --gpus all
FROM python:3.12-slim

ARG TENSORFLOW=tensorflow
# What draws robots without a display.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libosmesa6 \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /opt/maml_tf
COPY pyproject.toml setup.py README.md LICENSE ./
COPY maml_tf maml_tf
# Editable, so that `reproduce` finds the flagfiles beside the package.
RUN pip install --no-cache-dir "${TENSORFLOW}>=2.21" --editable ".[all]"
# What command lines name: --flagfile=/opt/maml_tf/flags/NAME.flags, --init=/opt/maml_tf/models/NAME.
COPY flags flags
COPY models models
COPY recipes recipes

# Data sets, runs and exports are the host's: mount a folder here.
WORKDIR /work
ENTRYPOINT ["maml-tf"]
CMD ["--help"]
