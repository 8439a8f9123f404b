#!/bin/bash
# Run by the postgres image at its first start: a database for the focus beside Synapse's.
set -eu
psql --username "$POSTGRES_USER" --dbname postgres --set=password="$POSTGRES_PASSWORD" <<'END'
CREATE USER mautrix_sfu PASSWORD :'password';
CREATE DATABASE mautrix_sfu OWNER mautrix_sfu;
END
