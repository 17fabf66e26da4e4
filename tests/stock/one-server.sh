# For the scripts beside it that start one server at a time, always on the same ports; to be sourced. `work` is a folder of their own,
# `client` and `peer` are the ports, `pid` the server that runs. It goes with the script.

source "$(dirname "${BASH_SOURCE[0]}")/servers.sh"
work=$(mktemp -d)
pid=
stop() {
    if [ "$pid" ]; then kill -9 "$pid" && wait "$pid" || true; fi 2>/dev/null
    pid=
}
finish() {
    stop
    rm -rf "$work"
}
trap finish EXIT
client=$(free_port)
peer=$(free_port)
while [ "$peer" = "$client" ]; do peer=$(free_port); done

# get_ready NAME URL [CURL_OPTION...]: waits until the server that has been launched serves there.
get_ready() {
    pid=$launched
    local _
    for _ in $(seq 300); do
        # The reference learns the storage's version a moment after it has begun to serve.
        if curl -sS "${@:3}" "$2/version" 2>/dev/null | grep -q '"storage":"3'; then return; fi
        kill -0 "$pid" 2>/dev/null || break
        sleep 0.1
    done
    not_ready "$1"
}
