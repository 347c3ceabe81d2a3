# whale_ray in a container, for sweeps and for the service.
#
#   docker build --tag whale_ray .                              CPU
#   docker build --tag whale_ray:cuda --build-arg DEVICE=cuda . CUDA; run it with `--gpus all`
#
# compose.yaml runs a sweep on a mounted folder and serves the bundle that the sweep made.

ARG PYTHON_VERSION=3.11

FROM python:${PYTHON_VERSION}-slim AS build
ARG DEVICE=cpu
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/whale_ray
WORKDIR /source
COPY pyproject.toml README.md LICENSE serve_app.py ./
COPY sweeps ./sweeps
COPY whale_ray ./whale_ray
# PyPI's builds of PyTorch for Linux contain CUDA. PyTorch's own index has smaller builds for the CPU.
RUN if [ "$DEVICE" = cpu ]; then export PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu; fi \
    && /opt/whale_ray/bin/pip install ".[fast,postgresql]" boto3

FROM python:${PYTHON_VERSION}-slim
# `ray up` copies files with rsync and reaches nodes with ssh; its autoscaler calls AWS with boto3. It runs commands in a
# login shell, which resets PATH. KubeRay's health checks call wget.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends openssh-client rsync wget \
    && rm -rf /var/lib/apt/lists/* \
    && echo 'export PATH=/opt/whale_ray/bin:$PATH' > /etc/profile.d/whale_ray.sh
COPY --from=build /opt/whale_ray /opt/whale_ray
COPY sweeps /home/whale/sweeps
# Ray, Hugging Face and Torch write below HOME. Mount volumes at the last three folders.
RUN useradd --create-home --uid 1000 whale \
    && mkdir -p /data /home/whale/runs /home/whale/.cache/whale_ray /home/whale/store \
    && chown -R whale:whale /home/whale
ENV PATH=/opt/whale_ray/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    RAY_AUTH_MODE=token \
    RAY_USAGE_STATS_ENABLED=0 \
    WHALE_RAY_CACHE=/home/whale/.cache/whale_ray \
    WHALE_RAY_STORE=sqlite:////home/whale/store/enrolled.db
USER whale
WORKDIR /home/whale
EXPOSE 8000
ENTRYPOINT ["whale-ray"]
CMD ["--help"]
