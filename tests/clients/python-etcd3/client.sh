# etcd3 of PyPI, the one over gRPC. Its tests are of pytest; they call etcdctl as well.
version=0.12.0
at_least=75

prepare() {
    once environment "$here/$client/environment.txt" -- python "$cache/environment" "$here/$client/environment.txt"
    once source "$here/$client/source.txt" -- sdist "$cache/source" "$here/$client/source.txt"
}

suite() {
    cp -r "$cache/source" source
    cd source
    local left_out=() name
    for name in $(not_runnable); do left_out+=(--deselect "tests/test_etcd3.py::${name/./::}"); done
    start
    # What its strategies draw is drawn anew each time, and some of it etcdctl takes for a flag: the seed makes both servers
    # meet the same, at each run.
    TEST_ETCD_VERSION=v3.7.3 "$cache/environment/bin/python" -m pytest -p no:cacheprovider --hypothesis-seed=2 \
        --junit-xml=../results/tests.xml "${left_out[@]}" tests
}
