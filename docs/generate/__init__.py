"""What the documentation says of the program and of its benchmarks, made from them while the site is built."""
