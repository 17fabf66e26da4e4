#!/usr/bin/env bash
# Sends the same raw requests to the JSON gateway of the server under test and of the reference, one after the other on the same
# ports, so that their ids are the same, and compares the answers byte for byte: status line, headers (sorted, dates aside),
# body. Out of sight are sizes, hashes and raft indexes alone. Ends with the number of requests compared; fails with the
# difference.
#   gateway.sh SERVER FOLDER_OF_REFERENCE_BINARIES [http2]
# With `http2` the same over HTTP/2 within TLS, where the reference's gateway has its own server behind TLS as well.
set -euo pipefail
server=$(realpath "${1:?usage: gateway.sh SERVER FOLDER [http2]}")
reference=$(realpath "${2:?usage: gateway.sh SERVER FOLDER [http2]}")
over=${3:-http1}
source "$(dirname "$0")/one-server.sh"
url=http://127.0.0.1:$client
flags=()
spoken=()
if [ "$over" = http2 ]; then
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -keyout "$work/key.pem" -out "$work/cert.pem" \
        -subj /CN=gateway -addext subjectAltName=IP:127.0.0.1 2>"$work/openssl" || { cat "$work/openssl" >&2; exit 1; }
    url=https://127.0.0.1:$client
    flags=("--listen-client-urls=$url" "--advertise-client-urls=$url" "--cert-file=$work/cert.pem" "--key-file=$work/key.pem")
    spoken=(--http2 --cacert "$work/cert.pem")
fi

# start NAME BINARY
start() {
    launch "$1" "$2" "$client" "$peer" "http://127.0.0.1:$peer" "${flags[@]}"
    get_ready "$1" "$url" "${spoken[@]}"
}

# show: the answer in $work/head and $work/body.
show() {
    # Where the connection or the stream broke off there is none.
    tr -d '\r' <"$work/head" | sed -e '/^HTTP\/[0-9.]* 100/d' -e '/^$/d' >"$work/shown"
    head -n 1 "$work/shown"
    tail -n +2 "$work/shown" | sed '/^date: /Id' | LC_ALL=C sort
    echo
    cat "$work/body"
    echo
}

# ask METHOD PATH [BODY [CURL ARGUMENTS…]]: one request with its answer. A body `@file` is that file's.
ask() {
    local method=$1 path=$2 body=${3-}
    shift $(($# < 3 ? $# : 3))
    echo "> $method $path ${body:0:200} $*"
    local arguments=("${spoken[@]}" -sS --path-as-is --max-time 20 -D "$work/head" -o "$work/body")
    if [[ $* != *Content-Type:* ]]; then arguments+=(-H "Content-Type: application/json"); fi
    case $method in
        HEAD) arguments+=(-I) ;;
        *) arguments+=(-X "$method") ;;
    esac
    if [ "$body" ]; then arguments+=(--data-binary "$body"); fi
    # A server that answers before it has read the body may end the stream before curl has seen the answer: by chance, and
    # etcd's does so, too. Nothing has been done then.
    local tries code said
    for tries in $(seq 20); do
        : >"$work/head"; : >"$work/body"
        code=0
        said=$(curl "${arguments[@]}" "$@" "$url$path" 2>&1) || code=$?
        if [ "$code" != 92 ]; then break; fi
    done
    if [ "$said" ]; then echo "$said"; fi
    if [ "$code" != 0 ]; then echo "curl: $code"; fi
    # There curl takes the head for the body.
    if [ "$method" = HEAD ]; then : >"$work/body"; fi
    show
}

post() { ask POST "$@"; }

# about METHOD…: the same where sizes and the like are told, and so the length with them.
about() {
    ask "$@" | sed -E -e '/^Content-Length:/Id' \
        -e 's/"(raftIndex|raftAppliedIndex|dbSize|dbSizeInUse)":"[0-9]+"/"\1":"N"/g' -e 's/"hash":[0-9]+/"hash":N/'
}

# stream LINES PATH BODY: the head and the first lines of an answer that does not end by itself.
stream() {
    local lines=$1 path=$2 body=$3 curl_pid
    echo "> POST $path $body"
    : >"$work/head"; : >"$work/body"
    curl "${spoken[@]}" -sS -N --max-time 20 -D "$work/head" -o "$work/body" --data-binary "$body" "$url$path" 2>/dev/null &
    curl_pid=$!
    for _ in $(seq 100); do
        if [ "$(wc -l <"$work/body")" -ge "$lines" ] || ! kill -0 "$curl_pid" 2>/dev/null; then break; fi
        sleep 0.05
    done
    kill "$curl_pid" 2>/dev/null || true
    wait "$curl_pid" 2>/dev/null || true
    # What came after them came by chance.
    head -n "$lines" "$work/body" >"$work/lines"
    mv "$work/lines" "$work/body"
    show
}

requests() {
    local key=/v3/kv/put range=/v3/kv/range
    # Writes and reads.
    post $key '{"key":"Zm9v","value":"YmFy"}'
    post $key '{"key":"Zm9v","value":"PD4mIiDigKg=","prev_kv":true}'
    post $key '{"key":"Zm9vMg==","value":"dmFsdWU-P34","lease":"0"}'
    post $key '{"key":"Zm9vMw","value":"","prevKv":false,"unknown":[{"a":"}"}]}'
    post $key ' {"\u006bey" : "Zm9vNA==" } trailing'
    post $key '{"key":"Zm9vNQ=="} {"key":"eA=="}'
    post $key '{"key":"Zm9v","ignore_value":true,"value":"eA=="}'
    post $key '{"key":"bm90aGluZw==","ignore_value":true}'
    post $key '{"key":"Zm9v","lease":"4711"}'
    post $key '{"key":null}'
    post $key
    post $key ' '
    post $key '{}' -H 'Content-Type: text/plain' -H 'Accept: application/xml'
    post $range '{"key":"Zm9v"}'
    post $range '{"key":"AA==","range_end":"AA=="}'
    post $range '{"key":"AA==","rangeEnd":"AA==","limit":2,"sort_order":"DESCEND","sortTarget":"MOD"}'
    post $range '{"key":"AA==","range_end":"AA==","count_only":true}'
    post $range '{"key":"AA==","range_end":"AA==","keys_only":true,"limit":"1e0"}'
    post $range '{"key":"Zm9v","sort_order":1.0,"sort_target":"NO_SUCH"}'
    post $range '{"key":"Zm9v","sort_order":77}'
    post $range '{"key":"Zm9v","revision":"1000000"}'
    post $range '{"key":"bm90aGluZw=="}'
    post /v3/kv/txn '{"compare":[{"target":"VERSION","key":"Zm9v","version":"0"}],"failure":[{"requestRange":{"key":"Zm9v"}},{"request_put":{"key":"dHhu","prev_kv":true}}]}'
    post /v3/kv/txn '{"success":[{"request_delete_range":{"key":"dHhu","prev_kv":true}},{"request_txn":{"success":[{"request_range":{"key":"Zm9v","count_only":true}}]}}]}'
    post /v3/kv/txn '{"success":[{}]}'
    post /v3/kv/txn '{"success":[{"request_put":{"key":"YQ=="}},{"request_put":{"key":"YQ=="}}]}'
    post /v3/kv/deleterange '{"key":"Zm9vNQ==","prev_kv":true}'
    post /v3/kv/compaction '{"revision":"4"}'
    post /v3/kv/compaction '{"revision":"4","physical":true}'
    post $range '{"key":"Zm9v","revision":2}'
    # What is no such message.
    local body
    for body in '[]' 'null' '"x"' '5x' '{' '{"key"' '{"key":"eA==",}' 'junk' '{"key":5}' '{"key":"not base64!"}' '{"key":"Zg="}' \
        '{"key":"eA==","key":"eA=="}' '{"key":"eA==","lease":"x"}' '{"key":"eA==","lease":1.5}' '{"lease":99999999999999999999}' \
        '{"key":"eA==","prev_kv":"true"}' $'{\n "key":"eA==",\n "lease":true}' '{"key":"\ud800"}' $'{"key":"\x01"}' \
        $'{"\xff":1}' '{"lease":{}}' '{"key":[]}' 'tru' "{'key':1}"; do
        post $key "$body"
    done
    post /v3/kv/txn '{"success":[{"request_put":{"key":"eA=="},"request_range":{"key":"eA=="}}]}'
    post /v3/kv/txn '{"compare":[{"version":1,"value":"eA=="}]}'
    post /v3/kv/txn '{"compare":{}}'
    post /v3/kv/txn '{"compare":[null]}'
    # Paths and methods.
    local path
    for path in /v3 /v3/ /v3/nothing /v3/kv/range/ /v3//kv/range /v3/kv/../kv/range /v3beta/kv/range /v3alpha/kv/range \
        /v3/kv/range:x /v3/kv%2Frange /v3/kv/rangestream '/v3/kv/range?key=eA=='; do
        post "$path" '{"key":"Zm9v"}'
        ask GET "$path"
    done
    for path in PUT DELETE HEAD PATCH; do ask $path $range; done
    ask OPTIONS $range '' -H 'Origin: http://example.org'
    # Headers.
    post $range '{"key":"Zm9v"}' -H 'Origin: http://example.org'
    post $range '{"key":"Zm9v"}' -H 'TE: trailers'
    post $range '{"key":""}' -H 'TE: trailers'
    post $range '{' -H 'TE: trailers'
    post $range '{"key":"Zm9v"}' -H 'Grpc-Timeout: 5S'
    post $range '{"key":"Zm9v"}' -H 'Grpc-Timeout: 5x'
    post $range '{"key":"Zm9v"}' -H 'Grpc-Timeout: -1S'
    post $range '{"key":"Zm9v"}' -H 'Grpc-Metadata-X-Bin: A!'
    post $range '{"key":"Zm9v"}' -H 'Grpc-Metadata-Hasleader: true' -H 'Authorization: nobody'
    post $range '{"key":"Zm9v"}' -H 'Transfer-Encoding: chunked'
    post $range '{"key":"Zm9v"}' -H 'Expect: 100-continue'
    post $range '{"key":"Zm9v"}' -H 'Content-Type: application/x-www-form-urlencoded'
    post $range 'key=Zm9v' -H 'Content-Type: application/x-www-form-urlencoded' -H 'X-Http-Method-Override: GET'
    post $range 'key=Zm9v' -H 'Content-Type: application/x-www-form-urlencoded' -H 'X-Http-Method-Override: post'
    post $range '{"key":"Zm9v"}' --http1.0
    # Sizes: with its length up to 2,048 bytes; refused by raft's bound; refused by gRPC's.
    head -c 1446 /dev/zero | base64 -w 0 >"$work/value"
    { printf '{"key":"YmlnMQ==","value":"'; cat "$work/value"; printf '"}'; } >"$work/put"
    post $key "@$work/put"
    post $range '{"key":"YmlnMQ=="}'
    head -c 1500 /dev/zero | base64 -w 0 >"$work/value"
    { printf '{"key":"YmlnMg==","value":"'; cat "$work/value"; printf '"}'; } >"$work/put"
    post $key "@$work/put"
    post $range '{"key":"YmlnMg=="}'
    for size in 1600000 2200000 4000000; do
        head -c $size /dev/zero | base64 -w 0 >"$work/value"
        { printf '{"key":"YmlnMw==","value":"'; cat "$work/value"; printf '"}'; } >"$work/put"
        post $key "@$work/put"
    done
    # Leases.
    post /v3/lease/grant '{"ID":"4711","TTL":"5000"}'
    post /v3/lease/grant '{"ID":4711,"TTL":"5000"}'
    post /v3/lease/grant '{"TTL":"99999999999"}'
    post $key '{"key":"bGVhc2Vk","lease":4711}'
    post /v3/lease/timetolive '{"ID":"4711","keys":true}' | sed -E 's/"TTL":"49[0-9]{2}"/"TTL":"T"/'
    post /v3/kv/lease/timetolive '{"ID":"1"}'
    post /v3/lease/leases '{}'
    post /v3/kv/lease/leases
    post /v3/lease/keepalive '{"ID":"4711"}'
    post /v3/lease/keepalive '{"ID":"4711"} {"ID":4799}'
    post /v3/lease/keepalive
    post /v3/lease/keepalive '{"ID":4711} junk'
    post /v3/kv/lease/revoke '{"ID":"4711"}'
    post /v3/lease/revoke '{"ID":"4711"}'
    # Watches.
    local watch=/v3/watch
    stream 1 $watch '{"create_request":{"key":"Zm9v"}}'
    stream 2 $watch '{"create_request":{"key":"AA==","range_end":"AA==","start_revision":"5","prev_kv":true}}'
    stream 1 $watch '{"createRequest":{"key":"AA==","rangeEnd":"AA==","startRevision":5,"filters":["NOPUT","UNKNOWN",0]}}'
    stream 2 $watch '{"create_request":{"key":"Zm9v","start_revision":1}}'
    stream 2 $watch '{"create_request":{"key":"Zm9v","watch_id":"7"}}{"create_request":{"key":"Zm9v","watch_id":"7"}}'
    stream 2 $watch $'{"create_request":{"key":"Zm9v"}}\n{"cancel_request":{"watch_id":"0"}}\n'
    stream 1 $watch '{"create_request":{"key":"eg==","range_end":"YQ=="}}'
    stream 1 $watch '{"create_request":{"key":"Zm9v"}} junk {"create_request":{"key":"Zm9v"}}'
    post $watch '{}' -H 'Grpc-Timeout: x'
    post $watch '{}' -H 'Grpc-Timeout: -1n' -H 'TE: trailers'
    post $range '{}' -H 'Grpc-Timeout: -1n' -H 'TE: trailers'
    post $range '{' -H 'Grpc-Timeout: -1n'
    ask GET $watch
    # The rest.
    post /v3/cluster/member/list '{}'
    post /v3/maintenance/alarm '{}'
    post /v3/maintenance/alarm '{"action":"ACTIVATE","memberID":"0","alarm":"CORRUPT"}'
    post /v3/maintenance/alarm '{"action":"DEACTIVATE","alarm":"CORRUPT"}'
    about POST /v3/maintenance/status '{}'
    about POST /v3/maintenance/hash '{}'
    about POST /v3/maintenance/hashkv '{}'
    post /v3/maintenance/hashkv '{"revision":"1"}'
    post /v3/maintenance/defragment '{}'
}

start tested "$server"
requests >"$work/tested" 2>&1
stop
start reference "$reference/etcd"
requests >"$work/reference" 2>&1
stop
count=$(grep -a -c '^> ' "$work/reference")
if [ "${URD_SHOW:-}" ]; then cat "$work/tested"; fi
if ! diff -a -U 8 "$work/reference" "$work/tested"; then
    echo "gateway: the server under test answers something else (+) than the reference (-)" >&2
    exit 1
fi
echo "gateway: $count requests over $over, no difference"
