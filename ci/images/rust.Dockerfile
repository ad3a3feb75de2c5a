# Stands in for Rust's image: see ../README.md.
FROM bluegreen-tests/root:bookworm
COPY bluegreen.wasm model-server /built/
COPY cargo rustup /usr/local/bin/
