"""Cohort syncs of our own, declared under defs/."""
