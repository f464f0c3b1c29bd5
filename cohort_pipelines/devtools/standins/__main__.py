"""``python -m cohort_pipelines.devtools.standins '{"members": 9}'``: the child process of :func:`.server.running`."""

import sys

import msgspec

from cohort_pipelines.devtools.standins.server import serve_for_parent
from cohort_pipelines.devtools.standins.settings import Settings

serve_for_parent(msgspec.json.decode(sys.argv[1], type=Settings))
