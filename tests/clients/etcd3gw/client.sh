# etcd3gw of PyPI, OpenStack's client: it speaks to the JSON gateway.
version=2.7.0
at_least=35

prepare() {
    once environment "$here/$client/environment.txt" -- python "$cache/environment" "$here/$client/environment.txt"
    once source "$here/$client/source.txt" -- sdist "$cache/source" "$here/$client/source.txt"
}

suite() {
    cp -r "$cache/source" source
    cd source
    start
    "$cache/environment/bin/python" -m pytest -p no:cacheprovider --junit-xml=../results/tests.xml etcd3gw/tests
}
