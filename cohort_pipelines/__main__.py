"""`python -m cohort_pipelines` is the command `cohort-pipelines`."""

from cohort_pipelines.cli.main import main

main()
