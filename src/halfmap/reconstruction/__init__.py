"""From back-projected sums to maps: sufficient statistics and their inversion."""
