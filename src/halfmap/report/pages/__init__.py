"""The pages, one file a command, and what they share: page, findings, methods, snapshot, gallery."""
