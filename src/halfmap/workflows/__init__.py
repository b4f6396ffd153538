"""What a user starts: refinement, simulation, the demo, and the commands around them."""
