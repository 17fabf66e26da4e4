# What the scripts beside it need of servers; to be sourced, with `work` set to a folder.

free_port() {
    local port
    for port in $(shuf -i 21000-29999 -n 100); do
        if ! (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then echo "$port"; return; fi
    done
    echo "no free port" >&2; return 1
}

# launch NAME BINARY CLIENT_PORT PEER_PORT PEER_URL [FLAG...]: on the data directory of that name, alone in its cluster;
# sets `launched` to its process. PEER_URL is what the member is known by, and PEER_PORT where it listens.
launch() {
    "$2" --name=default --data-dir="$work/$1.data" \
        --listen-client-urls="http://127.0.0.1:$3" --advertise-client-urls="http://127.0.0.1:$3" \
        --listen-peer-urls="http://127.0.0.1:$4" --initial-advertise-peer-urls="$5" \
        --initial-cluster="default=$5" "${@:6}" >"$work/$1.log" 2>&1 &
    launched=$!
}

not_ready() {
    echo "$1 does not get ready:" >&2; tail -n 20 "$work/$1.log" >&2; return 1
}
