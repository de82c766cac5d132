# docker build --build-arg REVISION=$(git rev-parse --short HEAD) -t stent .
# docker run -v ./stent.toml:/etc/stent/stent.toml:ro -p 8080:8080 --stop-timeout 90 stent
#
# The stop timeout must be longer than accept_grace + finish_grace, or Docker kills Stent while exchanges run.

FROM rust:1.95-slim-bookworm AS build
WORKDIR /build
COPY Cargo.toml Cargo.lock ./
COPY src src
ARG REVISION=unknown
ENV STENT_REVISION=$REVISION
RUN cargo build --release --locked --bin stent && strip target/release/stent

# glibc, which the binary links, and nothing else that it needs: no shell tools are used at run time.
FROM debian:bookworm-slim
COPY --from=build /build/target/release/stent /usr/local/bin/stent
COPY LICENSE /usr/share/doc/stent/LICENSE
# A number, so that Kubernetes can see that it is not root.
USER 10001:10001
EXPOSE 8080 9901
STOPSIGNAL SIGTERM
# Asks the admin listener at its default address; a configuration with another one needs another check.
HEALTHCHECK --interval=10s --timeout=3s --start-period=5s --retries=3 \
    CMD ["stent", "health", "http://127.0.0.1:9901/readyz"]
ENTRYPOINT ["stent"]
CMD ["run", "/etc/stent/stent.toml"]
