//! Sets of keys as permissions name them: half-open intervals, merged, so that whether a request lies within them is one
//! search. (etcd: auth/range_perm_cache.go.)

use bytes::Bytes;

use crate::store::types::KeyRange;

/// The keys that somebody may read, or write: intervals in order, none of which touches another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ranges(Vec<Interval>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Interval {
    from: Bytes,
    /// None: everything from `from` on.
    end: Option<Bytes>,
}

impl Interval {
    /// Key and range end as a permission spells them.
    fn new(key: &Bytes, range_end: &Bytes) -> Self {
        let end = match KeyRange::new(key, range_end) {
            // The least key that is greater.
            KeyRange::One(key) => Some([key, &[0]].concat().into()),
            KeyRange::From(_) => None,
            KeyRange::Between(..) => Some(range_end.clone()),
        };
        Interval { from: key.clone(), end }
    }
}

impl Ranges {
    /// The union of intervals, each a key and a range end.
    pub fn union<'a>(granted: impl Iterator<Item = (&'a Bytes, &'a Bytes)>) -> Self {
        let mut intervals: Vec<Interval> = granted.map(|(key, end)| Interval::new(key, end)).collect();
        intervals.sort_by(|a, b| a.from.cmp(&b.from));
        let mut merged: Vec<Interval> = Vec::new();
        for next in intervals {
            match merged.last_mut() {
                Some(last) if last.end.as_ref().is_none_or(|end| next.from <= *end) => {
                    let further = match (&last.end, &next.end) {
                        (None, _) => false,
                        (Some(_), None) => true,
                        (Some(last), Some(next)) => next > last,
                    };
                    if further {
                        last.end = next.end;
                    }
                }
                _ => merged.push(next),
            }
        }
        Ranges(merged)
    }

    /// Whether all keys of a range are among them. Of a range that ends before it begins, and so holds none, the key alone
    /// counts; in etcd that depends on how its tree of intervals was filled.
    pub fn cover(&self, range: KeyRange<'_>) -> bool {
        let (from, end) = match range {
            KeyRange::One(key) => return self.stretch(key).is_some(),
            KeyRange::From(key) => (key, None),
            KeyRange::Between(key, end) => (key, Some(end)),
        };
        match (self.stretch(from), end) {
            (None, _) => false,
            (Some(None), _) => true,
            (Some(Some(_)), None) => false,
            (Some(Some(limit)), Some(end)) => end <= limit,
        }
    }

    /// Where the interval that holds a key ends: None if none holds it, nothing within if that has no end.
    pub fn stretch(&self, key: &[u8]) -> Option<Option<&[u8]>> {
        let after = self.0.partition_point(|interval| *interval.from <= *key);
        let interval = &self.0[after.checked_sub(1)?];
        match &interval.end {
            None => Some(None),
            Some(end) => (key < &end[..]).then_some(Some(end)),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn union(granted: &[(&str, &str)]) -> Ranges {
        let owned: Vec<(Bytes, Bytes)> =
            granted.iter().map(|(key, end)| (key.to_string().into(), end.to_string().into())).collect();
        Ranges::union(owned.iter().map(|(key, end)| (key, end)))
    }

    #[test]
    fn what_touches_is_one_interval_and_gaps_are_gaps() {
        let ranges = union(&[("a", "c"), ("c", "e"), ("g", ""), ("g\0", "h"), ("x", "\0")]);
        for (key, end, covered) in [
            ("a", "", true),
            ("a", "e", true),
            ("b", "d", true),
            ("a", "f", false),
            ("e", "", false),
            ("d", "c", true),
            ("f", "b", false),
            ("g", "h", true),
            ("g", "g\0\0", true),
            ("h", "", false),
            ("x", "\0", true),
            ("y", "z", true),
            ("w", "\0", false),
            ("a", "\0", false),
            ("0", "b", false),
        ] {
            assert_eq!(ranges.cover(KeyRange::new(key.as_bytes(), end.as_bytes())), covered, "{key:?} {end:?}");
        }
        assert!(!union(&[]).cover(KeyRange::One(b"a")));
    }

    proptest! {
        /// Beside sets of keys: all of one or two letters of three.
        #[test]
        fn the_union_holds_what_its_parts_hold(
            granted in prop::collection::vec(("[abc]{1,2}", prop::option::of("[abc]{1,2}")), 0..8),
            asked in ("[abc]{1,2}", prop::option::of("[abc]{1,2}")),
        ) {
            let keys: Vec<String> = ["a", "b", "c"]
                .iter()
                .flat_map(|first| ["", "a", "b", "c"].map(|second| format!("{first}{second}")))
                .collect();
            let owned: Vec<(Bytes, Bytes)> = granted
                .into_iter()
                .map(|(key, end)| (key.clone(), end.unwrap_or("\0".into())))
                .filter(|(key, end)| key < end || end == "\0")
                .map(|(key, end)| (key.into(), end.into()))
                .collect();
            let ranges = Ranges::union(owned.iter().map(|(key, end)| (key, end)));
            let holds = |key: &str| owned.iter().any(|(from, end)| KeyRange::new(from, end).contains(key.as_bytes()));
            for key in &keys {
                prop_assert_eq!(ranges.cover(KeyRange::One(key.as_bytes())), holds(key), "{}", key);
            }
            let (from, end) = (asked.0, asked.1.unwrap_or("\0".into()));
            let range = KeyRange::new(from.as_bytes(), end.as_bytes());
            let inside: Vec<&String> = keys.iter().filter(|key| range.contains(key.as_bytes())).collect();
            if ranges.cover(range) {
                prop_assert!(inside.iter().all(|key| holds(key)), "{:?} {:?}", from, end);
            }
        }
    }
}
