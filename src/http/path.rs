//! Paths and queries as Go reads them. (Go: net/url, path.Clean, http.ServeMux.)

/// Undoes percent-encoding; None where it is broken, or hides what is not UTF-8.
pub(super) fn decode(text: &str) -> Option<String> {
    if !text.contains('%') {
        return Some(text.to_owned());
    }
    let digit = |byte: Option<u8>| (byte? as char).to_digit(16).map(|digit| digit as u8);
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        out.push(match byte {
            b'%' => digit(bytes.next())? << 4 | digit(bytes.next())?,
            byte => byte,
        });
    }
    String::from_utf8(out).ok()
}

pub(super) enum Cleaned {
    AsItStands,
    Elsewhere(String),
}

/// A path without empty, `.` and `..` parts; a slash at the end stays.
pub(super) fn clean(path: &str) -> Cleaned {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => _ = parts.pop(),
            part => parts.push(part),
        }
    }
    let mut clean = format!("/{}", parts.join("/"));
    if path.ends_with('/') && clean != "/" {
        clean.push('/');
    }
    if clean == path { Cleaned::AsItStands } else { Cleaned::Elsewhere(clean) }
}

/// A host without its port; as it stands where it has none.
pub(super) fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, _)) if name.starts_with('[') && name.ends_with(']') => &name[1..name.len() - 1],
        Some((name, _)) if !name.contains(':') => name,
        _ => host,
    }
}

/// The pairs of a query, in order. Those that Go cannot read it leaves out.
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    pub fn new(text: &str) -> Self {
        let value = |text: &str| decode(&text.replace('+', " "));
        let pairs = text.split('&').filter(|pair| !pair.is_empty() && !pair.contains(';'));
        Query(
            pairs
                .filter_map(|pair| {
                    let (key, text) = pair.split_once('=').unwrap_or((pair, ""));
                    Some((value(key)?, value(text)?))
                })
                .collect(),
        )
    }

    pub fn has(&self, key: &str) -> bool {
        self.0.iter().any(|(found, _)| found == key)
    }

    pub fn first(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(found, _)| found == key).map(|(_, value)| value.as_str())
    }

    pub fn all<'a, 'k>(&'a self, key: &'k str) -> impl Iterator<Item = &'a str> + use<'a, 'k> {
        self.0.iter().filter(move |(found, _)| found == key).map(|(_, value)| value.as_str())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cleaned(path: &str) -> String {
        match clean(path) {
            Cleaned::AsItStands => path.to_owned(),
            Cleaned::Elsewhere(clean) => clean,
        }
    }

    #[test]
    fn paths_are_cleaned_as_gos_mux_does() {
        for (path, clean) in [
            ("/health", "/health"),
            ("//health", "/health"),
            ("/a/../health", "/health"),
            ("/health/", "/health/"),
            ("/./", "/"),
            ("/..", "/"),
            ("/a/.", "/a"),
            ("", "/"),
        ] {
            assert_eq!(cleaned(path), clean, "{path}");
        }
    }

    #[test]
    fn queries_are_read_as_go_reads_them() {
        let query = Query::new("exclude=A&exclude=&a+b=c%20d&verbose&bad=%zz&x=1;y=2");
        assert_eq!(query.all("exclude").collect::<Vec<_>>(), ["A", ""]);
        assert_eq!(query.first("a b"), Some("c d"));
        assert!(query.has("verbose") && !query.has("bad") && !query.has("x"));
    }

    #[test]
    fn ports_are_taken_off() {
        for (host, name) in [("a:1", "a"), ("a", "a"), ("[::1]:2", "::1"), ("::1", "::1"), ("", "")] {
            assert_eq!(without_port(host), name);
        }
    }

    proptest! {
        #[test]
        fn nothing_makes_them_panic(text in "\\PC*") {
            let _ = (decode(&text), Query::new(&text), without_port(&text));
            prop_assert!(matches!(clean(&cleaned(&text)), Cleaned::AsItStands));
        }
    }
}
