-- +goose Up

-- The latest ask of each question about a source (vm is empty) or a server.
CREATE TABLE asks (
    source    TEXT NOT NULL,
    vm        TEXT NOT NULL,
    what      TEXT NOT NULL,
    id        TEXT NOT NULL,
    state     TEXT NOT NULL, -- PENDING, ACTIVE, COMPLETED, FAILED
    asked     BIGINT NOT NULL,
    begin_by  BIGINT NOT NULL, -- until then it may be given out for the first time
    expires   BIGINT NOT NULL,
    connector TEXT NOT NULL,   -- that was given it, or answered
    answered  BIGINT NOT NULL,
    failure   TEXT NOT NULL,
    PRIMARY KEY (source, vm, what)
);
CREATE UNIQUE INDEX asks_id ON asks (id);
CREATE INDEX asks_open ON asks (source, asked) WHERE state IN ('PENDING', 'ACTIVE');

-- The latest report on a source or a server.
CREATE TABLE reports (
    source    TEXT NOT NULL,
    vm        TEXT NOT NULL,
    made      BIGINT NOT NULL,
    connector TEXT NOT NULL,
    report    TEXT NOT NULL,
    PRIMARY KEY (source, vm)
);
