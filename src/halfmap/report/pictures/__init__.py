"""What pages show: charts, slices, surfaces and spheres, and scripts for ChimeraX."""
