#!/usr/bin/env bash
# Sends the same raw requests to the peer URL of the server under test and of the reference, one after the other on the same
# ports, so that their ids are the same, and compares the answers byte for byte: status line, headers (sorted, dates aside),
# body. In plain, then within TLS with members' certificates of several kinds. Out of sight are hashes and the time of a
# probe alone. Ends with the number of requests compared; fails with the difference.
#   peers.sh SERVER FOLDER_OF_REFERENCE_BINARIES
set -euo pipefail
server=$(realpath "${1:?usage: peers.sh SERVER FOLDER}")
reference=$(realpath "${2:?usage: peers.sh SERVER FOLDER}")
source "$(dirname "$0")/one-server.sh"

# start NAME BINARY SCHEME [FLAG...]
start() {
    rm -rf "$work/$1.data"
    launch "$1" "$2" "$client" "$peer" "$3://127.0.0.1:$peer" --listen-peer-urls="$3://127.0.0.1:$peer" "${@:4}"
    url=$3://127.0.0.1:$peer
    get_ready "$1" "http://127.0.0.1:$client"
}

ctl() { "$reference/etcdctl" --endpoints="127.0.0.1:$client" "$@"; }

# ask METHOD PATH [CURL ARGUMENTS…]: one request with its answer.
ask() {
    local method=$1 path=$2
    shift 2
    echo "> $method $path $*" | sed "s#$work#.#g"
    local arguments=(-sS --http1.1 --path-as-is --max-time 20 -D "$work/head" -o "$work/body")
    case $method in
        HEAD) arguments+=(-I) ;;
        *) arguments+=(-X "$method") ;;
    esac
    : >"$work/head"; : >"$work/body"
    curl "${arguments[@]}" "$@" "$url$path" 2>"$work/failure" || echo "curl: $?"
    # There curl takes the head for the body.
    if [ "$method" = HEAD ]; then : >"$work/body"; fi
    tr -d '\r' <"$work/head" | sed '/^$/d' | head -n 1
    tr -d '\r' <"$work/head" | sed '/^$/d; /^Date: /d' | tail -n +2 | LC_ALL=C sort
    echo
    od -c -An -v <"$work/body" | sed 's/^ *//' | tr -d '\n' | fold -w 120
    echo
    cat "$work/body" | tr -d '\0'
    echo
}

# bytes TEXT: a body, by printf's escapes, as a file for --data-binary.
bytes() { printf "$1" >"$work/sent"; echo "@$work/sent"; }

requests() {
    local cluster here path
    cluster=$(curl -sS -D - -o /dev/null "$url/members" | tr -d '\r' | sed -n 's/^X-Etcd-Cluster-Id: //p')
    # In decimal, as /members tells it.
    here=$(curl -sS "$url/members" | sed -E 's/^\[\{"id":([0-9]+).*/\1/')
    local ours=(-H "X-Server-Version: 3.7.3" -H "X-Min-Cluster-Version: 3.0.0" -H "X-Etcd-Cluster-ID: $cluster" -H "X-Server-From: abc")
    # Paths and methods.
    for path in / /version /members /members/ /members/x /members/promote /members/promote/ /members/promote/x \
        /members/promote/1 /members/hashkv /leases /leases/ /leases/internal /leases/x /downgrade /downgrade/enabled \
        /downgrade/enabled/ /raft /raft/ /raft/x /raft/stream /raft/stream/ /raft/stream/message/1 /raft/snapshot \
        /raft/snapshot/ /raft/probing/ /health /metrics /v3/kv/range /debug/vars //version /a/../version /./members \
        '/version?x=1' '/members/promote?x=1' /%76ersion /members%2Fpromote /raft%2fprobing /members/promote/1%2F2; do
        ask GET "$path"
        case $path in
            *probing* | /leases/internal) ;;
            *) ask POST "$path" ;;
        esac
    done
    for path in /version /members /downgrade/enabled /raft /leases /members/hashkv /raft/stream/message/1; do
        ask HEAD "$path"
        ask PUT "$path"
        ask OPTIONS "$path"
        ask DELETE "$path" --http1.0
    done
    ask GET /raft/probing | sed -E 's/[0-9]{4}-[0-9T:.-]+(Z|[+-][0-9:]+)/TIME/; /^Content-Length/d; /\\n/d'
    ask POST /raft/probing -d x | sed -E 's/[0-9]{4}-[0-9T:.-]+(Z|[+-][0-9:]+)/TIME/; /^Content-Length/d; /\\n/d'
    ask OPTIONS /x --request-target '*'
    ask GET /x --request-target '*'
    ask GET /version -H 'Host;'
    ask GET /version -H 'Origin: http://example.org'
    # Streams.
    for path in message/1 msgapp/1 msgapp/ message message/xyz message/+1 message/0x1 message/1/2 msgappv2/1 message/ABC \
        message/ffffffffffffffff message/10000000000000000 "message/$(printf '%x' "$here")" msgapp/%31; do
        ask GET "/raft/stream/$path" "${ours[@]}"
        ask GET "/raft/stream/$path" "${ours[@]}" -H 'X-Raft-To: 1'
    done
    path=/raft/stream/message/1
    ask GET $path -H "X-Etcd-Cluster-ID: $cluster"
    local version
    for version in 2.0.0 2.9.9 3.0.0 3.5.9 3.8.0 3.8.0-alpha.1+x 4.0.0; do
        ask GET $path -H "X-Server-Version: $version" -H "X-Etcd-Cluster-ID: $cluster"
        ask GET $path -H "X-Server-Version: $version" -H "X-Etcd-Cluster-ID: 0$cluster"
        ask GET $path -H "X-Server-Version: 3.7.3" -H "X-Min-Cluster-Version: $version" -H "X-Etcd-Cluster-ID: $cluster"
    done
    ask GET $path -H "X-Server-Version: 3.7.3" -H "X-Min-Cluster-Version: 3.0.0"
    ask GET $path "${ours[@]}" -H "X-Etcd-Cluster-ID: $cluster"
    ask POST $path "${ours[@]}"
    # Messages: none; to nobody; to another; cut off. (raft.proto: 1 the type, 2 to, 3 from.)
    ask POST /raft
    ask POST /raft -H "X-Server-Version: 3.7.3"
    ask POST /raft "${ours[@]}" --data-binary "$(bytes 'x')"
    ask POST /raft "${ours[@]}" --data-binary "$(bytes '\10\10\20')"
    ask POST /raft "${ours[@]}" --data-binary "$(bytes '\10\10\20\1\30\2')"
    ask POST /raft "${ours[@]}" --data-binary "$(bytes '\10\10')"
    ask POST /raft "${ours[@]}"
    # Snapshots: a length, a message.
    ask POST /raft/snapshot
    ask POST /raft/snapshot -H "X-Server-Version: 3.7.3"
    ask POST /raft/snapshot "${ours[@]}"
    ask POST /raft/snapshot "${ours[@]}" --data-binary "$(bytes 'xyz')"
    ask POST /raft/snapshot "${ours[@]}" --data-binary "$(bytes '\0\0\0\0\0\0\0\2')"
    ask POST /raft/snapshot "${ours[@]}" --data-binary "$(bytes '\0\0\0\0\0\0\0\4\10\10')"
    ask POST /raft/snapshot "${ours[@]}" --data-binary "$(bytes '\0\0\0\0\0\0\0\2\10\10')"
    ask POST /raft/snapshot "${ours[@]}" --data-binary "$(bytes '\0\0\0\0\0\0\0\0')"
    ask POST /raft/snapshot "${ours[@]}" --data-binary "$(bytes '\177\0\0\0\0\0\0\2\10\10')"
    ask POST /raft/snapshot "${ours[@]}" --data-binary "$(bytes '\0\0\0\0\0\0\0\12\10\7\20\1\112\4\22\2\20\5database')"
    # Leases. (rpc.proto: 1 the lease, 2 whether its keys are wanted.)
    curl -sS -o /dev/null "http://127.0.0.1:$client/v3/lease/grant" -d '{"ID":"77","TTL":"5000"}'
    ctl put --lease=4d k v >/dev/null
    ask POST /leases --data-binary "$(bytes '\10\115')"
    ask POST /leases --data-binary "$(bytes '\10\116')"
    ask POST /leases --data-binary "$(bytes '')"
    ask POST /leases --data-binary "$(bytes '\10')"
    ask POST /leases --data-binary "$(bytes '\10\115\30\1')"
    # One that ends between the two servers' seconds has another length.
    ask POST /leases/internal --data-binary "$(bytes '\12\2\10\115')"
    ask POST /leases/internal --data-binary "$(bytes '\12\4\10\115\20\1')"
    ask POST /leases/internal --data-binary "$(bytes '\12\2\10\116')"
    ask POST /leases/internal --data-binary "$(bytes '\12\0')"
    ask POST /leases/internal --data-binary "$(bytes '\12\5')"
    ask PUT /leases/internal
    head -c 65536 /dev/zero | tr '\0' '\10' >"$work/large"
    ask POST /leases --data-binary "@$work/large"
    head -c 65537 /dev/zero | tr '\0' '\10' >"$work/large"
    ask POST /leases --data-binary "@$work/large"
    # Hashes.
    local body
    for body in '' '{}' null '{"revision":0}' '{"revision":2}' '{"Revision":2,"x":[{"y":1}]} ' '{"revision":1000}' '{"revision":-1}' \
        '{"revision":"2"}' '{"revision":2.0}' '{"revision":null}' '{"revision":9223372036854775808}' '[]' '5' '{' '{} {}'; do
        ask GET /members/hashkv -d "$body"
    done
    ask GET /members/hashkv -d '{}' -H "X-Etcd-Cluster-ID: $cluster"
    ask GET /members/hashkv -d '{}' -H "X-Etcd-Cluster-ID: 0$cluster"
    ctl put k w >/dev/null
    ctl compaction 3 >/dev/null
    ask GET /members/hashkv -d '{"revision":2}'
    ask GET /members/hashkv -d '{"revision":3}'
    ask GET /members/hashkv -d '{}'
    # Promotions: of nobody, of who votes, of a learner that is not there yet.
    ask POST /members/promote/1
    ask POST "/members/promote/$here"
    ask POST /members/promote/18446744073709551615
    ask POST /members/promote/18446744073709551616
    ask POST /members/promote/-1
    ask POST /members/promote/1/2
    # A downgrade that is asked for.
    ctl downgrade enable 3.6 >/dev/null
    ask GET /downgrade/enabled
    ctl downgrade cancel >/dev/null
    ask GET /downgrade/enabled
}

# Within TLS: who is let in.
issue() {
    openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout "$work/$1.key" -out "$work/$1.csr" -subj "/CN=$2" 2>/dev/null
    # Some extension, for one without any is of another version.
    printf '%s\n' extendedKeyUsage=clientAuth,serverAuth ${3:+"subjectAltName=$3"} >"$work/$1.ext"
    openssl x509 -req -in "$work/$1.csr" -CA "$work/ca.pem" -CAkey "$work/ca.key" -CAcreateserial -out "$work/$1.pem" -days 2 \
        -extfile "$work/$1.ext" 2>/dev/null
}
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout "$work/ca.key" -out "$work/ca.pem" -days 2 \
    -subj /CN=ca 2>/dev/null
issue server server IP:127.0.0.1
issue address one IP:127.0.0.1
issue elsewhere two IP:10.1.2.3
issue named three DNS:localhost
issue unknown four DNS:nobody.invalid
issue wildcard five 'DNS:*.invalid'
issue either six IP:10.1.2.3,DNS:localhost
issue neither seven IP:10.1.2.3,DNS:nobody.invalid
issue nothing eight
issue uri nine URI:spiffe://one

# show NAME [CURL ARGUMENTS…]: one request with this certificate.
show() {
    local name=$1
    shift
    echo "> with $name $*"
    curl -sS --http1.1 --max-time 20 --cacert "$work/ca.pem" --cert "$work/$name.pem" --key "$work/$name.key" "$@" \
        "$url/members" 2>/dev/null || echo "curl fails"
    echo
}

# encrypted NAME BINARY
encrypted() {
    local name with=(--peer-cert-file="$work/server.pem" --peer-key-file="$work/server.key")
    local whose=(--peer-trusted-ca-file="$work/ca.pem" --peer-client-cert-auth)
    local flags
    for flags in "" --peer-skip-client-san-verification --peer-cert-allowed-cn=two,three \
        --peer-cert-allowed-hostname=localhost,127.0.0.1 --tls-max-version=TLS1.2 --tls-min-version=TLS1.3; do
        echo ">> $flags"
        start "$1" "$2" https "${with[@]}" "${whose[@]}" $flags
        for name in address elsewhere named unknown wildcard either neither nothing uri; do show "$name"; done
        show address --tlsv1.2 --tls-max 1.2
        show address --tlsv1.3
        show address --ciphers ECDHE-ECDSA-AES256-GCM-SHA384 --tlsv1.2 --tls-max 1.2
        echo "> with none"
        curl -sS --http1.1 --max-time 20 --cacert "$work/ca.pem" "$url/members" 2>/dev/null || echo "curl fails"
        stop
    done
    start "$1" "$2" https "${with[@]}" --cipher-suites=TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
    echo ">> one suite, and nobody need be anybody"
    show address --ciphers ECDHE-ECDSA-AES256-GCM-SHA384 --tlsv1.2 --tls-max 1.2
    show address --ciphers ECDHE-ECDSA-AES128-GCM-SHA256 --tlsv1.2 --tls-max 1.2
    curl -sS --http1.1 --max-time 20 --cacert "$work/ca.pem" "$url/members"
    stop
    start "$1" "$2" https --peer-auto-tls
    echo ">> a certificate that is made"
    curl -sS --http1.1 --max-time 20 -k "$url/members"
    (cd "$work/$1.data" && find fixtures | LC_ALL=C sort)
    for name in subjectAltName extendedKeyUsage; do
        openssl x509 -in "$work/$1.data/fixtures/peer/cert.pem" -noout -subject -ext $name
    done
    stop
}

for name in tested reference; do
    binary=$server
    if [ $name = reference ]; then binary=$reference/etcd; fi
    start $name "$binary" http
    requests >"$work/$name.plain" 2>&1
    stop
    encrypted $name "$binary" >"$work/$name.encrypted" 2>&1
done
if [ "${URD_SHOW:-}" ]; then cat "$work/tested.plain" "$work/tested.encrypted"; fi
count=$(cat "$work"/reference.{plain,encrypted} | grep -a -c '^> ')
for kind in plain encrypted; do
    if ! diff -a -U 8 "$work/reference.$kind" "$work/tested.$kind"; then
        echo "peers: the server under test answers something else (+) than the reference (-)" >&2
        exit 1
    fi
done
echo "peers: $count requests, no difference"
