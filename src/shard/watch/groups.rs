//! Which watches want an event: watches of one range form a group, and an event finds its groups by its key. Knows
//! ranges and the slots of watches in them, nothing else.
//!
//! A single key is found by hash. Ranges hang in an interval tree: a treap in order of start, each node knowing the
//! furthest end beneath it. So an event costs O(log n) and O(log n) for each group it finds, with any mixture of
//! ranges: nested prefixes, disjoint ones, everything from a key on. (A hash per length of prefix would be faster for
//! prefixes alone, but needs a second structure for the rest, and many lengths make it slow.) A treap because it
//! keeps its balance without rotations to get wrong, and its links are four numbers in the group itself.

use std::{cmp::Ordering, hash::BuildHasher};

use hashbrown::{DefaultHashBuilder, HashTable};
use slab::Slab;
use smallvec::SmallVec;

use crate::{random::Random, store::types::KeyRange};

/// No slot.
pub const NONE: u32 = u32::MAX;

/// The watches of one range.
struct Group {
    /// The range as requests spell it: `end` is empty for one key, a zero byte for everything from `key` on.
    key: Box<[u8]>,
    end: Box<[u8]>,
    /// Slots of the watches. Most ranges have one or few.
    members: SmallVec<[u32; 4]>,
    left: u32,
    right: u32,
    priority: u32,
    /// The group of the furthest end in this subtree.
    furthest: u32,
}

impl Group {
    fn range(&self) -> KeyRange<'_> {
        KeyRange::new(&self.key, &self.end)
    }

    fn ends_after(&self, key: &[u8]) -> bool {
        *self.end == [0] || *self.end > *key
    }
}

#[derive(Default)]
pub struct Groups {
    groups: Slab<Group>,
    /// Every group, found by its range.
    by_range: HashTable<u32>,
    /// The treap of the groups that are more than one key.
    root: Option<u32>,
    hasher: DefaultHashBuilder,
    random: Random,
    bytes: usize,
}

impl Groups {
    /// Adds a watch; gives its group and its place among the group's members.
    pub fn add(&mut self, key: &[u8], end: &[u8], watch: u32) -> (u32, u32) {
        let hash = self.hasher.hash_one((key, end));
        let groups = &self.groups;
        let known = self.by_range.find(hash, |at| {
            let group = &groups[*at as usize];
            *group.key == *key && *group.end == *end
        });
        let at = match known {
            Some(at) => *at,
            None => self.insert(hash, key, end),
        };
        let members = &mut self.groups[at as usize].members;
        members.push(watch);
        (at, members.len() as u32 - 1)
    }

    /// Takes out the member at a place. Gives the watch that has moved there, if one has.
    pub fn remove(&mut self, at: u32, place: u32) -> Option<u32> {
        let members = &mut self.groups[at as usize].members;
        members.swap_remove(place as usize);
        let moved = members.get(place as usize).copied();
        if members.is_empty() {
            self.forget(at);
        }
        moved
    }

    pub fn members(&self, at: u32) -> &[u32] {
        &self.groups[at as usize].members
    }

    pub fn range(&self, at: u32) -> KeyRange<'_> {
        self.groups[at as usize].range()
    }

    /// Bytes of keys and ends held.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Tells each group whose range holds `key`.
    pub fn find(&self, key: &[u8], found: &mut dyn FnMut(u32)) {
        let end: &[u8] = &[];
        let exact = self.by_range.find(self.hasher.hash_one((key, end)), |at| {
            let group = &self.groups[*at as usize];
            group.end.is_empty() && *group.key == *key
        });
        if let Some(at) = exact {
            found(*at);
        }
        self.stab(self.root.unwrap_or(NONE), key, found);
    }

    fn stab(&self, at: u32, key: &[u8], found: &mut dyn FnMut(u32)) {
        if at == NONE {
            return;
        }
        let group = &self.groups[at as usize];
        if !self.groups[group.furthest as usize].ends_after(key) {
            return;
        }
        self.stab(group.left, key, found);
        if *group.key <= *key {
            if group.ends_after(key) {
                found(at);
            }
            self.stab(group.right, key, found);
        }
    }

    fn insert(&mut self, hash: u64, key: &[u8], end: &[u8]) -> u32 {
        let group = Group {
            key: key.into(),
            end: end.into(),
            members: SmallVec::new(),
            left: NONE,
            right: NONE,
            // Priorities need to be independent of the keys, no more.
            priority: (self.random.draw() >> 32) as u32,
            furthest: NONE,
        };
        let at = self.groups.insert(group) as u32;
        self.bytes += key.len() + end.len();
        let Groups { groups, by_range, hasher, .. } = self;
        by_range.insert_unique(hash, at, |at| {
            let group = &groups[*at as usize];
            hasher.hash_one((&*group.key, &*group.end))
        });
        if !end.is_empty() {
            self.refresh(at);
            let root = self.plant(self.root.unwrap_or(NONE), at);
            self.root = Some(root);
        }
        at
    }

    fn forget(&mut self, at: u32) {
        let group = &self.groups[at as usize];
        let hash = self.hasher.hash_one((&*group.key, &*group.end));
        if !group.end.is_empty() {
            let root = self.uproot(self.root.unwrap_or(NONE), at);
            self.root = Some(root);
        }
        match self.by_range.find_entry(hash, |other| *other == at) {
            Ok(entry) => drop(entry.remove()),
            Err(_) => unreachable!("a group is found by its range"),
        }
        let group = self.groups.remove(at as usize);
        self.bytes -= group.key.len() + group.end.len();
    }

    // ---- the treap ----

    fn order(&self, a: u32, b: u32) -> Ordering {
        let (a, b) = (&self.groups[a as usize], &self.groups[b as usize]);
        (&a.key, &a.end).cmp(&(&b.key, &b.end))
    }

    /// The one of two groups that ends later; either may be none.
    fn further(&self, a: u32, b: u32) -> u32 {
        if a == NONE || b == NONE {
            return a.min(b);
        }
        let (first, second) = (&self.groups[a as usize], &self.groups[b as usize]);
        if *first.end == [0] || *second.end != [0] && first.end >= second.end { a } else { b }
    }

    fn refresh(&mut self, at: u32) {
        let Group { left, right, .. } = self.groups[at as usize];
        let beneath = |child: u32| if child == NONE { NONE } else { self.groups[child as usize].furthest };
        let furthest = self.further(self.further(at, beneath(left)), beneath(right));
        self.groups[at as usize].furthest = furthest;
    }

    fn plant(&mut self, at: u32, new: u32) -> u32 {
        if at == NONE {
            return new;
        }
        if self.groups[new as usize].priority > self.groups[at as usize].priority {
            let (left, right) = self.split(at, new);
            let group = &mut self.groups[new as usize];
            (group.left, group.right) = (left, right);
            self.refresh(new);
            return new;
        }
        if self.order(new, at) == Ordering::Less {
            let left = self.plant(self.groups[at as usize].left, new);
            self.groups[at as usize].left = left;
        } else {
            let right = self.plant(self.groups[at as usize].right, new);
            self.groups[at as usize].right = right;
        }
        self.refresh(at);
        at
    }

    /// Parts a subtree into what lies before `by` and what lies after.
    fn split(&mut self, at: u32, by: u32) -> (u32, u32) {
        if at == NONE {
            return (NONE, NONE);
        }
        if self.order(at, by) == Ordering::Less {
            let (left, right) = self.split(self.groups[at as usize].right, by);
            self.groups[at as usize].right = left;
            self.refresh(at);
            (at, right)
        } else {
            let (left, right) = self.split(self.groups[at as usize].left, by);
            self.groups[at as usize].left = right;
            self.refresh(at);
            (left, at)
        }
    }

    fn uproot(&mut self, at: u32, old: u32) -> u32 {
        if at == old {
            let Group { left, right, .. } = self.groups[at as usize];
            return self.join(left, right);
        }
        if self.order(old, at) == Ordering::Less {
            let left = self.uproot(self.groups[at as usize].left, old);
            self.groups[at as usize].left = left;
        } else {
            let right = self.uproot(self.groups[at as usize].right, old);
            self.groups[at as usize].right = right;
        }
        self.refresh(at);
        at
    }

    fn join(&mut self, left: u32, right: u32) -> u32 {
        if left == NONE || right == NONE {
            return left.min(right);
        }
        if self.groups[left as usize].priority > self.groups[right as usize].priority {
            let beneath = self.join(self.groups[left as usize].right, right);
            self.groups[left as usize].right = beneath;
            self.refresh(left);
            left
        } else {
            let beneath = self.join(left, self.groups[right as usize].left);
            self.groups[right as usize].left = beneath;
            self.refresh(right);
            right
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn name() -> impl Strategy<Value = Vec<u8>> {
        prop::collection::vec(prop::sample::select(vec![0u8, 1, b'a', b'b', 255]), 0..4)
    }

    /// Key, end, group and place of a watch.
    type Known = (Vec<u8>, Vec<u8>, u32, u32);

    proptest! {
        #[test]
        fn an_event_finds_exactly_the_groups_that_hold_its_key(
            ops in prop::collection::vec((name(), name(), any::<prop::sample::Index>(), 0u8..4), 1..120),
            keys in prop::collection::vec(name(), 1..30),
        ) {
            let mut groups = Groups::default();
            let mut watches: Vec<Option<Known>> = Vec::new();
            for (key, end, which, op) in ops {
                if op == 0 && !watches.is_empty() {
                    let which = which.index(watches.len());
                    if let Some((_, _, group, place)) = watches[which].take()
                        && let Some(moved) = groups.remove(group, place)
                    {
                        watches[moved as usize].as_mut().unwrap().3 = place;
                    }
                } else if end.is_empty() || end == [0] || key < end {
                    let (group, place) = groups.add(&key, &end, watches.len() as u32);
                    watches.push(Some((key, end, group, place)));
                }
            }
            for key in keys {
                let mut found = Vec::new();
                groups.find(&key, &mut |group| found.extend_from_slice(groups.members(group)));
                found.sort_unstable();
                let wanted: Vec<u32> = (0..watches.len() as u32)
                    .filter(|at| {
                        let watch = &watches[*at as usize];
                        watch.as_ref().is_some_and(|(from, end, ..)| KeyRange::new(from, end).contains(&key))
                    })
                    .collect();
                prop_assert_eq!(found, wanted);
            }
            let bytes: std::collections::BTreeSet<_> =
                watches.iter().flatten().map(|(key, end, ..)| (key.clone(), end.clone())).collect();
            prop_assert_eq!(groups.bytes(), bytes.iter().map(|(key, end)| key.len() + end.len()).sum::<usize>());
        }
    }

    #[test]
    fn ranges_in_order_stay_shallow() {
        let mut groups = Groups::default();
        for at in 0..20_000u32 {
            groups.add(&at.to_be_bytes(), &(at + 1).to_be_bytes(), at);
        }
        fn depth(groups: &Groups, at: u32) -> usize {
            match groups.groups.get(at as usize) {
                Some(group) => 1 + depth(groups, group.left).max(depth(groups, group.right)),
                None => 0,
            }
        }
        assert!(depth(&groups, groups.root.unwrap()) < 60);
        let mut found = Vec::new();
        groups.find(&777u32.to_be_bytes(), &mut |group| found.push(group));
        assert_eq!(found.len(), 1);
    }
}
