#!/usr/bin/env bash
# A large store, from the server under test to the reference and back, with the time and the peak memory of each step: keys with
# a history, leases, users and roles, auth enabled. After each step every server must hash the revisions that were hashed
# before it (HashKV), and have the same leases, users and roles; and a user of them must get in by the password, and see what
# the role allows and nothing else.
#   migrate-many.sh SERVER URD_MIGRATE FOLDER_OF_REFERENCE_BINARIES
#   KEYS=1000000 LEASES=10000 USERS=1000   how much
set -euo pipefail
usage="usage: migrate-many.sh SERVER URD_MIGRATE FOLDER"
server=$(realpath "${1:?$usage}")
migrate=$(realpath "${2:?$usage}")
reference=$(realpath "${3:?$usage}")
keys=${KEYS:-1000000} leases=${LEASES:-10000} users=${USERS:-1000}
work=$(mktemp -d)
pid=
finish() {
    if [ "$pid" ]; then kill -9 "$pid" && wait "$pid" || true; fi 2>/dev/null
    rm -rf "$work"
}
trap finish EXIT
fail() { echo "migrate-many: $*" >&2; exit 1; }

source "$(dirname "$0")/servers.sh"
peer=http://127.0.0.1:$(free_port)
ctl() { "$reference/etcdctl" --endpoints="$endpoint" --command-timeout=300s --user=root:root "$@"; }

# start NAME BINARY: starts it on the data directory of that name; sets `endpoint` and `pid`, and says how long it took.
start() {
    local client began
    client=$(free_port)
    endpoint=127.0.0.1:$client
    began=$(date +%s%N)
    launch "$1" "$2" "$client" "$(free_port)" "$peer" --bcrypt-cost=4 --quota-backend-bytes=$((8 << 30))
    pid=$launched
    until [[ "$(curl -s "http://$endpoint/health")" == *'"true"'* ]]; do
        kill -0 "$pid" 2>/dev/null || not_ready "$1"
        sleep 0.01
    done
    say "start of $1" "$(seconds "$began")" "$(peak_of "$pid")"
}
stop() {
    kill "-${1:-TERM}" "$pid"
    wait "$pid" 2>/dev/null || true
    pid=
}
# seconds SINCE: in nanoseconds of the clock.
seconds() { awk "BEGIN { printf \"%.1f\", ($(date +%s%N) - $1) / 1e9 }"; }
peak_of() { awk '/^VmHWM/ { printf "%d", $2 / 1024 }' "/proc/$1/status"; }
# The time of user and system that the process has had, in seconds.
cpu_of() { awk '{ printf "%.1f", ($14 + $15) / 100 }' "/proc/$1/stat"; }
say() { printf '%-58s %8s s  peak %5s MB%s\n' "$1" "$2" "$3" "${4:+  $4}"; }
# timed WHAT COMMAND...: its time and its own peak of memory.
timed() {
    local what=$1 began
    shift
    began=$(date +%s%N)
    python3 -c '
import os, resource, sys
child = os.spawnvp(os.P_WAIT, sys.argv[2], sys.argv[2:])
used = resource.getrusage(resource.RUSAGE_CHILDREN)
with open(sys.argv[1], "w") as out:
    print(f"{used.ru_maxrss // 1024} {used.ru_utime + used.ru_stime:.1f}", file=out)
sys.exit(child)' "$work/used" "$@" >"$work/printed" 2>&1 || { cat "$work/printed" >&2; fail "$what"; }
    say "$what" "$(seconds "$began")" "$(cut -d' ' -f1 "$work/used")" "CPU $(cut -d' ' -f2 "$work/used") s"
}
# save FILE OF: a snapshot of the server, with what it costs the server.
save() {
    local began before
    began=$(date +%s%N)
    before=$(cpu_of "$pid")
    ctl snapshot save "$1" >"$work/printed" 2>&1 || { cat "$work/printed" >&2; fail "snapshot save"; }
    say "etcdctl snapshot save of $2, $(($(stat -c %s "$1") >> 20)) MB" "$(seconds "$began")" "$(peak_of "$pid")" \
        "CPU of the server $(awk "BEGIN { printf \"%.1f\", $(cpu_of "$pid") - $before }") s"
}

# What all servers must have in common.
revision() { ctl get none -w json | sed -E 's/.*"revision":([0-9]+).*/\1/'; }
digest() { # LAST
    local at n
    for at in $(($1 / 4)) $(($1 / 2)) "$1"; do
        ctl endpoint hashkv --rev="$at" -w json | sed -E 's/.*"hash":([0-9]+).*"compact_revision":(-?[0-9]+).*/'"$at"' \1 \2/'
    done
    ctl get / --prefix --count-only -w fields | grep Count
    ctl lease list | sort
    for at in $(ctl lease list | grep -E '^[0-9a-f]+$' | sort | awk 'NR % 500 == 1'); do
        ctl lease timetolive "$at" --keys | sed -E 's/remaining\([0-9]+s\)/remaining/' | tr -s ' ,[]()' '\n' | sort | tr '\n' ' '
    done
    ctl user list | sort
    for n in $(ctl role list | sort); do ctl role get "$n"; done
    for n in 0 $((users / 2)) $((users - 1)); do
        ctl user get "user-$n"
        "$reference/etcdctl" --endpoints="$endpoint" --user="user-$n:of user-$n" \
            get "/registry/pods/ns-$(printf %04d $((n / 10)))/" --prefix --count-only -w fields | grep Count
        ! "$reference/etcdctl" --endpoints="$endpoint" --user="user-$n:of user-$n" get /registry/pods/ns-0998/ --prefix 2>&1 |
            grep -o 'etcdserver: .*"'
        ! "$reference/etcdctl" --endpoints="$endpoint" --user="user-$n:wrong" get k 2>&1 | grep -o 'etcdserver: .*"'
    done
}
same() { # NAME LAST
    digest "$2" >"$work/got"
    diff "$work/wanted" "$work/got" >"$work/difference" ||
        { head -n 20 "$work/difference" | cut -c 1-300 >&2; fail "$1 holds something else"; }
    hashes=$(awk 'NR <= 3 { print $2 }' "$work/got" | paste -sd ' ')
    echo "   HashKV of $1 at $(($2 / 4)), $(($2 / 2)) and $2: $hashes"
}

(cd "$(dirname "$0")" && go build -o "$work/many" ./many)
start urd "$server"
began=$(date +%s%N)
URD_ENDPOINT=$endpoint "$work/many" "$keys" "$leases" "$users"
say "$keys keys, $leases leases, $users users written" "$(seconds "$began")" "$(peak_of "$pid")"
last=$(revision)
digest "$last" >"$work/wanted"
same urd "$last"
save "$work/urd.db" urd
stop

timed "etcdutl snapshot status" "$reference/etcdutl" snapshot status "$work/urd.db"
as_member=(--name default --initial-cluster "default=$peer" --initial-advertise-peer-urls "$peer")
timed "etcdutl snapshot restore of urd's snapshot" \
    "$reference/etcdutl" snapshot restore "$work/urd.db" --data-dir "$work/etcd.data" "${as_member[@]}"
rm -r "$work/urd.data" "$work/urd.db"
start etcd "$reference/etcd"
same etcd "$last"
save "$work/etcd.db" etcd
stop KILL

timed "urd-migrate of etcd's snapshot" "$migrate" "$work/etcd.db" --data-dir "$work/migrated.data" "${as_member[@]}"
start migrated "$server"
same "urd, from the snapshot" "$last"
stop
rm -r "$work/migrated.data" "$work/etcd.db"

timed "urd-migrate of etcd's data directory" "$migrate" "$work/etcd.data" --data-dir "$work/taken-over.data"
start taken-over "$server"
same "urd, from the directory" "$last"
stop
echo "migrate-many: $keys keys, $leases leases, $users users: the same everywhere"
