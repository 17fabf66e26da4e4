//! The versions urd tells. Wherever etcd's protocols carry a version it is that of the etcd which urd implements, for
//! clients and other members decide by it what they may ask; urd's own is told beside it.

/// The etcd release whose behaviour is implemented.
pub const ETCD: &str = "3.7.3";

/// The cluster version that a member of that release proposes.
pub const CLUSTER: &str = "3.7.0";

/// The version of the storage's schema that it states.
pub const STORAGE: &str = "3.7.0";

/// The first of those versions.
pub const OLDEST_SCHEMA: &str = "3.6.0";

/// The oldest cluster version that a member of that release can be part of.
pub const MIN_CLUSTER: &str = "3.0.0";

/// urd's own release.
pub const URD: &str = env!("CARGO_PKG_VERSION");

/// The release that a member states to others, who decide by it which version the cluster states: its own, or one of an
/// older release, `max`, that it is held to.
pub fn stated(max: &str) -> String {
    match CLUSTER.strip_suffix(".0") == Some(max) {
        true => ETCD.to_owned(),
        false => format!("{max}.0"),
    }
}

/// Major and minor of `major.minor.patch` and what may follow it. (Go: go-semver, NewVersion.)
pub fn parse(text: &str) -> Option<(i64, i64)> {
    let (text, metadata) = text.split_once('+').unwrap_or((text, ""));
    let (text, pre_release) = text.split_once('-').unwrap_or((text, ""));
    let is_identifier = |part: &str| part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-.".contains(&byte));
    if !is_identifier(metadata) || !is_identifier(pre_release) {
        return None;
    }
    let mut parts = text.splitn(3, '.').map(|part| part.parse::<i64>().ok());
    let (major, minor, _) = (parts.next()??, parts.next()??, parts.next()??);
    Some((major, minor))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn others_are_told_of_no_newer_release_than_it_is_held_to() {
        assert_eq!(stated("3.7"), ETCD);
        assert_eq!(stated("3.6"), "3.6.0");
        assert_eq!(parse(&stated("3.6")), Some((3, 6)));
    }
}
