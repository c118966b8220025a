# Everything that a node of a cluster needs, pinned in requirements.lock, with the project at /pointrend.
# A shared checkout that is mounted at /pointrend takes the place of the one in the image, on every node.
FROM python:3.11-slim

# git: `dvc exp` and the commits in MLflow; wget: the probes of KubeRay. Debian removes old versions, so none is pinned.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends git make wget \
    && rm -rf /var/lib/apt/lists/*

ENV DO_NOT_TRACK=1 \
    MLFLOW_DISABLE_TELEMETRY=true \
    PYTHONUNBUFFERED=1 \
    RAY_USAGE_STATS_ENABLED=0

WORKDIR /pointrend
COPY requirements.lock ./
RUN pip install --no-cache-dir --requirement requirements.lock

COPY . .
# The user of Ray's own images has this id.
RUN pip install --no-cache-dir --no-deps --editable . \
    && useradd --uid 1000 --create-home pointrend \
    && chown --recursive pointrend /pointrend
USER 1000

CMD ["pointrend", "--help"]
