"""The commands: what they ask for, and how it is shown."""
