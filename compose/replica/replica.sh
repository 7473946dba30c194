#!/usr/bin/env bash
# Entry point of docker-compose.replica.yml's database: clones the primary into an empty data
# folder, then follows it. The arguments are the server's, as for the image's own entry point.
#
# To clone anew (another password, a place that was lost): remove the volume.

set -euo pipefail

slot=immich_indexer_replica
export PGHOST=$PRIMARY_HOST PGUSER=$POSTGRES_USER PGPASSWORD=$POSTGRES_PASSWORD

if [[ ! -s $PGDATA/PG_VERSION ]]; then
    until pg_isready --quiet; do
        echo "waiting for $PRIMARY_HOST"
        sleep 2
    done
    psql --dbname=postgres --no-psqlrc --quiet --tuples-only --set=ON_ERROR_STOP=1 --command="
        SELECT pg_create_physical_replication_slot('$slot')
        WHERE NOT EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = '$slot')"

    # Renamed when it is whole: a clone that was interrupted isn't taken for a database.
    rm -rf "$PGDATA.new"
    install --directory --owner=postgres --group=postgres --mode=700 "$PGDATA.new"
    echo "cloning $PRIMARY_HOST"
    gosu postgres pg_basebackup --pgdata="$PGDATA.new" --write-recovery-conf --slot="$slot" \
        --wal-method=stream --checkpoint=fast
    rm -rf "$PGDATA"
    mv "$PGDATA.new" "$PGDATA"
fi

unset PGHOST PGUSER PGPASSWORD
exec immich-docker-entrypoint.sh "$@"
