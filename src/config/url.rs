//! The URLs of flags: `scheme://host:port`, nothing more, checked with etcd's texts. (etcd: types.NewURLs; Go: net/url.)

use std::net::IpAddr;

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Url {
    /// `http`, `https`, `unix` or `unixs`.
    pub scheme: String,
    /// What follows: `host:port`, or the socket's path.
    pub authority: String,
}

impl std::fmt::Display for Url {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}://{}", self.scheme, self.authority)
    }
}

impl Url {
    pub fn is_tls(&self) -> bool {
        matches!(self.scheme.as_str(), "https" | "unixs")
    }

    pub fn is_socket_file(&self) -> bool {
        matches!(self.scheme.as_str(), "unix" | "unixs")
    }

    /// Host without brackets, and port. Empty for a socket file.
    pub fn host_and_port(&self) -> (&str, &str) {
        split_host_port(&self.authority).unwrap_or(("", ""))
    }

    /// Whether one can listen there: etcd wants an address, not a name that might resolve to another machine.
    pub fn check_bind(&self) -> Result<(), String> {
        if self.is_socket_file() {
            return Ok(());
        }
        let (host, port) = self.host_and_port();
        if host != "localhost" && host.parse::<IpAddr>().is_err() {
            return Err(format!("expected IP in URL for binding ({self})"));
        }
        check_port(self, port)
    }

    /// Whether others can be told of it.
    pub fn check_host(&self) -> Result<(), String> {
        if !self.is_socket_file() && self.host_and_port().0.is_empty() {
            return Err(format!("unexpected empty host ({self})"));
        }
        Ok(())
    }
}

fn check_port(url: &Url, port: &str) -> Result<(), String> {
    match port.parse::<u16>() {
        Ok(_) => Ok(()),
        Err(_) => Err(format!("expected a port from 0 to 65535 in URL for binding ({url})")),
    }
}

/// URLs separated by commas, sorted, each once.
pub fn parse_list(text: &str) -> Result<Vec<Url>, String> {
    let mut urls = text.split(',').map(parse).collect::<Result<Vec<_>, _>>()?;
    urls.sort_by_key(|url| url.to_string());
    urls.dedup();
    Ok(urls)
}

pub fn parse(text: &str) -> Result<Url, String> {
    let text = text.trim();
    if text.chars().any(|letter| letter.is_ascii_control()) {
        return Err(format!("parse {text:?}: net/url: invalid control character in URL"));
    }
    // Go takes for a scheme only what begins with a letter, and before the first slash of a path it wants no colon.
    if !text.starts_with(|letter: char| letter.is_ascii_alphabetic() || letter == '/') {
        if text.starts_with(':') {
            return Err(format!("parse {text:?}: missing protocol scheme"));
        }
        if text.split('/').next().is_some_and(|first| first.contains(':')) {
            return Err(format!("parse {text:?}: first path segment in URL cannot contain colon"));
        }
    }
    let bad_scheme = || format!("URL scheme must be http, https, unix, or unixs: {text}");
    let (scheme, rest) = text.split_once(':').ok_or_else(bad_scheme)?;
    let scheme = scheme.to_ascii_lowercase();
    match scheme.as_str() {
        "http" | "https" => {}
        "unix" | "unixs" => {
            let path = rest.strip_prefix("//").unwrap_or(rest);
            return Ok(Url { scheme, authority: path.to_owned() });
        }
        _ => return Err(bad_scheme()),
    }
    let no_port = || format!("URL address does not have the form \"host:port\": {text}");
    let rest = rest.strip_prefix("//").ok_or_else(no_port)?;
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    if let Some(letter) = authority.chars().find(|letter| " \"<>\\^`{|}@".contains(*letter)) {
        return Err(format!("parse {text:?}: invalid character {:?} in host name", letter.to_string()));
    }
    let (_, port) = split_host_port(authority).ok_or_else(no_port)?;
    if !port.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(format!("parse {text:?}: invalid port {:?} after host", format!(":{port}")));
    }
    if !path.is_empty() {
        return Err(format!("URL must not contain a path: {text}"));
    }
    Ok(Url { scheme, authority: authority.to_owned() })
}

/// `net.SplitHostPort`: brackets around a host with colons, exactly one colon otherwise.
fn split_host_port(authority: &str) -> Option<(&str, &str)> {
    if let Some(rest) = authority.strip_prefix('[') {
        let (host, rest) = rest.split_once(']')?;
        let port = rest.strip_prefix(':')?;
        return (!port.contains(':')).then_some((host, port));
    }
    let (host, port) = authority.rsplit_once(':')?;
    (!host.contains([':', '[', ']'])).then_some((host, port))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn urls_are_read() {
        let url = parse(" HTTP://127.0.0.1:2379").unwrap();
        assert_eq!(url.to_string(), "http://127.0.0.1:2379");
        assert_eq!(url.host_and_port(), ("127.0.0.1", "2379"));
        assert_eq!(parse("https://[::1]:1").unwrap().host_and_port(), ("::1", "1"));
        assert!(parse("unix:///run/urd").unwrap().is_socket_file());
        let list = parse_list("http://b:1,http://a:1,http://b:1").unwrap();
        assert_eq!(list.iter().map(Url::to_string).collect::<Vec<_>>(), ["http://a:1", "http://b:1"]);
    }

    #[test]
    fn what_etcd_refuses_is_refused_in_its_words() {
        for (text, error) in [
            ("foo", "URL scheme must be http, https, unix, or unixs: foo"),
            ("", "URL scheme must be http, https, unix, or unixs: "),
            ("127.0.0.1:1", "parse \"127.0.0.1:1\": first path segment in URL cannot contain colon"),
            (":1", "parse \":1\": missing protocol scheme"),
            ("localhost:1", "URL scheme must be http, https, unix, or unixs: localhost:1"),
            ("ftp://a:1", "URL scheme must be http, https, unix, or unixs: ftp://a:1"),
            ("http://127.0.0.1", "URL address does not have the form \"host:port\": http://127.0.0.1"),
            ("http://::1:2", "URL address does not have the form \"host:port\": http://::1:2"),
            ("http://127.0.0.1:1/x", "URL must not contain a path: http://127.0.0.1:1/x"),
            ("http://a b:1", "parse \"http://a b:1\": invalid character \" \" in host name"),
            ("http://a:x", "parse \"http://a:x\": invalid port \":x\" after host"),
        ] {
            assert_eq!(parse(text), Err(error.to_owned()));
        }
        let bind = |text: &str| parse(text).unwrap().check_bind();
        assert_eq!(bind("http://foo.bar:23"), Err("expected IP in URL for binding (http://foo.bar:23)".into()));
        assert_eq!(bind("http://:23"), Err("expected IP in URL for binding (http://:23)".into()));
        assert!(bind("http://localhost:23").is_ok());
        assert!(bind("http://localhost:70000").is_err());
        let host = parse("http://:1").unwrap().check_host();
        assert_eq!(host, Err("unexpected empty host (http://:1)".into()));
    }

    proptest! {
        #[test]
        fn nothing_makes_it_panic(text in "\\PC*", host in "[a-z:\\[\\]@/.0-9]*") {
            let _ = parse_list(&text);
            if let Ok(url) = parse(&format!("http://{host}")) {
                let _ = (url.check_bind(), url.check_host());
                prop_assert_eq!(parse(&url.to_string()), Ok(url));
            }
        }
    }
}
