from cohort_pipelines_tests.worlds import ledger_url, shared_duckdb, tmp_history, world

__all__ = ["ledger_url", "shared_duckdb", "tmp_history", "world"]
