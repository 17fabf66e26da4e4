# clientv3, by etcd's own integration suite of it: the examples, and the tests of KV, leases, watches, transactions, namespaces,
# users, maintenance, locks, elections, sessions, recipes and naming. The suite's members are processes of the server here, see
# process.go. Its packages of connectivity and of snapshots are left out: those cut off and stop members, these write etcd's files.
version=3.7.3
at_least=220
packages=". concurrency examples experimental/recipes lease naming watch"

# The module of the suite as it is released. What it is built with is in its own go.sum, its siblings in that of tests/stock.
module=go.etcd.io/etcd/tests/v3
module_sum=h1:zQEpHCKe1ZGEL67G4B/dvNXH7hZcP0BQM90ltrwecR4=

prepare() {
    command -v go >/dev/null || { echo "go is needed and not there" >&2; exit 1; }
    once source "$here/$client/process.go" "$root/tests/stock/go.sum" -- fetch
    local package
    for package in $packages; do
        (cd "$cache/source" && go test -c -o "$cache/built/$(named "$package").test" "./integration/clientv3/$package")
    done
    (cd "$cache/source" && go build -o "$cache/built/test2json" cmd/test2json)
}

named() { basename "$(realpath -m "/clientv3/$1")"; }

fetch() {
    mkdir -p "$cache/built"
    local found
    found=$(cd "$cache" && go mod download -json "$module@v$version")
    [ "$(field Sum <<<"$found")" = "$module_sum" ] || { echo "$module is not what it was: $found" >&2; exit 1; }
    rm -rf "$cache/source"
    cp -r "$(field Dir <<<"$found")" "$cache/source"
    chmod -R u+w "$cache/source"
    cd "$cache/source"
    # Its siblings as they are released, not in folders beside it.
    local sibling
    for sibling in api cache client/pkg client etcdctl etcdutl pkg server; do
        go mod edit -dropreplace="go.etcd.io/etcd/$sibling/v3"
    done
    grep '^go.etcd.io/etcd/' "$root/tests/stock/go.sum" >>go.sum
    # What only tests of the server itself need: a sibling that is not released, and another go than the one that is here.
    go mod edit -droprequire=go.etcd.io/etcd/cache/v3 -toolchain=none
    cp "$here/$client/process.go" framework/integration/process.go
    sed -i -E \
        -e 's/^func NewCluster\(/func embeddedNewCluster(/' \
        -e 's/^(func \(m \*Member\) )(Launch|Close|Stop|Restart|ID|ElectionTimeout|InjectPartition)\(/\1embedded\2(/' \
        -e 's/^(func \(m \*Member\) )(StopNotify|ReadyNotify|WaitOK|listenGRPC)\(/\1embedded\2(/' \
        -e 's/^(func \(c \*Cluster\) )(AddMember|AddAndLaunchLearnerMember|waitVersion|waitMembersForLeader)\(/\1embedded\2(/' \
        framework/integration/cluster.go
}

field() { python3 -c 'import json, sys; print(json.load(sys.stdin)[sys.argv[1]])' "$1"; }

suite() {
    local package name failed left_out ports=10000
    export SERVER=$server
    # All at once: they sleep more than they work, and each test has a server of its own.
    for package in $packages; do
        name=$(named "$package")
        left_out=$(not_runnable | sed -n "s/^$name\.//p" | paste -sd '|')
        one "$package" "$name" "$ports" -test.skip "^($left_out)\$" &
        ports=$((ports + 3000))
    done
    wait
    # What has failed is asked once more, with nothing beside it: many of these tests give an answer a second.
    for package in $packages; do
        name=$(named "$package")
        failed=$(sed -n 's|.*"Action":"fail".*"Test":"\([^"/]*\)".*|\1|p' "results/$name.json" | paste -sd '|')
        if [ "$failed" ]; then one "$package" "again-$name" "$ports" -test.run "^($failed)\$"; fi
    done
}

# one PACKAGE RESULT PORTS FLAG...
one() {
    local name=$2
    # Where the package lies, for it has files beside it.
    (cd "$cache/source/integration/clientv3/$1" &&
        PORTS=$3 SERVER_LOG=$work/$name.server.log \
            "$cache/built/$(named "$1").test" -test.v=test2json -test.timeout=300s "${@:4}" \
            >"$work/$name.text" 2>"$work/$name.log") || true
    "$cache/built/test2json" -p "$(named "$1")" <"$name.text" >"results/$name.json"
}
