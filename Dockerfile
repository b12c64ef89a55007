# The image of every Ray pod and of the job submitter: mergefleet, the pinned Ray and a CPU build of torch.
#   docker build -t mergefleet:0.1.0 .
# Pin the base by digest where you build (`docker buildx imagetools inspect python:3.11.14-slim-bookworm`): the tag
# fixes Python and Debian's release, not Debian's security updates. The digest is not written here because this
# file was checked by tests only, never built against a registry.
FROM python:3.11.14-slim-bookworm

# Packages go into the system's /usr/local: the shells that KubeRay starts may reset PATH, and find `ray` there.
WORKDIR /src
COPY constraints.txt ./
# torch first and alone, so that its CPU build comes from PyTorch's own index and everything else from PyPI.
RUN python -m pip install --no-cache-dir -c constraints.txt pip setuptools \
 && python -m pip install --no-cache-dir -c constraints.txt \
        --extra-index-url https://download.pytorch.org/whl/cpu torch==2.13.0+cpu
COPY pyproject.toml README.md LICENSE ./
COPY engine engine
COPY search search
COPY cluster cluster
RUN python -m pip install --no-cache-dir -c constraints.txt --no-build-isolation ".[postgres]" \
 && rm -rf /src/*

RUN groupadd --gid 1000 mergefleet \
 && useradd --uid 1000 --gid 1000 --create-home mergefleet \
 && mkdir --mode=0755 /out /hub /config \
 && chown mergefleet:mergefleet /out /hub

# PYTHONSAFEPATH: a folder called `engine` in the working directory must not stand in for the installed package.
# MERGEFLEET_CACHE_DIR: compiled kernels are pickles, so they lie where only this user writes (made with mode 0700).
ENV PYTHONSAFEPATH=1 \
    PYTHONUNBUFFERED=1 \
    RAY_USAGE_STATS_ENABLED=0 \
    HF_HUB_DISABLE_TELEMETRY=1 \
    DO_NOT_TRACK=1 \
    HOME=/home/mergefleet \
    MERGEFLEET_CACHE_DIR=/home/mergefleet/.cache/mergefleet

USER 1000:1000
WORKDIR /home/mergefleet
CMD ["mergefleet", "--help"]
