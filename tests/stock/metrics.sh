#!/usr/bin/env bash
# Scrapes /metrics of the server under test and of the reference, one after the other on the same ports: when nobody has
# used it, after every kind of use, with an alarm raised and without it again; with --metrics=basic and extensive.
# Compares which metrics there are, their types, and the labels of each series with their values; not the numbers. What
# one of them alone tells is in metrics/differences.tsv, with the reason, and has a row in docs/compatibility.md or
# docs/operations.md. What etcd's own alerts and dashboards ask for is in metrics/mixin.tsv and has to be there. Ends
# with the number of series; fails with the differences.
#   metrics.sh SERVER FOLDER_OF_REFERENCE_BINARIES
set -euo pipefail
server=$(realpath "${1:?usage: metrics.sh SERVER FOLDER}")
reference=$(realpath "${2:?usage: metrics.sh SERVER FOLDER}")
here=$(realpath "$(dirname "$0")")
source "$here/one-server.sh"
url=http://127.0.0.1:$client

ctl() { "$reference/etcdctl" --endpoints="127.0.0.1:$client" "$@"; }
post() { curl -sS --max-time 20 -X POST "$url/v3/$1" -d "$2" >>"$work/said" 2>&1; }

# start NAME BINARY FLAG...
start() {
    rm -rf "$work/$1.data"
    launch "$1" "$2" "$client" "$peer" "http://127.0.0.1:$peer" "${@:3}"
    get_ready "$1" "$url"
}

# until_told COMMAND...: one that goes on until it is ended, which it is once it has told something.
until_told() {
    local told_by
    : >"$work/told"
    "$reference/etcdctl" --endpoints="127.0.0.1:$client" "$@" >"$work/told" &
    told_by=$!
    for _ in $(seq 200); do
        if [ -s "$work/told" ]; then break; fi
        sleep 0.05
    done
    kill "$told_by"
    wait "$told_by" || true
}

# Everything that is counted by what is done. What is refused is meant to be.
use() {
    local lease
    ctl put k v; ctl get k; ctl get "" --from-key --limit 3; ctl get k --rev 99 || true
    ctl put k2 v; ctl del k2
    printf 'mod("k") > "0"\n\nput k w\n\nget k\n\n' | ctl txn
    printf '\nget k\n\n\n' | ctl txn
    post kv/range '{"key":"aw==","count_only":true}'
    until_told watch k --rev 1
    lease=$(ctl lease grant 1000 | awk '{ print $2 }')
    ctl put leased v --lease "$lease"; ctl lease keep-alive "$lease" --once; ctl lease timetolive "$lease" --keys
    ctl lease list; ctl lease revoke "$lease"; ctl lease revoke "$lease" || true
    ctl compaction 3 --physical; ctl compaction 3 || true
    ctl defrag; ctl snapshot save "$work/snapshot"; rm -f "$work/snapshot"
    ctl endpoint status; ctl endpoint health; ctl endpoint hashkv
    ctl member list; ctl move-leader 1 || true
    post maintenance/hash '{}'
    ctl lock l true
    until_told elect e here
    local path
    for path in /health /livez /readyz '/readyz?exclude=no_such' /version; do curl -sS "$url$path"; done
    # Users: what they may, and what they may not.
    ctl user add root:secret; ctl role add root; ctl user grant-role root root
    ctl user add guest:guest; ctl role add guest; ctl role grant-permission guest read k; ctl user grant-role guest guest
    ctl user list; ctl user get guest; ctl role list; ctl role get guest; ctl auth status
    ctl auth enable
    ctl --user guest:guest get k; ctl --user guest:guest put k x || true; ctl --user guest:wrong get k || true; ctl get k || true
    ctl --user root:secret role revoke-permission guest k; ctl --user root:secret user revoke-role guest guest
    ctl --user root:secret user passwd guest --interactive=false <<<other
    ctl --user root:secret role delete guest; ctl --user root:secret user delete guest
    ctl --user root:secret auth disable
}

# series SCRAPE: a line for each type and for each series, without the numbers.
series() {
    curl -sS "$url/metrics" >"$work/scrape"
    { sed -nE 's/^# TYPE /type /p' "$work/scrape"; sed -E '/^#/d; s/ [^ ]+$//' "$work/scrape"; } | LC_ALL=C sort -u >"$work/$1"
    test "$(wc -l <"$work/$1")" -gt 500
}

# scrapes NAME BINARY
scrapes() {
    local level
    for level in basic extensive; do
        start "$1" "$2" --metrics="$level"
        # A scrape counts itself in the next one.
        curl -sS "$url/metrics" >/dev/null
        series "$1.$level.idle"
        use >>"$work/said" 2>&1
        # What streams tell is a twentieth of a second old.
        sleep 0.2
        series "$1.$level.used"
        post maintenance/alarm '{"action":"ACTIVATE","alarm":"NOSPACE"}'
        post maintenance/alarm '{"action":"ACTIVATE","alarm":"CORRUPT"}'
        series "$1.$level.alarmed"
        post maintenance/alarm '{"action":"DEACTIVATE","alarm":"NOSPACE"}'
        post maintenance/alarm '{"action":"DEACTIVATE","alarm":"CORRUPT"}'
        series "$1.$level.disarmed"
        stop
    done
}
scrapes tested "$server"
scrapes reference "$reference/etcd"

# What one of them alone has: `who series`.
for of_tested in "$work"/tested.*.*; do
    of_reference=$work/reference.${of_tested#"$work/tested."}
    case $of_tested in *.data|*.log) continue ;; esac
    LC_ALL=C comm -23 "$of_tested" "$of_reference" | sed 's/^/urd /'
    LC_ALL=C comm -13 "$of_tested" "$of_reference" | sed 's/^/etcd /'
done | LC_ALL=C sort -u >"$work/alone"

failed=0
used=()
while read -r who one; do
    explained=
    at=0
    while IFS=$'\t' read -r whose pattern _; do
        at=$((at + 1))
        # shellcheck disable=SC2053 # the pattern is one
        if [ "$who" = "$whose" ] && [[ $one == $pattern ]]; then explained=yes; used[at]=yes; break; fi
    done <"$here/metrics/differences.tsv"
    if [ -z "$explained" ]; then echo "metrics: only $who tells: $one"; failed=1; fi
done <"$work/alone"
at=0
while IFS=$'\t' read -r whose pattern _; do
    at=$((at + 1))
    if [ $at != 1 ] && [ -z "${used[at]:-}" ]; then echo "metrics: explains nothing any more: $whose $pattern"; failed=1; fi
done <"$here/metrics/differences.tsv"

# What etcd's alerts and dashboards ask for; where the reference has it not either, as of connections to nobody, that
# has to be said.
asked=0
while IFS=$'\t' read -r pattern standing; do
    asked=$((asked + 1))
    for of in tested reference; do
        if grep -qE "^$pattern" "$work/$of.extensive.used"; then has=told; else has=absent; fi
        if [ "$has" != "$standing" ]; then echo "metrics: $pattern of etcd's mixin is $has by $of, not $standing"; failed=1; fi
    done
done < <(tail -n +2 "$here/metrics/mixin.tsv")
if [ $failed != 0 ]; then exit 1; fi
echo "metrics: $(cat "$work"/tested.*.used | LC_ALL=C sort -u | wc -l) series and types, $asked of them that etcd's mixin asks for;" \
    "$(wc -l <"$work/alone") of one server alone, each explained"
