#!/usr/bin/env bash
# Founds a cluster of three members of the server under test, and one of the reference in its place, on the same ports, so that
# the founders' ids are the same; changes both by the same etcdctl commands, asked of leaders, followers, learners and members
# that are gone; and compares what is printed, once what may differ (ids that hold the time, terms, indexes, sizes, times) is out
# of sight. Ends with the number of commands compared; fails with the difference.
#   members.sh SERVER FOLDER_OF_REFERENCE_BINARIES
#   URD_SHOW=1: with all that is printed
set -euo pipefail
server=$(realpath "${1:?usage: members.sh SERVER FOLDER}")
reference=$(realpath "${2:?usage: members.sh SERVER FOLDER}")
work=$(mktemp -d)
source "$(dirname "$0")/servers.sh"

# What the script itself has to say, wherever its commands' words go.
exec 3>&2
declare -A pids=() clients=() peers=()
finish() {
    if [ -s "$work/told" ]; then tail -n "${URD_TOLD:-5}" "$work/told" >&3; fi
    end_all
    rm -rf "$work"
}
end_all() {
    for name in "${!pids[@]}"; do kill_member "$name"; done
}
# kill_member NAME: SIGKILL.
kill_member() {
    if [ "${pids[$1]:-}" ]; then kill -9 "${pids[$1]}" && wait "${pids[$1]}" || true; fi 2>/dev/null
    unset "pids[$1]"
}
trap finish EXIT

# Ports that differ from each other.
ports=()
while [ ${#ports[@]} -lt 10 ]; do
    port=$(free_port)
    [[ " ${ports[*]} " == *" $port "* ]] || ports+=("$port")
done
for number in 1 2 3 4 5; do
    clients[m$number]=127.0.0.1:${ports[number * 2 - 2]}
    peers[m$number]=http://127.0.0.1:${ports[number * 2 - 1]}
done
founders=m1=${peers[m1]},m2=${peers[m2]},m3=${peers[m3]}

# member NAME NEW_OR_EXISTING INITIAL_CLUSTER: starts it; with what it has, if it has been there before.
member() {
    local flags=()
    if [ "$binary" = "$server" ] && "$binary" --help 2>&1 | grep -q -- --shards; then flags=(--shards=1); fi
    "$binary" --name="$1" --data-dir="$work/$round.$1" --listen-client-urls="http://${clients[$1]}" \
        --advertise-client-urls="http://${clients[$1]}" --listen-peer-urls="${peers[$1]}" \
        --initial-advertise-peer-urls="${peers[$1]}" --initial-cluster-state="$2" --initial-cluster="$3" \
        "${flags[@]}" >>"$work/$round.$1.log" 2>&1 &
    pids[$1]=$!
}

# await NAME [ARGS...]: until this command, asked of that member, goes well; by default a read that needs a leader.
await() {
    local name=$1 until=$((SECONDS + 30))
    shift
    if [ $# = 0 ]; then set -- get await; fi
    while [ $SECONDS -lt $until ]; do
        if "$reference/etcdctl" --endpoints="${clients[$name]}" --command-timeout=2s "$@" >/dev/null 2>&1; then return; fi
        sleep 0.1
    done
    not_ready "$round.$name"
}

# at NAMES: who is asked from here on.
at() {
    local name
    endpoints=
    for name in "$@"; do endpoints+=${endpoints:+,}${clients[$name]}; done
    echo "= $*"
}

# ctl ARGS...: one command with what it prints and how it ends. Who has not applied the newest entry tells of an older revision.
ctl() {
    echo "\$ etcdctl $*"
    local code=0
    case "$*" in "endpoint hashkv"* | "endpoint status"*) settle ;; esac
    "$reference/etcdctl" --endpoints="$endpoints" --command-timeout=10s "$@" 2>&1 || code=$?
    echo "-> $code"
}

all_forms() {
    local form
    for form in simple json fields table; do ctl "$@" -w $form; done
}

# id NAME: of a member, in hexadecimal. An unstarted one has no name yet: then by its peer URL.
id() { "$reference/etcdctl" --endpoints="$endpoints" member list | awk -F', ' -v url="${peers[$1]}" '$4 ~ url { print $1 }'; }
leader() {
    local name
    for name in m1 m2 m3; do
        if "$reference/etcdctl" --endpoints="${clients[$name]}" endpoint status 2>/dev/null | awk -F', ' '{ exit $9 != "true" }'; then
            echo $name
        fi
    done
}

# lead NAME: by moving the leadership there, unless it is there.
lead() {
    local now _
    for _ in $(seq 50); do
        now=$(leader)
        if [ "$now" = "$1" ]; then return; fi
        "$reference/etcdctl" --endpoints="${clients[${now:-m1}]}" move-leader "$(id "$1")" >/dev/null 2>&1 || true
        sleep 0.2
    done
    echo "$1 does not come to lead" >&2
    return 1
}

commands() {
    local name own learner other
    for name in m1 m2 m3; do member $name new "$founders"; done
    for name in m1 m2 m3; do await $name; done
    at m1
    lead m1
    for name in 1 2 3 4 5 6 7 8; do ctl put key$name "value $name"; done
    # Until all have applied it, they hash differently.
    for name in m1 m2 m3; do await $name get key8; done
    settle
    all_forms member list
    all_forms endpoint status --cluster
    all_forms endpoint hashkv --cluster
    ctl endpoint hashkv --cluster --rev=5
    ctl endpoint hashkv --cluster --rev=99999
    all_forms endpoint health --cluster
    at m1 m2 m3
    all_forms endpoint status
    all_forms endpoint health
    at m2
    all_forms member list
    ctl endpoint status
    ctl get key1
    ctl get key1 --consistency=s
    ctl put key1 "by a follower"
    ctl alarm list
    ctl compaction 4
    ctl get key1 --rev=3
    ctl defrag
    at m1
    ctl defrag --cluster
    ctl endpoint hashkv --cluster

    # The leadership.
    at m2
    ctl move-leader "$(id m3)"
    at m1
    ctl move-leader "$(id m1)"
    ctl move-leader 1234abcd
    ctl move-leader nonsense
    ctl move-leader "$(id m2)"
    at m1 m2 m3
    ctl endpoint status
    ctl move-leader "$(id m3)"
    ctl endpoint status
    ctl move-leader "$(id m1)"
    at m1
    lead m1

    # Members have to have been connected for five seconds to count as healthy. (etcd: server.HealthInterval.)
    sleep 6
    # A learner: added, started, caught up, promoted; asked of the leader and of a follower.
    ctl member add m4 --peer-urls="${peers[m4]}" --learner
    learner=$(id m4) own=$(id m1)
    {
        all_forms member list
        ctl member add m5 --peer-urls="${peers[m5]}" --learner
        # In another second: else its id, a hash of its URLs and of the second, is there as well.
        sleep 1.1
        ctl member add m4 --peer-urls="${peers[m4]}" --learner
        ctl member promote "$learner"
        ctl move-leader "$learner"
        at m3
        ctl member promote "$learner"
        at m1
        ctl endpoint status --cluster
        member m4 existing "$founders,m4=${peers[m4]}"
        await m4 get key1 --consistency=s
        # What it has been told it has applied.
        settle
        all_forms member list
        all_forms endpoint status --cluster
        ctl endpoint health --cluster
        ctl endpoint hashkv --cluster
        at m4
        ctl get key2
        ctl get key2 --consistency=s
        ctl put key2 "by a learner"
        ctl member list
        ctl endpoint health
        ctl lease grant 60
        ctl member promote "$learner"
        ctl move-leader "$own"
        at m1
        ctl move-leader "$learner"
        at m2
        ctl member promote "$learner"
        ctl member promote "$learner"
        at m1
        ctl member promote "$learner"
        all_forms member list
        await m4
        at m4
        ctl get key2
        ctl put key2 "by a new member"
        ctl member list

        # Its URLs.
        ctl member update "$learner" --peer-urls="${peers[m4]},${peers[m5]}"
        at m1
        all_forms member list
        ctl member update "$learner" --peer-urls="${peers[m1]}"
        ctl member update "$learner" --peer-urls=nonsense
        ctl member update "$learner"
        ctl member update 1234abcd --peer-urls=http://127.0.0.1:1
        ctl member update "$learner" --peer-urls="${peers[m4]}" -w json
        ctl member list

        # It goes, and knows it.
        ctl member remove "$learner"
        removed m4
        ctl member list
        ctl member remove "$learner"
        ctl member promote "$learner"
        ctl member update "$learner" --peer-urls=http://127.0.0.1:3
        # Whether it comes as far as to be told by the others, or finds it in what it has: its code is not the same.
        member m4 existing "$founders,m4=${peers[m4]}"
        removed m4 >"$work/again"
        sed 's/^m4 has ended: [01]$/m4 has ended/' "$work/again"
    } >"$work/part" 2>&1
    hide "$learner" REMOVED <"$work/part"

    # Voters that are not there.
    at m3
    ctl member add m5 --peer-urls="${peers[m5]}"
    other=$(id m5)
    {
        ctl member list
        ctl endpoint status --cluster
        at m1
        ctl member add m4 --peer-urls=http://127.0.0.1:1
        ctl member promote "$other"
        ctl member remove "$other" -w json
        # Its id has the time in it as well.
        ctl member remove "$("$reference/etcdctl" --endpoints="$endpoints" member list | awk -F, '/ unstarted/ { print $1 }')" |
            sed -E 's/[0-9a-f]{8,16}/ID/g'
        ctl member list
    } >"$work/part" 2>&1
    hide "$other" VOTER <"$work/part"

    # The last one's data lost: it does not come back as if nothing were, but as a new member.
    kill_member m3
    rm -rf "$work/$round.m3"
    member m3 new "$founders"
    ended m3
    # Members that have been away for a while are not counted on.
    sleep 6
    own=$(id m2)
    ctl member remove "$own"
    ctl member add m5 --peer-urls="${peers[m5]}"
    ctl endpoint health --cluster
    ctl endpoint status --cluster
    ctl member remove "$(id m3)"
    ctl member list
    ctl member add m3 --peer-urls="${peers[m3]}"
    other=$(id m3)
    {
        ctl member list
        member m3 existing "$founders"
        await m3
        ctl member list
        at m3
        ctl get key1
        ctl endpoint status --cluster
        ctl endpoint hashkv --cluster

        # One left over by one.
        at m1
        sleep 6
        ctl member remove "$(id m3)"
        removed m3
    } >"$work/part" 2>&1
    hide "$other" NEW <"$work/part"
    ctl member remove "$(id m2)"
    removed m2
    ctl member list
    ctl put key1 "by the last one"
    ctl member remove "$(id m1)"
    ctl endpoint status --cluster
    ctl endpoint hashkv --cluster
}

# hide ID NAME: an id with a time in it, in either base. Not as a pipe: what a shell of its own starts the script does not know.
hide() {
    local decimal
    decimal=$(printf '%u' "0x$1")
    sed -E "s/\b$1\b/$2/g; s/\b$decimal\b/$2/g"
}

# settle: until all members that answer tell the same index, and what their storage's version is, which a new one knows a moment later.
settle() {
    local _
    for _ in $(seq 100); do
        if [ "$("$reference/etcdctl" --endpoints="$endpoints" endpoint status --cluster 2>/dev/null |
            awk -F', ' '{ print $4, $13 }' | sort -u | grep -c '')" -le 1 ]; then return; fi
        sleep 0.1
    done
}

# ended NAME: whether it ends by itself, and how.
ended() {
    local code=0 _
    for _ in $(seq 200); do
        if ! kill -0 "${pids[$1]}" 2>/dev/null; then break; fi
        sleep 0.1
    done
    if kill -0 "${pids[$1]}" 2>/dev/null; then
        echo "$1 goes on"
    else
        wait "${pids[$1]}" || code=$?
        echo "$1 has ended: $code"
        unset "pids[$1]"
    fi
}
# removed NAME: the same of one that is to find that it has been removed, and what it says then.
removed() {
    ended "$1"
    grep -oE 'the member has been permanently removed from the cluster|the data-dir used by this member must be removed' \
        "$work/$round.$1.log" | sort -u || true
}

# In an order that ids do not say: of members in each form, and of URLs.
ordered() {
    python3 -c '
import json, re, sys
lines = sys.stdin.read().split("\n")
def runs(lines, starts):
    out, run = [], []
    for line in lines + [None]:
        if line is not None and re.match(starts, line):
            run.append(line)
            continue
        out += sorted(run)
        run = []
        if line is not None:
            out.append(line)
    return out
def whole(value):
    if isinstance(value, dict):
        return {name: whole(one) for name, one in value.items()}
    if isinstance(value, list):
        return sorted((whole(one) for one in value), key=lambda one: re.sub(r".(ID|member_id).: [^,}]*", "", json.dumps(one)))
    return value
out = []
for line in lines:
    if line.startswith("ETCD_INITIAL_CLUSTER="):
        line = ",".join(sorted(line[22:-1].split(",")))
    # An id that is hidden is a word that JSON does not know.
    elif re.match(r"[\[{]+\"", line):
        line = json.dumps(whole(json.loads(re.sub(r":([A-Z]+)\b", lambda word: ":" + json.dumps(word[1]), line))))
    out.append(line)
for starts in r"[0-9A-Za-z:/.]+(,| is (un)?healthy)", "│ *[^ E]", "\"|$":
    out = runs(out, starts)
print("\n".join(out))
'
}

normalise() {
    sed -E \
        -e '/^\{"level":/d' \
        -e 's/"(raft_term|raftIndex|raftTerm|raftAppliedIndex|dbSize|dbSizeInUse)":[0-9]+/"\1":N/g' \
        -e 's/^"(RaftTerm|RaftIndex|RaftAppliedIndex|DBSize|DBSizeInUse|DbSize|DbSizeInUse)" : [0-9]+/"\1" : N/' \
        -e 's/took = [^,"]+|took [0-9.]+[a-zµ]+/took T/g' \
        -e 's/^(\[\{"endpoint".*)"took":"[^"]*"/\1"took":T/; s/"took":"[^"]*"/"took":T/g; s/^"Took" : .*/"Took" : T/' \
        -e 's/\[[0-9.]+[a-zµ]+\]/[T]/' \
        -e 's/lease [0-9a-f]{16}/lease LEASE/' \
        -e 's/(cluster|Member) +/\1 /' \
        -e 's/\{"ID":[0-9]+,"peerURLs"/{"ID":UNSTARTED,"peerURLs"/g' \
        -e 's/^Member [0-9a-f]{8,16} added/Member ID added/' \
        -e 's/, 3\.7\.3, 3\.7\.0, [0-9.]+ [kMG]?B, [0-9.]+ [kMG]?B, [0-9]+%/, 3.7.3, 3.7.0, SIZES/' \
        -e 's/, (true|false), (true|false), [0-9]+, [0-9]+, [0-9]+, /, \1, \2, TERM, INDEX, INDEX, /' \
        -e '/^(│|┌|├|└)/ { s/(─)+/─/g; s/ +/ /g; s/[0-9.]+ [kM]?B/SIZE/g; s/[0-9]+%/P/g; s/[0-9.]+(µs|ms|s) /T /g; s/│ [0-9]+ │ [0-9]+ │ [0-9]+ │/│ TERM │ INDEX │ INDEX │/ }'
}

for round in tested reference; do
    binary=$server
    if [ $round = reference ]; then binary=$reference/etcd; fi
    # Not through a pipe: what a shell of its own starts nobody ends.
    commands >"$work/told" 2>&1
    end_all
    normalise <"$work/told" | ordered >"$work/$round"
done
: >"$work/told"
count=$(grep -c '^\$ etcdctl' "$work/reference")
if [ "${URD_SHOW:-}" ]; then cat "$work/tested"; fi
if ! diff -U 3 "$work/reference" "$work/tested"; then
    echo "members: the server under test prints something else (+) than the reference (-)" >&2
    exit 1
fi
echo "members: $count commands over clusters of one to four, no difference"
