# Stands in for Prometheus's image: see ../README.md.
FROM bluegreen-tests/root:bookworm
COPY prometheus /bin/prometheus
RUN ln -s /bin/busybox /usr/local/bin/wget
ENTRYPOINT ["/bin/prometheus"]
