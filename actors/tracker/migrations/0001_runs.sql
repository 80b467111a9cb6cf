-- Runs as a projection of the event stream. Times are milliseconds since the Unix epoch, UTC.
-- Only what SQLite and PostgreSQL both know.

CREATE TABLE experiments (
    experiment_id BIGINT NOT NULL PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    created_ms BIGINT NOT NULL
);

-- Runs whose plan is not known belong to MLflow's default experiment.
INSERT INTO experiments (experiment_id, name, created_ms) VALUES (0, 'Default', 0);

-- A run is a job; status by MLflow's names: RUNNING, FINISHED, FAILED, KILLED.
CREATE TABLE runs (
    run_id TEXT NOT NULL PRIMARY KEY,
    experiment_id BIGINT NOT NULL REFERENCES experiments (experiment_id),
    name TEXT NOT NULL,
    status TEXT NOT NULL,
    start_ms BIGINT,
    end_ms BIGINT,
    plan_uri TEXT,
    plan_blake3 TEXT
);
CREATE INDEX runs_by_experiment ON runs (experiment_id, start_ms);
CREATE INDEX runs_by_start ON runs (start_ms);

-- The highest fence seen of each task of a run; what comes with a lower one is refused.
CREATE TABLE fences (
    run_id TEXT NOT NULL REFERENCES runs (run_id),
    task TEXT NOT NULL,
    fence BIGINT NOT NULL,
    PRIMARY KEY (run_id, task)
);

-- Immutable: the first value stands.
CREATE TABLE params (
    run_id TEXT NOT NULL REFERENCES runs (run_id),
    key TEXT NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (run_id, key)
);

CREATE TABLE tags (
    run_id TEXT NOT NULL REFERENCES runs (run_id),
    key TEXT NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (run_id, key)
);

-- One point a step from each source. The source is the task that measured it, so that the value of
-- the announced model (evaluate) stands beside that of the last training step (train).
CREATE TABLE metrics (
    run_id TEXT NOT NULL REFERENCES runs (run_id),
    key TEXT NOT NULL,
    step BIGINT NOT NULL,
    source TEXT NOT NULL,
    epoch BIGINT NOT NULL,
    timestamp_ms BIGINT NOT NULL,
    value DOUBLE PRECISION,
    value_is_null_reason TEXT,
    fence BIGINT NOT NULL,
    PRIMARY KEY (run_id, key, step, source)
);

-- For each metric the point of the highest (step, timestamp).
CREATE TABLE latest_metrics (
    run_id TEXT NOT NULL REFERENCES runs (run_id),
    key TEXT NOT NULL,
    step BIGINT NOT NULL,
    epoch BIGINT NOT NULL,
    timestamp_ms BIGINT NOT NULL,
    value DOUBLE PRECISION,
    value_is_null_reason TEXT,
    PRIMARY KEY (run_id, key)
);

CREATE TABLE artifacts (
    run_id TEXT NOT NULL REFERENCES runs (run_id),
    kind TEXT NOT NULL,
    name TEXT NOT NULL,
    uri TEXT NOT NULL,
    blake3 TEXT NOT NULL,
    size_bytes BIGINT NOT NULL,
    PRIMARY KEY (run_id, kind, name)
);

-- How far the event stream has been projected: moved in the transaction that writes the rows, by
-- compare-and-set, and only by the writer whose lease token stands here.
CREATE TABLE projection (
    stream TEXT NOT NULL PRIMARY KEY,
    position BIGINT NOT NULL,
    writer_token BIGINT NOT NULL
);
