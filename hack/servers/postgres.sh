#!/bin/sh
# Makes a database and serves it to every address; run it as a user that is not root.
set -e
programs=/usr/lib/postgresql/15/bin
$programs/initdb -D /tmp/data -U postgres -A trust -E UTF8 --locale=C --no-sync
echo 'host all all 0.0.0.0/0 trust' >> /tmp/data/pg_hba.conf
exec $programs/postgres -D /tmp/data -k /tmp -c 'listen_addresses=*'
