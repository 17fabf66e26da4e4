use proptest::prelude::*;

use super::{
    read::{Bucket, Database, Entry, ReadError},
    write::{Part, Planner, Writer},
    *,
};

/// A bucket's name and its entries.
type Named = (String, Vec<(Vec<u8>, Vec<u8>)>);

/// A file of these buckets, values put in afterwards, pages taken as soon as there are some.
fn written(buckets: &[Named]) -> Vec<u8> {
    let mut planner = Planner::default();
    for (name, entries) in buckets {
        planner.bucket(name, entries.iter().map(|(key, value)| (key.len(), value.len())));
    }
    let layout = planner.finish();
    let planned = layout.bytes();
    let (mut file, mut writer) = (Vec::new(), Writer::new(layout));
    for (at, (_, entries)) in buckets.iter().enumerate() {
        for (number, (key, value)) in entries.iter().enumerate() {
            let (head, tail) = value.split_at(value.len() / 3);
            // A part of it later.
            let (middle, end) = tail.split_at(tail.len() / 2);
            writer.entry(key, &[Part::Bytes(head), Part::Later((at, number), middle.len()), Part::Bytes(end)]);
        }
        writer.end_bucket();
        take(&mut writer, buckets, &mut file);
    }
    writer.finish();
    take(&mut writer, buckets, &mut file);
    assert_eq!(file.len() as u64, planned);
    file
}

fn take(writer: &mut Writer<(usize, usize)>, buckets: &[Named], file: &mut Vec<u8>) {
    for hole in writer.take_holes() {
        let value = &buckets[hole.what.0].1[hole.what.1].1;
        let tail = &value[value.len() / 3..];
        writer.out()[hole.at..hole.at + hole.len].copy_from_slice(&tail[..tail.len() / 2]);
    }
    assert_eq!(writer.out().len() % PAGE_BYTES, 0, "whole pages");
    let pages = writer.out().split();
    file.extend_from_slice(&pages);
}

fn read(file: &[u8]) -> Result<Vec<Named>, ReadError> {
    let database = Database::open(file, "the file")?;
    let mut buckets = Vec::new();
    for (name, bucket) in database.buckets()? {
        let mut entries = Vec::new();
        database.each(&bucket, &mut |key, entry| match entry {
            Entry::Value(value) => {
                entries.push((key.to_vec(), value.to_vec()));
                Ok(())
            }
            Entry::Bucket(_) => Err("a bucket within".into()),
        })?;
        buckets.push((String::from_utf8_lossy(&name).into_owned(), entries));
    }
    // Once more, now that no page may be in two buckets.
    let mut again = Vec::new();
    database.each_bucket(&mut |_, key, entry| {
        if let Entry::Value(value) = entry {
            again.push((key.to_vec(), value.to_vec()));
        }
        Ok(())
    })?;
    assert!(buckets.iter().flat_map(|(_, entries)| entries).eq(&again));
    Ok(buckets)
}

fn numbered(count: usize, value: usize) -> Vec<(Vec<u8>, Vec<u8>)> {
    (0..count).map(|at| (format!("key{at:08}").into_bytes(), vec![at as u8; value])).collect()
}

/// Page kinds and how many of a branch page's children there are, for what bbolt relies on.
fn branch_counts(file: &[u8]) -> Vec<u16> {
    let mut counts = Vec::new();
    let mut at = 0;
    while at < file.len() {
        let head = PageHead::decode(&file[at..]).unwrap();
        assert_eq!(head.id as usize * PAGE_BYTES, at, "pages follow one another");
        if head.flags == BRANCH_PAGE {
            counts.push(head.count);
        }
        at += (1 + head.overflow as usize) * PAGE_BYTES;
    }
    counts
}

#[test]
fn trees_of_every_height_are_read_as_they_were_written() {
    for (count, value) in
        [(0, 0), (1, 0), (3, 10), (40, 10), (50, 100), (3000, 100), (70_000, 30), (5, 5000), (9, 100_000)]
    {
        let buckets = vec![("a".into(), numbered(2, 5)), ("b".into(), numbered(count, value)), ("c".into(), vec![])];
        let file = written(&buckets);
        assert_eq!(read(&file).unwrap(), buckets, "{count} of {value} bytes");
        assert!(branch_counts(&file).iter().all(|count| *count >= 2));
    }
    assert_eq!(read(&written(&[])).unwrap(), []);
}

#[test]
fn keys_that_fill_pages_alone_make_branch_pages_of_two() {
    let entries: Vec<_> = (0..20u8).map(|at| ([vec![at], vec![b'k'; 5000]].concat(), vec![at; 3])).collect();
    let buckets = vec![("long".to_owned(), entries)];
    let file = written(&buckets);
    assert_eq!(read(&file).unwrap(), buckets);
    assert!(branch_counts(&file).iter().all(|count| *count == 2 || *count == 3), "{:?}", branch_counts(&file));
}

#[test]
fn small_buckets_lie_in_the_page_of_their_names() {
    let buckets = vec![("a".to_owned(), numbered(3, 5)), ("b".to_owned(), vec![])];
    let file = written(&buckets);
    assert_eq!(file.len(), 4 * PAGE_BYTES);
    let database = Database::open(&file[..], "f").unwrap();
    assert!(database.buckets().unwrap().iter().all(|(_, bucket)| matches!(bucket, Bucket::Inline { within: 3, .. })));
}

#[test]
#[should_panic(expected = "as it was planned")]
fn a_bucket_that_is_not_as_it_was_planned_is_a_mistake() {
    let mut planner = Planner::default();
    planner.bucket("a", [(3, 3)]);
    let mut writer = Writer::<()>::new(planner.finish());
    writer.entry(b"abc", &[Part::Bytes(b"abcd")]);
    writer.end_bucket();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]
    #[test]
    fn whatever_is_written_is_read(
        buckets in prop::collection::btree_map(
            "[a-z]{1,8}",
            prop::collection::btree_map(
                prop::collection::vec(any::<u8>(), 1..40),
                prop_oneof![9 => 0usize..200, 1 => 0usize..20_000],
                0..300,
            ),
            0..5,
        ),
    ) {
        let buckets: Vec<Named> = buckets
            .into_iter()
            .map(|(name, entries)| {
                let entries = entries.into_iter().map(|(key, len)| {
                    let value = (0..len).map(|at| at as u8 ^ key[0]).collect();
                    (key, value)
                });
                (name, entries.collect())
            })
            .collect();
        let file = written(&buckets);
        prop_assert_eq!(read(&file).unwrap(), buckets);
        prop_assert!(branch_counts(&file).iter().all(|count| *count >= 2));
    }
}

// ---- what bbolt itself may leave ----

fn put_meta(file: &mut [u8], page: usize, meta: &Meta) {
    file[page * PAGE_BYTES + PAGE_HEAD_BYTES..][..META_BYTES].copy_from_slice(&meta.encode());
}

fn sample() -> (Vec<Named>, Vec<u8>) {
    let buckets = vec![("a".to_owned(), numbered(3, 5)), ("b".to_owned(), numbered(400, 50))];
    let file = written(&buckets);
    (buckets, file)
}

#[test]
fn of_two_metas_the_sound_one_of_the_later_transaction_counts() {
    let (buckets, file) = sample();
    let meta = *Database::open(&file[..], "f").unwrap().meta();
    assert_eq!((meta.transaction, meta.page_bytes), (2, 4096));
    for broken in [0, 1] {
        let mut file = file.clone();
        file[broken * PAGE_BYTES + 40] ^= 1;
        assert_eq!(read(&file).unwrap(), buckets, "meta {broken} is broken");
    }
    // A root that leads nowhere, in the meta that does not count.
    let elsewhere = Meta { root: 2, ..meta };
    let mut older = file.clone();
    put_meta(&mut older, 1, &Meta { transaction: 1, ..elsewhere });
    assert_eq!(read(&older).unwrap(), buckets);
    let mut newer = file.clone();
    put_meta(&mut newer, 1, &Meta { transaction: 3, ..elsewhere });
    assert!(read(&newer).is_err());
    let mut none = file;
    none[40] ^= 1;
    none[PAGE_BYTES + 40] ^= 1;
    assert!(matches!(read(&none), Err(ReadError::NoDatabase { .. })));
    assert!(matches!(read(&[]), Err(ReadError::NoDatabase { .. })));
}

#[test]
fn a_file_may_keep_no_list_of_free_pages_or_a_long_one() {
    let (buckets, mut file) = sample();
    let mut meta = *Database::open(&file[..], "f").unwrap().meta();
    let free = meta.pages;
    // Free pages at the end, listed as a list too long for its field lists them.
    meta.pages += 3;
    file.extend(std::iter::repeat_n(0xee, 3 * PAGE_BYTES));
    file[2 * PAGE_BYTES + 10..][..2].copy_from_slice(&[0xff, 0xff]);
    for (at, number) in [3, free, free + 1, free + 2].into_iter().enumerate() {
        file[2 * PAGE_BYTES + 16 + 8 * at..][..8].copy_from_slice(&number.to_le_bytes());
    }
    put_meta(&mut file, 0, &meta);
    assert_eq!(read(&file).unwrap(), buckets);
    let mut in_use = file.clone();
    in_use[2 * PAGE_BYTES + 24..][..8].copy_from_slice(&4u64.to_le_bytes());
    let told = read(&in_use).unwrap_err().to_string();
    assert!(told.contains("page 4 of the file is damaged: it is free, or belongs to something else"), "{told}");
    put_meta(&mut file, 0, &Meta { freelist: None, ..meta });
    assert_eq!(read(&file).unwrap(), buckets);
}

// ---- damage ----

#[test]
fn damage_is_refused_with_file_and_page() {
    let (_, file) = sample();
    let database = Database::open(&file[..], "f").unwrap();
    let Bucket::Tree(root) = database.buckets().unwrap()[1].1 else { panic!("the second is a tree") };
    let branch = root as usize * PAGE_BYTES;
    assert_eq!(PageHead::decode(&file[branch..]).unwrap().flags, BRANCH_PAGE);
    let damaged = |at: usize, byte: u8| {
        let mut file = file.clone();
        assert_ne!(file[at], byte);
        file[at] = byte;
        read(&file).unwrap_err().to_string()
    };
    let told = |told: String, wanted: &str| assert!(told.contains(wanted), "{told}\nwanted: {wanted}");
    told(damaged(branch, 0), &format!("page {root} of the file is damaged: it says that it is page"));
    told(damaged(branch + 8, 8), "its kind is 0x8");
    told(damaged(branch + 10, 0), "it leads nowhere");
    told(damaged(branch + 12, 200), "it goes on to page");
    // The second child is the first once more.
    told(damaged(branch + 16 + 16 + 8, file[branch + 16 + 8]), "it is free, or belongs to something else as well");
    // The place of an entry's key.
    told(damaged(3 * PAGE_BYTES + 16 + 7, 0xff), "page 3 of the file is damaged: its entry 0 does not lie in it");
    let key = file.windows(11).position(|bytes| bytes == b"key00000001").unwrap();
    told(damaged(key + 10, b'0'), "the key of its entry 1 is out of order");
    let short = &file[..file.len() - 1];
    told(read(short).unwrap_err().to_string(), "the file holds");
}

#[test]
fn no_flipped_byte_makes_it_fall_over() {
    let buckets = vec![
        ("a".to_owned(), numbered(3, 5)),
        ("b".to_owned(), numbered(200, 20)),
        ("c".to_owned(), numbered(2, 5000)),
    ];
    let file = written(&buckets);
    let mut refused = 0;
    for at in 0..file.len() {
        let mut file = file.clone();
        file[at] ^= [1, 0x80, 0xff][at % 3];
        refused += usize::from(read(&file).is_err());
    }
    // Every number that leads somewhere, and no value.
    assert!((500..file.len() / 2).contains(&refused), "{refused} of {} were told", file.len());
}

proptest! {
    #[test]
    fn no_file_makes_it_fall_over(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..30),
        end in any::<prop::sample::Index>(),
        whole in any::<bool>(),
    ) {
        let (_, mut file) = sample();
        for (at, byte) in changes {
            let at = at.index(file.len());
            file[at] = byte;
        }
        if !whole {
            file.truncate(end.index(file.len()));
        }
        let _ = read(&file);
    }
}
