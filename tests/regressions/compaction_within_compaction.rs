//! A compaction that began while the sweep of the one before stood inside that one's last revision left the tombstones
//! there that the sweep had already passed: kept because they were exactly at the old target, they were never looked at
//! again, though they lay below the new one. They took memory for ever, and which ones stayed depended on timing.

use urd::store::{
    index::{Index, Progress},
    types::{Place, Revision},
};

#[test]
fn tombstones_at_the_old_target_go_with_the_new_one() {
    let mut index = Index::new();
    for (main, key) in [(2, b"a"), (3, b"b")] {
        index.set_current(main);
        index.put(Revision::new(main, 0), key, 0, Place::EMPTY);
    }
    index.set_current(4);
    index.delete(Revision::new(4, 0), b"a");
    index.delete(Revision::new(4, 1), b"b");
    index.set_current(5);
    index.put(Revision::new(5, 0), b"c", 0, Place::EMPTY);

    index.begin_compaction(4).unwrap();
    // Past the tombstone of a, before that of b.
    assert_eq!(index.compaction_step(3, &mut |_| {}), Progress::More);
    index.begin_compaction(5).unwrap();
    while index.compaction_step(1, &mut |_| {}) == Progress::More {}

    let left: Vec<_> = index.events(Revision::ZERO, 5).map(|event| event.key).collect();
    assert_eq!(left, ["c"]);
    assert_eq!(index.live_keys(), 1);
}
