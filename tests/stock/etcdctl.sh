#!/usr/bin/env bash
# Runs the same etcdctl commands against the server under test and against the reference, each fresh, and compares what
# they print, once what may differ (ids, ports, terms, times, sizes) is put out of sight. Ends with the number of
# commands compared; fails with the difference, or where a command of the tools is not among them (every-command.sh).
#   etcdctl.sh SERVER FOLDER_OF_REFERENCE_BINARIES
set -euo pipefail
server=$(realpath "${1:?usage: etcdctl.sh SERVER FOLDER}")
reference=$(realpath "${2:?usage: etcdctl.sh SERVER FOLDER}")
work=$(mktemp -d)
pids=()
told=$work/told
finish() {
    # Of a round that has not come to its end.
    if [ "$told" ] && [ -s "$told" ]; then tail -n 5 "$told" >&2; fi
    for pid in "${pids[@]}"; do kill -9 "$pid" && wait "$pid" || true; done 2>/dev/null
    rm -rf "$work"
}
trap finish EXIT

source "$(dirname "$0")/servers.sh"
source "$(dirname "$0")/etcdctl-more.sh"

# start NAME BINARY: in place of those before, where they were, so that its ids are theirs; sets `endpoint`.
client=$(free_port) peer=$(free_port)
start() {
    for pid in "${pids[@]}"; do kill -9 "$pid" && wait "$pid" || true; done 2>/dev/null
    pids=()
    endpoint=127.0.0.1:$client
    start_at "$1" "$2" "$client" "$peer"
}
# start_beside NAME BINARY CLIENT_PORT: one more.
start_beside() {
    local endpoint=127.0.0.1:$3
    start_at "$1" "$2" "$3" "$(free_port)"
}
start_at() {
    launch "$1" "$2" "$3" "$4" "http://127.0.0.1:$4" --bcrypt-cost=4 --watch-progress-notify-interval=1s
    pids+=("$launched")
    for _ in $(seq 300); do
        if "$reference/etcdctl" --endpoints="$endpoint" get ready >/dev/null 2>&1; then return; fi
        sleep 0.1
    done
    not_ready "$1"
}

# ran TOOL ARGS...: tells which command is run.
ran() {
    echo "$*" >>"$work/ran"
    echo "\$ $*"
}

# ctl ARGS...: one command with what it prints and how it ends. Reads stdin where the command does.
ctl() {
    ran etcdctl "$@"
    local code=0
    "$reference/etcdctl" --endpoints="$endpoint" "$@" 2>&1 || code=$?
    echo "-> $code"
}

# watch LINES ARGS...: the first lines of a watch.
watch() {
    local lines=$1
    shift
    until_lines "$lines" watch "$@"
}

# until_lines LINES ARGS...: the first lines of a command that does not end by itself.
until_lines() {
    local lines=$1 pid
    shift
    ran etcdctl "$@"
    # Else what the last one has left may be taken for its lines.
    : >"$work/watch"
    "$reference/etcdctl" --endpoints="$endpoint" "$@" >"$work/watch" 2>&1 &
    pid=$!
    for _ in $(seq 300); do
        if [ "$(wc -l <"$work/watch")" -ge "$lines" ] || ! kill -0 "$pid" 2>/dev/null; then break; fi
        sleep 0.1
    done
    kill "$pid" 2>/dev/null || true
    wait "$pid" 2>/dev/null || true
    cat "$work/watch"
}

# Three dumps of key-values: as text, as JSON, as fields.
all_forms() {
    ctl "$@"
    ctl "$@" -w json
    ctl "$@" -w fields
}

commands() {
    local lease decimal learner own
    ctl put k1 v1
    ctl put k2 "a value with spaces"
    ctl put k1 v1b --prev-kv
    ctl put k3 ""
    ctl put other x -w json
    ctl put k1 --ignore-value
    ctl put absent --ignore-value
    ctl put "" v
    ctl put k1 v --lease=7b
    all_forms get k1
    all_forms get k --prefix
    ctl get k --prefix --limit=2 -w json
    ctl get k --prefix --keys-only
    ctl get k --prefix --count-only -w fields
    ctl get k --prefix --order=DESCEND --sort-by=KEY
    ctl get k --prefix --order=ASCEND --sort-by=MODIFY
    ctl get k --prefix --order=DESCEND --sort-by=VALUE -w json
    ctl get k2 z
    ctl get k2 --from-key
    ctl get "" --prefix --print-value-only
    ctl get k1 --rev=2
    all_forms get k --prefix --rev=3
    ctl get k1 --rev=999
    ctl get absent
    ctl get k1 --consistency=s
    watch 5 k1 --rev=2 --prev-kv
    watch 1 k1 --rev=7 -w json
    ctl del k3 --prev-kv
    ctl del absent
    all_forms del k2 --prev-kv
    watch 6 --prefix k --rev=5
    ctl txn <<'TXN'
mod("k1") > "0"

put k4 from-txn
get k1

get absent

TXN
    ctl txn -w json <<'TXN'
value("k1") = "no such value"

put k5 wrong

get k1
del k4 --prev-kv

TXN
    ctl txn <<'TXN'
ver("k9") = "0"

put k9 1
put k9 2


TXN
    ctl compaction 5
    ctl compaction 5
    ctl compaction 999
    ctl get k1 --rev=3
    watch 2 k1 --rev=2
    # Before there are leases: their ids, drawn at random, would be hashed too.
    ctl endpoint hashkv
    ctl endpoint hashkv -w json
    ctl endpoint hashkv --rev=8 -w fields

    ctl lease grant 600 >"$work/grant"
    lease=$(awk '/granted/ { print $2 }' "$work/grant")
    decimal=$((16#$lease))
    {
        cat "$work/grant"
        ctl put leased1 v --lease="$lease"
        ctl put leased2 v --lease="$lease"
        ctl get leased --prefix -w json
        ctl lease timetolive "$lease" --keys
        ctl lease timetolive "$lease" -w json
        ctl lease keep-alive --once "$lease"
        ctl lease list
        ctl lease list -w json
        ctl lease revoke "$lease"
        ctl lease revoke "$lease"
        ctl lease timetolive "$lease"
        ctl lease keep-alive --once "$lease"
        ctl get leased --prefix
    } | sed -E "s/$lease/LEASE/g; s/\b$decimal\b/LEASE/g"
    ctl lease grant 99999999999
    ctl lease list

    ctl endpoint health
    ctl endpoint status -w json
    ctl endpoint status -w fields
    ctl member list
    ctl member list -w json
    ctl member list -w fields
    ctl alarm list
    ctl alarm disarm
    ctl defrag
    ctl defrag -w json
    ctl get "" --prefix

    ctl lock mutex -- sh -c 'echo locked'
    ctl get mutex --prefix
    until_lines 2 elect poll a

    ctl member add n2 --peer-urls=http://127.0.0.1:1 --learner
    ctl member add n3 --peer-urls=http://127.0.0.1:1,http://127.0.0.1:9 --learner
    ctl member add n3 --peer-urls=http://127.0.0.1:2 --learner
    ctl member add n3 --peer-urls=nonsense
    # In order of ids, which are hashes of the ports and the time.
    ctl member list | sed -E 's/^[0-9a-f]+,/ID,/' | sort
    learner=$("$reference/etcdctl" --endpoints="$endpoint" member list | awk -F, '/unstarted/ { print $1 }')
    own=$("$reference/etcdctl" --endpoints="$endpoint" member list | awk -F, '/ started/ { print $1 }')
    {
        ctl member promote "$learner"
        ctl member promote "$own"
        ctl member update "$learner" --peer-urls=http://127.0.0.1:3
        ctl member remove "$own"
        ctl member remove "$learner"
        ctl member remove "$learner"
        ctl member promote "$learner"
        ctl member update "$learner" --peer-urls=http://127.0.0.1:3
        ctl member list
        ctl move-leader "$learner"
        ctl move-leader "$own"
    } | sed -E "s/$learner/LEARNER/g; s/$own/OWN/g"

    ctl downgrade validate 3.6
    ctl downgrade validate 3.5
    ctl downgrade validate nonsense
    ctl downgrade enable 3.7
    ctl downgrade cancel
    ctl downgrade cancel -w json
    users
}

users() {
    local root=--user=root:secret ann=--user=ann:pw
    ctl auth status
    ctl auth enable
    ctl user add root:secret
    ctl user add root:other
    ctl user grant-role root root
    ctl user add ann:pw
    ctl user add cert --no-password
    ctl role add reader
    ctl role add reader
    ctl role grant-permission reader read k l
    ctl role grant-permission reader readwrite own --prefix=true
    ctl role grant-permission reader write zz --from-key=true
    ctl role grant-permission nobody read k
    ctl role get reader
    ctl role get reader -w json
    ctl user grant-role ann reader
    ctl user grant-role ann nobody
    ctl user get ann
    ctl user get ann --detail
    ctl user list
    ctl role list
    ctl auth enable
    ctl auth status "$root"
    ctl get k1
    ctl get k1 --user=ann:wrong
    ctl get k1 --user=nobody:pw
    ctl get k1 --user=cert:pw
    ctl get k1 "$ann"
    ctl get k "$ann" --prefix --keys-only
    ctl get "" "$ann" --prefix
    ctl put k1 v "$ann"
    ctl put own1 v "$ann"
    ctl put own1 v2 "$ann" --prev-kv
    ctl put zzz v "$ann"
    ctl put zzz v "$ann" --prev-kv
    ctl del k1 "$ann"
    ctl txn "$ann" <<'TXN'
ver("own1") > "0"

put own2 v

get secret

TXN
    watch 1 own1 "$ann" --rev=1
    watch 1 secret "$ann"
    ctl user list "$ann"
    ctl user get ann "$ann"
    ctl user get root "$ann"
    ctl role get reader "$ann"
    ctl compaction 6 "$ann"
    ctl endpoint status "$ann" -w json
    ctl endpoint hashkv "$ann"
    ctl member list "$ann"
    ctl member list
    ctl alarm list "$ann"
    ctl alarm disarm "$ann"
    ctl defrag "$ann"
    # Those that a lock and an election have left.
    ctl lease list "$ann" | sed -E 's/^[0-9a-f]{16}$/LEASE/'
    ctl user delete root "$root"
    ctl user revoke-role root root "$root"
    ctl user passwd ann --interactive=false "$root" <<<new
    ctl get k1 "$ann"
    ctl get own1 --user=ann:new
    ctl role revoke-permission reader k l "$root"
    ctl role revoke-permission reader k l "$root"
    ctl get k1 --user=ann:new
    ctl user revoke-role ann reader "$root"
    ctl get own1 --user=ann:new
    ctl role delete reader "$root"
    ctl user delete ann "$root"
    ctl get own1 --user=ann:new
    ctl auth disable
    ctl auth disable "$root"
    ctl auth status
    ctl get own1
}

# Out of sight: ids, terms, raft indexes, sizes, ports, times, and the client's own log of retries.
normalise() {
    sed -E \
        -e '/^\{"level":/d' \
        -e "s/127\.0\.0\.1:[0-9]+/HOST/g" \
        -e 's/"(cluster_id|member_id|raft_term|leader|ID|raftIndex|raftTerm|raftAppliedIndex|dbSize|dbSizeInUse)":[0-9]+/"\1":N/g' \
        -e 's/^"(ClusterID|MemberID|RaftTerm|Leader|ID|RaftIndex|RaftAppliedIndex|DBSize|DBSizeInUse|DbSize|DbSizeInUse)" : [0-9]+/"\1" : N/' \
        -e 's/took = [^,"]+|took [0-9.]+[a-zµ]+/took T/g' \
        -e 's/\[leased2 leased1\]/[leased1 leased2]/' \
        -e 's/remaining\([0-9]+s\)/remaining(T)/; s/"ttl":5[0-9]{2}/"ttl":T/' \
        -e 's/^[0-9a-f]{15,16}, (started|unstarted)/ID, \1/; s/^(ID|LEARNER|OWN), (started|unstarted)/ID, \2/' \
        -e 's/(cluster|Member) +/\1 /; s/cluster +[0-9a-f]{12,16}/cluster ID/; s/Member [0-9a-f]{12,16}/Member ID/' \
        -e 's/^ETCD_INITIAL_CLUSTER=.*/ETCD_INITIAL_CLUSTER/' \
        -e 's/^(mutex|poll)\/[0-9a-f]+/\1\/LEASE/' \
        -e 's/memberID:[0-9]+/memberID:N/' \
        -e 's/\[[0-9.]+[a-zµ]+\]/[T]/' \
        -e "s|$work/(more of )?(tested\|reference)|FILES|g" \
        -e '/^[0-9-]{10}T[0-9:.]+Z?\t/d' \
        -e 's/^(\[\{"endpoint".*)"took":"[^"]*"/\1"took":T/; s/^"Took" : .*/"Took" : T/' \
        -e 's/(, 3\.7\.3, 3\.7\.0), [0-9.]+ [kMG]?B, [0-9.]+ [kMG]?B, [0-9]+%/\1, SIZES/' \
        -e '/^(│|┌|├|└)/ { s/(─)+/─/g; s/ +/ /g; s/[0-9.]+ [kM]?B/SIZE/g; s/[0-9]+%/P/g; s/[0-9.]+(µs|ms)/T/g }'
}

# both NAME BINARY: every round, each on a server of its own.
both() {
    start "$1" "$2"
    commands
    start "more of $1" "$2"
    more "more of $1"
}
# Not through a pipe: what a shell of its own starts nobody ends.
both tested "$server" >"$work/told" 2>&1
normalise <"$work/told" >"$work/tested"
both reference "$reference/etcd" >"$work/told" 2>&1
normalise <"$work/told" >"$work/reference"
told=
count=$(grep -c '^\$ etcd' "$work/reference")
if [ "${URD_SHOW:-}" ]; then cat "$work/tested"; fi
if ! diff -U 3 "$work/reference" "$work/tested"; then
    echo "etcdctl: the server under test prints something else (+) than the reference (-)" >&2
    exit 1
fi
"$(dirname "$0")/every-command.sh" "$reference" "$work/ran"
echo "etcdctl: $count commands, no difference"
