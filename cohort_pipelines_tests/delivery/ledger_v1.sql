-- The tables of the first release, frozen; {number} and {moment} are each database's own types.
CREATE TABLE meta (
    ledger_id VARCHAR NOT NULL,
    schema_version INTEGER NOT NULL,
    last_seq INTEGER NOT NULL,
    PRIMARY KEY (ledger_id)
);

CREATE TABLE snapshot (
    seq INTEGER NOT NULL,
    sync VARCHAR NOT NULL,
    "window" VARCHAR NOT NULL,
    checksum VARCHAR NOT NULL,
    size INTEGER NOT NULL,
    taken_at {moment} NOT NULL,
    total INTEGER NOT NULL,
    rows INTEGER NOT NULL,
    seconds FLOAT,
    project INTEGER NOT NULL,
    cohort_id INTEGER NOT NULL,
    options JSON NOT NULL,
    PRIMARY KEY (seq)
);

CREATE INDEX snapshot_of_window ON snapshot (sync, "window");

CREATE TABLE target (
    id {number} NOT NULL,
    wire VARCHAR NOT NULL,
    host VARCHAR NOT NULL,
    account VARCHAR NOT NULL,
    name VARCHAR NOT NULL,
    owner VARCHAR NOT NULL,
    generation INTEGER NOT NULL,
    head_seq INTEGER NOT NULL,
    established BOOLEAN NOT NULL,
    belief_sync VARCHAR,
    belief_window VARCHAR,
    belief_checksum VARCHAR,
    unsettled INTEGER NOT NULL,
    held INTEGER NOT NULL,
    PRIMARY KEY (id),
    UNIQUE (wire, host, account, name)
);

CREATE TABLE "window" (
    sync VARCHAR NOT NULL,
    key VARCHAR NOT NULL,
    state VARCHAR NOT NULL,
    reason VARCHAR NOT NULL,
    at {moment} NOT NULL,
    PRIMARY KEY (sync, key)
);

CREATE TABLE attempt (
    id {number} NOT NULL,
    target INTEGER NOT NULL,
    generation INTEGER NOT NULL,
    token INTEGER NOT NULL,
    state VARCHAR NOT NULL,
    sync VARCHAR NOT NULL,
    "window" VARCHAR NOT NULL,
    snapshot INTEGER NOT NULL,
    payload_checksum VARCHAR NOT NULL,
    users INTEGER NOT NULL,
    base_belief VARCHAR,
    plan_checksum VARCHAR,
    run_id VARCHAR NOT NULL,
    started {moment} NOT NULL,
    deadline {moment} NOT NULL,
    ended {moment},
    error VARCHAR,
    PRIMARY KEY (id),
    UNIQUE (target, generation),
    FOREIGN KEY(target) REFERENCES target (id),
    FOREIGN KEY(snapshot) REFERENCES snapshot (seq)
);

CREATE INDEX attempt_of_sync ON attempt (sync, state);

CREATE TABLE derived (
    id {number} NOT NULL,
    snapshot INTEGER NOT NULL,
    stage VARCHAR NOT NULL,
    checksum VARCHAR NOT NULL,
    rows INTEGER NOT NULL,
    size INTEGER NOT NULL,
    counts JSON NOT NULL,
    at {moment} NOT NULL,
    PRIMARY KEY (id),
    FOREIGN KEY(snapshot) REFERENCES snapshot (seq)
);

CREATE INDEX derived_of_snapshot ON derived (snapshot, stage);

CREATE TABLE lease (
    target INTEGER NOT NULL,
    token INTEGER NOT NULL,
    holder VARCHAR NOT NULL,
    expires {moment} NOT NULL,
    PRIMARY KEY (target),
    FOREIGN KEY(target) REFERENCES target (id)
);

CREATE TABLE chunk (
    attempt INTEGER NOT NULL,
    lo INTEGER NOT NULL,
    hi INTEGER NOT NULL,
    operation VARCHAR NOT NULL,
    state VARCHAR NOT NULL,
    intent_at {moment} NOT NULL,
    ended_at {moment} NOT NULL,
    reason VARCHAR NOT NULL,
    PRIMARY KEY (attempt, lo),
    FOREIGN KEY(attempt) REFERENCES attempt (id)
);

CREATE TABLE gate (
    attempt INTEGER NOT NULL,
    name VARCHAR NOT NULL,
    value FLOAT NOT NULL,
    "limit" FLOAT NOT NULL,
    held BOOLEAN NOT NULL,
    PRIMARY KEY (attempt, name),
    FOREIGN KEY(attempt) REFERENCES attempt (id)
);

CREATE TABLE receipt (
    attempt INTEGER NOT NULL,
    state VARCHAR NOT NULL,
    counts JSON NOT NULL,
    belief_after VARCHAR,
    checksum VARCHAR NOT NULL,
    at {moment} NOT NULL,
    PRIMARY KEY (attempt),
    FOREIGN KEY(attempt) REFERENCES attempt (id)
);
