# jetcd of Maven's central repository. Its own suite starts containers: Driver.java is our own, not that library's suite.
version=0.8.6
at_least=15

prepare() {
    local tool
    for tool in mvn javac java; do
        command -v "$tool" >/dev/null || { echo "$tool is needed and not there" >&2; exit 1; }
    done
    once jars "$here/$client/pom.xml" "$here/$client/jars.sha256" -- jars
    once classes "$here/$client/Driver.java" -- classes
}

# Maven pins no hashes: they are in the file beside.
jars() {
    rm -rf "$cache/jars"
    mvn -q -B -f "$here/$client/pom.xml" dependency:copy-dependencies -DincludeScope=runtime -DoutputDirectory="$cache/jars"
    (cd "$cache/jars" && sha256sum --quiet --strict --check "$here/$client/jars.sha256")
    [ "$(ls "$cache/jars" | wc -l)" = "$(wc -l <"$here/$client/jars.sha256")" ] || { ls "$cache/jars"; exit 1; }
}

classes() { javac -d "$cache/classes" -cp "$cache/jars/*" "$here/$client/Driver.java"; }

suite() {
    start
    java -cp "$cache/classes:$cache/jars/*" Driver http://localhost:2379 results/steps.said
}
