# etcd3 of npm. Its release has no tests: driver.js is our own, not that library's suite.
version=1.1.2
at_least=20

prepare() {
    local tool
    for tool in node npm; do
        command -v "$tool" >/dev/null || { echo "$tool is needed and not there" >&2; exit 1; }
    done
    once modules "$here/$client/package.json" "$here/$client/package-lock.json" -- install
}

install() {
    cp "$here/$client/package.json" "$here/$client/package-lock.json" "$cache"
    (cd "$cache" && npm ci --ignore-scripts --no-audit --no-fund)
}

suite() {
    start
    NODE_PATH=$cache/node_modules node "$here/$client/driver.js" localhost:2379 results/steps.said
}
