#!/usr/bin/env bash
# Three members of the reference, with TLS for clients and members and with users, are replaced one by one by members of the server
# under test, and those by the reference's again, by `urd-migrate live`, while writes go on. What is there has to be refused before
# anything is changed; the tool is killed in the middle of a replacement and goes on; a member that holds something else is found
# and nobody is removed for it. At the end every acknowledged write is there, and all members hash alike.
#   live.sh SERVER URD_MIGRATE FOLDER_OF_REFERENCE_BINARIES
#   URD_SHOW=1: with all that the tool prints
set -euo pipefail
usage="usage: live.sh SERVER URD_MIGRATE FOLDER"
server=$(realpath "${1:?$usage}")
migrate=$(realpath "${2:?$usage}")
reference=$(realpath "${3:?$usage}")
work=$(mktemp -d)
source "$(dirname "$0")/servers.sh"

writer=
finish() {
    if [ "$writer" ]; then kill "$writer" && wait "$writer" || true; fi 2>/dev/null
    for file in "$work"/*.pid; do
        if [ -e "$file" ]; then kill -9 "$(cat "$file")" || true; fi
    done 2>/dev/null
    if [ "${URD_KEEP:-}" ]; then cp -r "$work" "$URD_KEEP"; fi
    rm -rf "$work"
}
trap finish EXIT
fail() {
    echo "live: $*" >&2
    tail -n 40 "$work/told" >&2
    for log in "$work"/*.log; do echo "== $log" >&2; tail -n 5 "$log" | cut -c 1-300 >&2; done
    exit 1
}
: >"$work/told"

(
    cd "$work"
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout ca.key -out ca.pem -days 2 -subj /CN=ca
    openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout key.pem -out request -subj /CN=member
    openssl x509 -req -in request -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -out cert.pem \
        -extfile <(printf 'subjectAltName=IP:127.0.0.1\nextendedKeyUsage=serverAuth,clientAuth\n')
) 2>"$work/openssl" || { cat "$work/openssl" >&2; exit 1; }

# Two for each member that there will be, from where no script beside this one takes any: most are listened on much later.
mapfile -t ports < <(for port in $(shuf -i 30000-32000 -n 200); do
    if ! (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then echo "$port"; fi
done)
declare -A clients=() peers=()
at=0
for name in m1 m2 m3 u1 u2 u3 e1 e2 e3; do
    clients[$name]=https://127.0.0.1:${ports[at]}
    peers[$name]=https://127.0.0.1:${ports[at + 1]}
    echo "${ports[at]} ${ports[at + 1]}" >"$work/$name.ports"
    at=$((at + 2))
done

# What the operator has: a script that starts a member by what is in its environment, and one that stops one. Each is run by the
# tool as well as from here.
cat >"$work/start" <<END
#!/usr/bin/env bash
set -euo pipefail
cd "$work"
read -r client peer <"\$ETCD_NAME.ports"
if [ -e "\$ETCD_NAME.pid" ] && kill -0 "\$(cat "\$ETCD_NAME.pid")" 2>/dev/null; then exit 0; fi
binary=$reference/etcd
flags=()
case \$ETCD_NAME in u*) binary=$server; flags=(--shards=1) ;; esac
export ETCD_ADVERTISE_CLIENT_URLS=https://127.0.0.1:\$client
setsid "\$binary" --data-dir="\$ETCD_NAME.data" "\${flags[@]}" \\
    --listen-client-urls="https://127.0.0.1:\$client" --listen-peer-urls="https://127.0.0.1:\$peer" \\
    --cert-file=cert.pem --key-file=key.pem --trusted-ca-file=ca.pem --client-cert-auth \\
    --peer-cert-file=cert.pem --peer-key-file=key.pem --peer-trusted-ca-file=ca.pem --peer-client-cert-auth \\
    >>"\$ETCD_NAME.log" 2>&1 </dev/null &
echo \$! >"\$ETCD_NAME.pid"
echo "\$ETCD_NAME" >>started
END
cat >"$work/stop" <<END
#!/usr/bin/env bash
cd "$work"
echo "\$URD_OLD_NAME" >>stopped
# It ends by itself.
for _ in \$(seq 200); do
    kill -0 "\$(cat "\$URD_OLD_NAME.pid")" 2>/dev/null || exit 0
    sleep 0.1
done
exit 1
END
chmod +x "$work/start" "$work/stop"

export ETCDCTL_CACERT=$work/ca.pem ETCDCTL_CERT=$work/cert.pem ETCDCTL_KEY=$work/key.pem
ctl() { "$reference/etcdctl" --command-timeout=10s "$@"; }
endpoints_of() { local name all=; for name in "$@"; do all+=${all:+,}${clients[$name]}; done; echo "$all"; }
# live WORDS...: the tool, with the operator's commands.
live() {
    "$migrate" live --start-command="$work/start" --stop-command="$work/stop" --patience=60 "$@" >>"$work/told" 2>&1
}
# told TEXT: that the tool has said so.
told() { grep -qF -- "$1" "$work/told" || fail "not said: $1"; }
# await_told TEXT: until it says so.
await_told() {
    for _ in $(seq 600); do
        if grep -qF -- "$1" "$work/told"; then return; fi
        sleep 0.1
    done
    fail "not said in time: $1"
}
replace() { echo "$1=$2 ${peers[$2]} ${clients[$2]}"; }

founders=m1=${peers[m1]},m2=${peers[m2]},m3=${peers[m3]}
for name in m1 m2 m3; do
    ETCD_NAME=$name ETCD_INITIAL_CLUSTER=$founders ETCD_INITIAL_ADVERTISE_PEER_URLS=${peers[$name]} \
        ETCD_INITIAL_CLUSTER_STATE=new "$work/start"
done
export ETCDCTL_ENDPOINTS=${clients[m1]}
for _ in $(seq 100); do
    if ctl endpoint health --cluster >/dev/null 2>&1; then break; fi
    sleep 0.1
done
ctl user add root:secret >/dev/null
ctl user grant-role root root >/dev/null
ctl auth enable >/dev/null
export ETCDCTL_USER=root:secret
ctl lease grant 3600 >/dev/null
(cd "$(dirname "$0")" && go build -o "$work/writer" ./writer)
"$work/writer" "$(endpoints_of m1 m2 m3 u1 u2 u3 e1 e2 e3)" >"$work/writer.log" 2>&1 &
writer=$!

echo "== what is refused before anything is changed"
members=$(ctl member list | sort)
refused() { # TEXT WORDS...
    local text=$1 code=0
    shift
    : >"$work/told"
    live "$@" || code=$?
    [ $code = 1 ] || fail "exit code $code for $*"
    told "$text"
}
refused "m9 is no member" --replace="m9=u1 ${peers[u1]}"
refused "has the peer URLs that the plan gives to u1" --replace="m1=u1 ${peers[m2]}"
refused "which u1 is to have, is of m2" --replace="m1=u1 ${peers[u1]} ${clients[m2]}"
refused "somebody listens at ${clients[m3]} already" --replace="m1=u1 ${peers[u1]} ${clients[m3]}"
refused "is the name of a member already" --replace="m1=m2 ${peers[u1]}"
refused "authentication failed" --user=root:wrong --replace="$(replace m1 u1)"
ctl user add guest:guest >/dev/null
refused "needs the role root" --user=guest:guest --replace="$(replace m1 u1)"
ETCDCTL_CACERT=/nowhere refused "/nowhere" --replace="$(replace m1 u1)"
[ "$(ctl member list | sort)" = "$members" ] || fail "a refusal has changed the members"

echo "== a dry run"
printf '%s\n' "# the way there" "$(replace m1 u1)" "$(replace m2 u2)" "$(replace m3 u3)" >"$work/plan"
: >"$work/told"
live --plan="$work/plan" --dry-run || fail "the dry run"
told "etcdctl member add u1 --learner"
told "nothing was changed"
[ "$(ctl member list | sort)" = "$members" ] || fail "the dry run has changed the members"

echo "== etcd by urd, killed on the way"
: >"$work/told"
# Not as a function in the background: that would be a shell's process, and the tool would go on.
"$migrate" live --start-command="$work/start" --stop-command="$work/stop" --patience=60 --plan="$work/plan" >>"$work/told" 2>&1 &
tool=$!
await_told "[2/3 m2 → u2] added"
kill -9 $tool || fail "it was not there to be killed"
wait $tool 2>/dev/null || true
echo "killed" >>"$work/told"
live --plan="$work/plan" || fail "the second run ended with $?"
told "all of the plan is done"
export ETCDCTL_ENDPOINTS=${clients[u1]}
[ "$(ctl member list | awk -F', ' '{ print $3, $6 }' | sort | tr '\n' ' ')" = "u1 false u2 false u3 false " ] ||
    fail "the members are others than planned: $(ctl member list)"
[ "$(sort "$work/stopped" | uniq | tr '\n' ' ')" = "m1 m2 m3 " ] || fail "stopped were $(cat "$work/stopped")"

echo "== it is done: a third run changes nothing"
"$migrate" live --stop-command="$work/stop" --plan="$work/plan" --json >"$work/json" || fail "a run of what is done ended with $?"
python3 -c '
import json, sys
events = [json.loads(line)["event"] for line in sys.stdin]
assert events[-1] == "done" and "added" not in events and events.count("same") == 1, events
' <"$work/json" || fail "$(cat "$work/json")"
[ "$(sort "$work/started" | uniq -c | awk '{ print $1 }' | sort -u)" = 1 ] || fail "a member was started twice: $(cat "$work/started")"

echo "== urd by etcd, ended on the way, and the last one by hand"
printf '%s\n' "$(replace u1 e1)" "$(replace u2 e2)" >"$work/back"
: >"$work/told"
"$migrate" live --start-command="$work/start" --stop-command="$work/stop" --patience=60 --plan="$work/back" >>"$work/told" 2>&1 &
tool=$!
await_told "added e1 as a learner"
kill -TERM $tool
code=0
wait $tool || code=$?
[ $code = 143 ] || fail "it was asked to end, and ended with $code"
told "The same command goes on from there."
live --plan="$work/back" || fail "the way back ended with $?"
told "all of the plan is done"
: >"$work/told"
export ETCDCTL_ENDPOINTS=${clients[e1]}
"$migrate" live --patience=60 --replace="$(replace u3 e3)" >>"$work/told" 2>&1 &
tool=$!
await_told "START e3 NOW"
# As it is printed.
(
    eval "$(sed -n "s/^    ETCD_/export ETCD_/p" "$work/told")"
    "$work/start"
)
wait $tool || fail "the way back by hand ended with $?"
told "all of the plan is done"
told "u3 does not answer any more"
for name in u1 u2 u3; do
    for _ in $(seq 100); do
        kill -0 "$(cat "$work/$name.pid")" 2>/dev/null || continue 2
        sleep 0.1
    done
    fail "$name still runs"
done

kill -TERM "$writer"
wait "$writer" || fail "the writer: $(cat "$work/writer.log")"
writer=
cat "$work/writer.log"
if [ "${URD_SHOW:-}" ]; then cat "$work/told"; fi

echo "== members that do not hold the same"
# Restored from snapshots of two servers, of the same revisions with other values.
unset ETCDCTL_CACERT ETCDCTL_CERT ETCDCTL_KEY ETCDCTL_USER
for value in a b; do
    client=$(free_port)
    export ETCDCTL_ENDPOINTS=127.0.0.1:$client
    launch $value "$reference/etcd" "$client" "$(free_port)" http://127.0.0.1:1
    echo "$launched" >"$work/$value.pid"
    for _ in $(seq 100); do
        if ctl put key $value >/dev/null 2>&1; then break; fi
        sleep 0.1
    done
    ctl snapshot save "$work/$value.db" >/dev/null 2>&1 || fail "snapshot save"
    kill -9 "$launched"
    wait "$launched" 2>/dev/null || true
done
declare -A plain=()
founders=
for name in p1 p2 p3; do
    plain[$name]=$(free_port)
    plain[$name-peer]=$(free_port)
    founders+=${founders:+,}$name=http://127.0.0.1:${plain[$name-peer]}
done
for name in p1 p2 p3; do
    from=a
    if [ $name = p2 ]; then from=b; fi
    peer=http://127.0.0.1:${plain[$name-peer]} client=http://127.0.0.1:${plain[$name]}
    "$reference/etcdutl" snapshot restore "$work/$from.db" --data-dir "$work/$name.data" --name $name \
        --initial-cluster "$founders" --initial-advertise-peer-urls "$peer" >"$work/restore" 2>&1 || fail "$(cat "$work/restore")"
    "$reference/etcd" --name=$name --data-dir="$work/$name.data" --listen-client-urls="$client" --advertise-client-urls="$client" \
        --listen-peer-urls="$peer" --initial-advertise-peer-urls="$peer" --initial-cluster="$founders" >"$work/$name.log" 2>&1 &
    echo $! >"$work/$name.pid"
done
export ETCDCTL_ENDPOINTS=127.0.0.1:${plain[p1]}
for _ in $(seq 100); do
    if ctl endpoint health --cluster >/dev/null 2>&1; then break; fi
    sleep 0.1
done
members=$(ctl member list | sort)
refused "is alone with what it holds" --replace="p1=u4 http://127.0.0.1:$(free_port)"
told "p2 ("
[ "$(ctl member list | sort)" = "$members" ] || fail "members were changed although they do not hold the same"
echo "live: three members there and back, with TLS and users"
