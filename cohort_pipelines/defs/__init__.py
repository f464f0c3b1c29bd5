"""The demo's declarations: one folder for each connection and sync."""
