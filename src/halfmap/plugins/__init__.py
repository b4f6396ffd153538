"""Run Halfmap from other programs: RELION's external reconstruction, and a job of its interface."""
