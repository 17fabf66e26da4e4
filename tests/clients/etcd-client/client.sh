# etcd-client of crates.io: its tests and its examples. The tests want a user root; they turn authentication on and off themselves.
version=0.21.1
at_least=40

prepare() {
    once fetched "$here/$client/Cargo.toml" "$here/$client/Cargo.lock" "$here/$client/protoc.txt" -- fetch
    (cd "$cache/source" &&
        PROTOC=$cache/protoc.sh CARGO_TARGET_DIR=$cache/build cargo test --quiet --locked --no-run --message-format=json) \
        >"$cache/built.json"
}

fetch() {
    # The folder's Cargo.lock pins the crate by its hash. Its own, which it is released with, pins what it is built from.
    local found
    found=$(cargo metadata --locked --format-version=1 --manifest-path "$here/$client/Cargo.toml" | python3 -c '
import json, os, sys
for package in json.load(sys.stdin)["packages"]:
    if package["name"] == "etcd-client":
        print(os.path.dirname(package["manifest_path"]))')
    rm -rf "$cache/source"
    cp -r "$found" "$cache/source"
    # A workspace of its own, for it lies within the folder of another.
    printf '\n[workspace]\n' >>"$cache/source/Cargo.toml"

    rm -rf "$cache/protoc"
    python3 -m pip install -q --no-deps --only-binary :all: --target "$cache/protoc" -r "$here/$client/protoc.txt"
    printf '#!/bin/sh\nPYTHONPATH=%s exec python3 -m grpc_tools.protoc -I%s "$@"\n' \
        "'$cache/protoc'" "'$cache/protoc/grpc_tools/_proto'" >"$cache/protoc.sh"
    chmod +x "$cache/protoc.sh"
}

start_with_root() {
    start "$@"
    etcdctl user add root --new-user-password=rootpwd
    etcdctl user grant-role root root
}

suite() {
    python3 -c '
import json, sys
for line in sys.stdin:
    artifact = json.loads(line)
    kind = artifact.get("target", {}).get("kind", [""])[0]
    if artifact.get("executable") and kind != "custom-build":
        print(kind, artifact["target"]["name"], artifact["executable"])' <"$cache/built.json" >programs
    start_with_root --auth-token-ttl=2
    not_runnable >left_out
    local kind name program status
    while read -r kind name program; do
        if [ "$kind" != example ]; then
            timeout 300 "$program" >"results/$name.cargo" || true
        fi
    done <programs
    stop
    start_with_root
    while read -r kind name program; do
        if [ "$kind" = example ] && ! grep -qx "example_$name" left_out; then
            status=0
            timeout 60 "$program" || status=$?
            echo "$status" >"results/example_$name.exit"
        fi
    done <programs
    stop
    # What is ignored unless the server is of 3.7 and given to small messages.
    start --max-request-bytes=10240
    program=$(awk '$2 == "client" { print $3 }' programs)
    timeout 60 "$program" --ignored test_get_stream >results/stream.cargo || true
}
