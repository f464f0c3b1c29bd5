"""Self-hosted cohort sync: Mixpanel cohorts to Taplytics segments and Apptimize groups, as Dagster assets."""

__version__ = "0.1.0"
