#!/usr/bin/env bash
# Snapshots with etcd's own tools, both ways. The server under test is filled with 20,000 revisions and more; etcdctl saves
# a snapshot of it beside writes, etcdutl looks at it and restores it, and the reference server started from that must hash
# every revision as the server under test does. Then back: urd-migrate makes a directory of the reference's snapshot, and
# of its data directory as a crash leaves it, and the server under test must hash as the reference did.
#   snapshot.sh SERVER URD_MIGRATE FOLDER_OF_REFERENCE_BINARIES
set -euo pipefail
usage="usage: snapshot.sh SERVER URD_MIGRATE FOLDER"
server=$(realpath "${1:?$usage}")
migrate=$(realpath "${2:?$usage}")
reference=$(realpath "${3:?$usage}")
revisions=${URD_REVISIONS:-20000}
work=$(mktemp -d)
declare -A pids=()
finish() {
    for pid in "${pids[@]}"; do kill -9 "$pid" && wait "$pid" || true; done 2>/dev/null
    rm -rf "$work"
}
trap finish EXIT
fail() { echo "snapshot: $*" >&2; exit 1; }

free_port() {
    local port
    for port in $(shuf -i 21000-29999 -n 100); do
        if ! (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then echo "$port"; return; fi
    done
    fail "no free port"
}

# start NAME BINARY: starts it on the data directory of that name; sets `endpoint`.
start() {
    local client
    client=$(free_port)
    endpoint=127.0.0.1:$client
    "$2" --name=default --data-dir="$work/$1.data" \
        --listen-client-urls="http://$endpoint" --advertise-client-urls="http://$endpoint" \
        --listen-peer-urls="http://127.0.0.1:$(free_port)" --initial-advertise-peer-urls="$peer" \
        --initial-cluster="default=$peer" >"$work/$1.log" 2>&1 &
    pids[$1]=$!
    for _ in $(seq 300); do
        if ctl get ready >/dev/null 2>&1; then return; fi
        kill -0 "${pids[$1]}" 2>/dev/null || break
        sleep 0.1
    done
    tail -n 20 "$work/$1.log" >&2
    fail "$1 does not get ready"
}
# stop NAME [SIGNAL]
stop() {
    kill "-${2:-TERM}" "${pids[$1]}"
    wait "${pids[$1]}" 2>/dev/null || true
    unset "pids[$1]"
}
peer=http://127.0.0.1:$(free_port)
# A busy machine takes its time.
ctl() { "$reference/etcdctl" --endpoints="$endpoint" --command-timeout=60s "$@"; }

# What two servers must have in common: hashes of many revisions, all keys with their numbers, leases with their keys.
# revision NAME: of the server at `endpoint`.
revision() { ctl get none -w json | sed -E 's/.*"revision":([0-9]+).*/\1/'; }
# digest FIRST LAST
digest() {
    local at lease step=$((($2 - $1) / 60 + 1))
    for at in $(seq "$1" "$step" "$2") "$2"; do
        ctl endpoint hashkv --rev="$at" -w json | sed -E 's/.*"hash":([0-9]+).*"compact_revision":(-?[0-9]+).*/'"$at"' \1 \2/'
    done
    ctl get "" --prefix --rev="$2" -w json | sed -E 's/"header":\{[^}]*\},?//'
    ctl get "" --prefix --rev="$(($1 + ($2 - $1) / 2))" -w json | sed -E 's/"header":\{[^}]*\},?//'
    for lease in $(ctl lease list | grep -E '^[0-9a-f]{16}$|^[0-9a-f]+$' | sort); do
        ctl lease timetolive "$lease" --keys | sed -E 's/remaining\([0-9]+s\)/remaining/' | tr -s ' ,[]()' '\n' | sort | tr '\n' ' '
        echo
    done
}
same() { diff "$work/$1" "$work/$2" >"$work/difference" || { head -n 20 "$work/difference" | cut -c 1-300 >&2; fail "$3"; }; }

# fill COUNT SEED: at least that many revisions of every kind, some keys on a lease.
(cd "$(dirname "$0")" && go build -o "$work/fill" ./fill)
fill() {
    local lease
    lease=$(ctl lease grant 3600 | awk '{ print $2 }')
    ctl lease grant 7200 >/dev/null
    URD_ENDPOINT=$endpoint "$work/fill" "$1" "$2" "0x$lease"
}

echo "== the server under test is filled, compacted, and saved beside writes"
start tested "$server"
fill $((revisions * 6 / 10)) 1
ctl compaction $((revisions / 5)) --physical >/dev/null
fill $((revisions * 6 / 10)) 2
last=$(revision)
[ "$last" -gt "$revisions" ] || fail "$last revisions are fewer than $revisions"
(for i in $(seq 200); do ctl put "meanwhile/$i" "$i" >/dev/null || exit 1; done) & writing=$!
ctl snapshot save "$work/beside.db" >"$work/save" 2>&1 || { cat "$work/save" >&2; fail "snapshot save"; }
wait "$writing" || fail "a write beside the snapshot failed"
"$reference/etcdutl" snapshot status "$work/beside.db" -w json >"$work/status" || fail "snapshot status"
of_status() { sed -E 's/.*"'"$1"'":"?([^",}]+).*/\1/' "$work/status"; }
beside=$(of_status revision)
[ "$beside" -ge "$last" ] || fail "the snapshot holds revision $beside, $last was written before"
[ "$(of_status version)" = 3.7.0 ] || fail "status: $(cat "$work/status")"
first=$((revisions / 5 + 1))
digest "$first" "$beside" >"$work/wanted"
keys=$(ctl get "" --prefix --rev="$beside" --count-only -w fields | sed -n 's/^"Count" : //p')
[ "$(of_status totalKey)" = "$keys" ] || fail "status counts $(of_status totalKey) keys, the server $keys"
[ $(($(stat -c %s "$work/beside.db") % 512)) = 32 ] || fail "the file has no digest behind it"

echo "== the reference starts from it"
restore() { # FILE NAME
    "$reference/etcdutl" snapshot restore "$1" --data-dir "$work/$2.data" --name default \
        --initial-cluster "default=$peer" --initial-advertise-peer-urls "$peer" >"$work/restore" 2>&1 ||
        { cat "$work/restore" >&2; fail "snapshot restore"; }
}
stop tested
restore "$work/beside.db" restored
start restored "$reference/etcd"
digest "$first" "$beside" >"$work/got"
same wanted got "the reference, started from the snapshot, holds something else"

echo "== the reference goes on, and its snapshot and its directory come back"
fill $((revisions / 10)) 3
ctl compaction $((revisions / 2)) --physical >/dev/null
fill 100 4
last=$(revision)
digest $((revisions / 2 + 1)) "$last" >"$work/wanted"
ctl snapshot save "$work/reference.db" >/dev/null 2>&1 || fail "snapshot save of the reference"
ctl put after-the-snapshot x >/dev/null
digest $((revisions / 2 + 1)) $((last + 1)) >"$work/wanted-directory"
member=$(ctl member list | cut -d, -f1)
# At once: what the database lacks is in the log only.
stop restored KILL
"$migrate" "$work/reference.db" --data-dir "$work/migrated.data" --name default \
    --initial-cluster "default=$peer" --initial-advertise-peer-urls "$peer"
start migrated "$server"
digest $((revisions / 2 + 1)) "$last" >"$work/got"
same wanted got "the server under test, started from the reference's snapshot, holds something else"
stop migrated
"$migrate" "$work/restored.data" --data-dir "$work/taken-over.data"
start taken-over "$server"
digest $((revisions / 2 + 1)) $((last + 1)) >"$work/got"
same wanted-directory got "the server under test, started from the reference's directory, holds something else"
[ "$(ctl member list | cut -d, -f1)" = "$member" ] || fail "the member is not who it was"
fill 100 5
stop taken-over

echo "== what is refused"
head -c -33 "$work/reference.db" >"$work/short.db"
"$migrate" "$work/short.db" --data-dir "$work/none.data" 2>"$work/told" && fail "a file that is cut short was taken"
grep -q "snapshot missing hash" "$work/told" || fail "$(cat "$work/told")"
printf x | dd of="$work/reference.db" bs=1 seek=20000 conv=notrunc status=none
"$migrate" "$work/reference.db" --data-dir "$work/none.data" 2>"$work/told" && fail "a changed file was taken"
grep -q "expected sha256" "$work/told" || fail "$(cat "$work/told")"
[ ! -e "$work/none.data" ] && [ ! -e "$work/none.data.part" ] || fail "something was left of what was refused"

echo "== a bumped revision, by both tools"
restore_bumped() { "$reference/etcdutl" snapshot restore "$work/beside.db" --data-dir "$work/bumped.data" --name default \
    --initial-cluster "default=$peer" --initial-advertise-peer-urls "$peer" --bump-revision 1000000 --mark-compacted; }
restore_bumped >"$work/restore" 2>&1 || { cat "$work/restore" >&2; fail "restore with a bump"; }
start bumped "$reference/etcd"
# Removals first, or hashes are of what is not compacted yet.
ctl put bumped x >/dev/null
sleep 1
last=$(revision)
digest "$last" "$last" >"$work/wanted"
stop bumped
"$migrate" "$work/beside.db" --data-dir "$work/bumped-too.data" --name default --initial-cluster "default=$peer" \
    --initial-advertise-peer-urls "$peer" --bump-revision 1000000 --mark-compacted
start bumped-too "$server"
ctl put bumped x >/dev/null
[ "$(revision)" = "$last" ] || fail "the bumped revision is $(revision), of the reference $last"
digest "$last" "$last" >"$work/got"
same wanted got "a bumped revision holds something else"
echo "snapshot: $beside revisions, there and back"
