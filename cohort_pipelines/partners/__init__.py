"""One file for each destination: only its wire protocol."""
