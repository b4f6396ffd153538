"""What pages show: charts, surfaces, slices, spheres of views."""
