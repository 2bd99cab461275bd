"""Speed of the suite, against plain versions of the same work. Run all: `make bench`; some: `python -m benchmarks nms targets`."""
