"""What a person sees of a run: pages in the browser, pictures, scripts for ChimeraX."""
