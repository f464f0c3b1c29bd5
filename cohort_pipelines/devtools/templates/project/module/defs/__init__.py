"""One folder for each connection and sync."""
