# Stands in for Debian's image: see ../README.md.
FROM bluegreen-tests/root:bookworm
CMD ["/bin/bash"]
