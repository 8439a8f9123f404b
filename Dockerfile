# syntax=docker/dockerfile:1
# The page, the wheel with the media core in it, and an image with neither compiler nor Node. Each step is a make
# target or a command that runs outside of Docker, too.

FROM node:22-bookworm-slim AS page
WORKDIR /src/web
COPY web/package.json web/package-lock.json web/.npmrc ./
RUN npm ci --no-audit --no-fund
COPY web ./
RUN npm run build

FROM rust:1-bookworm AS wheel
RUN apt-get update && apt-get install -y --no-install-recommends python3-venv && rm -rf /var/lib/apt/lists/*
WORKDIR /src
RUN python3 -m venv /build && /build/bin/pip install --no-cache-dir "maturin>=1.9,<2"
COPY pyproject.toml README.md LICENSE ./
COPY media media
COPY mautrix_sfu mautrix_sfu
COPY --from=page /src/mautrix_sfu/http/page mautrix_sfu/http/page
RUN /build/bin/maturin build --release --locked --out dist

# 3.12: the newest Python for which python-olm (encryption) is to be had as a wheel.
FROM python:3.12-slim-bookworm
COPY constraints.txt /tmp/
COPY contrib/docker/healthcheck.py /usr/local/lib/
COPY --from=wheel /src/dist/*.whl /tmp/
RUN pip install --no-cache-dir --constraint /tmp/constraints.txt "$(echo /tmp/*.whl)[encryption]" && rm /tmp/*.whl /tmp/constraints.txt \
    && useradd --uid 1337 --home-dir /data --create-home sfu
USER sfu
WORKDIR /data
VOLUME /data
EXPOSE 29340/tcp 29341/tcp 29342/udp 29343/tcp
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s CMD ["python", "/usr/local/lib/healthcheck.py"]
ENTRYPOINT ["mautrix-sfu"]
CMD ["-c", "/data/config.yaml"]
