# Stands in for Envoy's image: see ../README.md.
FROM bluegreen-tests/root:bookworm
COPY envoy /usr/local/bin/envoy
CMD ["/usr/local/bin/envoy"]
