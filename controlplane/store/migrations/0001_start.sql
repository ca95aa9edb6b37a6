-- +goose Up

-- The lowest schema version that a binary must know to work with this
-- database. A migration that older binaries cannot live with raises it.
CREATE TABLE schema_minimum (one BIGINT PRIMARY KEY, version BIGINT NOT NULL);
INSERT INTO schema_minimum (one, version) VALUES (1, 1);

CREATE TABLE installation (one BIGINT PRIMARY KEY, id TEXT NOT NULL);

CREATE TABLE activation_codes (
    id         TEXT PRIMARY KEY,
    hash       TEXT NOT NULL,
    expires    BIGINT NOT NULL,
    tries      BIGINT NOT NULL,
    public_key TEXT NOT NULL,
    connector  TEXT NOT NULL
);

CREATE TABLE access_keys (
    id          TEXT PRIMARY KEY,
    sealed      TEXT NOT NULL,
    role        TEXT NOT NULL,
    description TEXT NOT NULL,
    created     BIGINT NOT NULL,
    revoked     BIGINT NOT NULL
);

CREATE TABLE connectors (
    id         TEXT PRIMARY KEY,
    name       TEXT NOT NULL,
    public_key TEXT NOT NULL,
    version    TEXT NOT NULL,
    ip         TEXT NOT NULL,
    mac        TEXT NOT NULL,
    associated BIGINT NOT NULL,
    last_seen  BIGINT NOT NULL,
    refreshed  BIGINT NOT NULL
);

CREATE TABLE sources (
    id       TEXT PRIMARY KEY,
    platform TEXT NOT NULL,
    name     TEXT NOT NULL,
    synced   BIGINT NOT NULL
);

CREATE TABLE connector_sources (
    connector TEXT NOT NULL,
    source    TEXT NOT NULL,
    ended     TEXT NOT NULL DEFAULT '', -- the full listing that ended last
    PRIMARY KEY (connector, source)
);
CREATE INDEX connector_sources_source ON connector_sources (source);

CREATE TABLE catalog (one BIGINT PRIMARY KEY, status TEXT NOT NULL, imported BIGINT NOT NULL, modified BIGINT NOT NULL);
INSERT INTO catalog (one, status, imported, modified) VALUES (1, 'NOT_IMPORTED', 0, 0);

CREATE TABLE servers (
    id         TEXT PRIMARY KEY,
    source     TEXT NOT NULL,
    vm         TEXT NOT NULL,
    manager_id TEXT NOT NULL,
    name       TEXT NOT NULL,
    gone       BIGINT NOT NULL,
    detail     TEXT NOT NULL,
    UNIQUE (source, vm)
);
CREATE INDEX servers_address ON servers (source, manager_id);

-- What a full listing that is under way has named so far.
CREATE TABLE listed (
    connector TEXT NOT NULL,
    source    TEXT NOT NULL,
    sync      TEXT NOT NULL,
    vm        TEXT NOT NULL,
    PRIMARY KEY (connector, source, sync, vm)
);

CREATE TABLE jobs (
    id           TEXT PRIMARY KEY,
    server       TEXT NOT NULL,
    source       TEXT NOT NULL,
    vm           TEXT NOT NULL,
    server_name  TEXT NOT NULL,
    state        TEXT NOT NULL,
    live         BIGINT NOT NULL,
    created      BIGINT NOT NULL,
    next_run     BIGINT NOT NULL,
    latest_image TEXT NOT NULL,
    message      TEXT NOT NULL,
    settings     TEXT NOT NULL,
    due          BIGINT NOT NULL,
    owner        TEXT NOT NULL,
    lease_until  BIGINT NOT NULL,
    epoch        BIGINT NOT NULL,
    revision     BIGINT NOT NULL
);
CREATE UNIQUE INDEX jobs_live ON jobs (server) WHERE live = 1;
CREATE INDEX jobs_server ON jobs (server, created);

CREATE TABLE runs (
    id          TEXT PRIMARY KEY,
    job         TEXT NOT NULL,
    source      TEXT NOT NULL,
    vm          TEXT NOT NULL,
    run_trigger TEXT NOT NULL,
    phase       TEXT NOT NULL,
    active      BIGINT NOT NULL,
    cleared     BIGINT NOT NULL,
    created     BIGINT NOT NULL,
    detail      TEXT NOT NULL,
    seal        TEXT NOT NULL,
    due         BIGINT NOT NULL,
    owner       TEXT NOT NULL,
    slot        BIGINT,
    lease_until BIGINT NOT NULL,
    epoch       BIGINT NOT NULL,
    revision    BIGINT NOT NULL
);
-- A job has one run between snapshot and landing; an owner has one run per slot.
CREATE UNIQUE INDEX runs_active ON runs (job) WHERE active = 1;
CREATE UNIQUE INDEX runs_slot ON runs (owner, slot);
CREATE INDEX runs_job ON runs (job, created, id);
CREATE INDEX runs_due ON runs (phase, due);

CREATE TABLE landed (
    job      TEXT NOT NULL,
    disk     TEXT NOT NULL,
    run      TEXT NOT NULL,
    disk_key TEXT NOT NULL,
    digest   TEXT NOT NULL,
    manifest TEXT NOT NULL,
    change   TEXT NOT NULL,
    size     BIGINT NOT NULL,
    image    TEXT NOT NULL,
    PRIMARY KEY (job, disk)
);

CREATE TABLE images (
    job     TEXT NOT NULL,
    run     TEXT NOT NULL,
    image   TEXT NOT NULL,
    created BIGINT NOT NULL,
    retired BIGINT NOT NULL,
    disks   TEXT NOT NULL,
    PRIMARY KEY (job, run)
);
