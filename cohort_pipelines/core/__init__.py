"""What every room may use: errors, clock, windows, settings, disk, HTTP, DuckDB, the event loop."""
