# Two stages: build with the locked dependencies, run without a compiler and without root.
FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
RUN cargo build --locked --profile dist --bin tidegate

FROM debian:bookworm-slim
RUN apt-get update \
 && apt-get install -y --no-install-recommends ca-certificates curl \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --system --uid 10001 --home-dir /data --shell /usr/sbin/nologin tidegate \
 && install -d -o tidegate -g tidegate /data
COPY --from=build /src/target/dist/tidegate /usr/local/bin/tidegate
USER tidegate
VOLUME /data
# The gateway is public. The admin listener stays on the container's loopback: to publish it, set TIDEGATE_ADMIN=0.0.0.0:8090
# together with TIDEGATE_ADMIN_TOKEN or TIDEGATE_ADMIN_TOKEN_FILE; without a token Tidegate refuses to open it.
ENV TIDEGATE_DATA_DIR=/data TIDEGATE_GATEWAY=0.0.0.0:8080
EXPOSE 8080 4001/tcp 4001/udp
HEALTHCHECK --interval=15s --timeout=3s --start-period=10s CMD curl -fsS http://127.0.0.1:8090/healthz || exit 1
STOPSIGNAL SIGTERM
ENTRYPOINT ["tidegate"]
CMD ["serve"]
