"""For developing: the demo, `dev`, a project to begin with, and the stand-ins of all services."""
