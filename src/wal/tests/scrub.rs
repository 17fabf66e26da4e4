//! Looking through segments finds each byte of a record that is not what was written, tells of nothing else, and vouches for no
//! value that a read would refuse.

use std::{collections::BTreeMap, fs};

use super::{
    super::{
        record::{HEADER_BYTES, Header},
        scrub::{Check, Findings, check},
    },
    *,
};

/// A sealed segment of a small log: its bytes, how far it is written, and its records from the first byte to the one behind.
struct Sealed {
    bytes: Vec<u8>,
    header: SegmentHeader,
    used: u32,
    records: Vec<(u32, u32)>,
}

impl Sealed {
    fn size(&self) -> u32 {
        self.bytes.len() as u32
    }

    fn check(&self, bytes: &[u8]) -> Findings {
        self.check_until(bytes, Some(self.used))
    }

    fn check_until(&self, bytes: &[u8], used: Option<u32>) -> Findings {
        check(bytes, self.header.life, self.size(), self.header.seed(), used)
    }

    fn payload(&self, (from, to): (u32, u32)) -> Place {
        let offset = from + HEADER_BYTES as u32;
        Place { segment: self.header.life, offset, len: to - offset }
    }

    /// Whether a read of the file gives a record's payload.
    fn is_read(&self, dir: &Path, record: (u32, u32)) -> bool {
        let segment = segment::Segment::in_file(dir, &self.header, self.used);
        let Place { offset, len, .. } = self.payload(record);
        len == 0 || segment.read_blocking(offset, len).is_ok()
    }
}

fn sealed(path: &Path) -> Vec<Sealed> {
    let mut records = BTreeMap::<u32, Vec<(u32, u32)>>::new();
    for (life, from, to, _) in extents(path) {
        records.entry(life).or_default().push((from, to));
    }
    let read = |(life, records): (u32, Vec<(u32, u32)>)| {
        let bytes = Dir::look_at(path).read_segment(life).unwrap();
        let header = SegmentHeader::decode(&bytes).unwrap();
        let used = records.last().unwrap().1.next_multiple_of(4096);
        Sealed { bytes, header, used, records }
    };
    records.into_iter().map(read).collect()
}

#[test]
fn each_byte_of_a_record_is_found_and_no_other() {
    for crosses in [false, true] {
        let temp = tempfile::tempdir().unwrap();
        small_log(temp.path(), crosses);
        for segment in sealed(temp.path()) {
            let end = segment.records.last().unwrap().1.next_multiple_of(record::ALIGN);
            assert_eq!(segment.check(&segment.bytes), Findings { damage: Vec::new(), end });
            let mut bytes = segment.bytes.clone();
            for at in 0..segment.size() {
                bytes[at as usize] ^= 0x10;
                let found = segment.check(&bytes);
                let hit = segment.records.iter().position(|(from, to)| (*from..*to).contains(&at));
                // In the last record's block, where a start would not take it for zeros either.
                let in_padding = hit.is_none() && (end..segment.used).contains(&at);
                let spots: Vec<(u32, u32)> = found.damage.iter().map(|one| (one.from, one.to)).collect();
                if at < RECORDS_FROM {
                    assert_eq!(spots, [(0, RECORDS_FROM)], "byte {at}");
                } else if let Some(hit) = hit {
                    let (from, to) = segment.records[hit];
                    let [(begin, behind)] = spots[..] else { panic!("byte {at}: {:?}", found.damage) };
                    assert!(begin <= from && to <= behind, "byte {at}: {:?}", found.damage);
                    // It costs the values of its own record alone.
                    for (number, record) in segment.records.iter().enumerate() {
                        let place = segment.payload(*record);
                        let vouched = found.vouch_for(place);
                        assert_eq!(vouched, number != hit || place.len == 0 && vouched, "byte {at}, record {number}");
                    }
                } else {
                    assert_eq!(spots.len(), usize::from(in_padding), "byte {at}: {:?}", found.damage);
                    assert!(segment.records.iter().all(|record| found.vouch_for(segment.payload(*record))), "{at}");
                }
                bytes[at as usize] ^= 0x10;
            }
        }
    }
}

/// Blocks that are zeros, noise, or what lies in another block of the log: what is vouched for is what was written and what a read
/// gives, and something is found if anything is refused.
#[test]
fn what_is_vouched_for_is_what_is_read() {
    let temp = tempfile::tempdir().unwrap();
    small_log(temp.path(), true);
    let mut refused = 0;
    let segments = sealed(temp.path());
    for segment in &segments {
        let file =
            fs::File::options().write(true).open(temp.path().join(segment::file_name(segment.header.life))).unwrap();
        let blocks = segment.bytes.len() / 4096;
        let others: Vec<&[u8]> = segments.iter().flat_map(|segment| segment.bytes.chunks(4096)).collect();
        for (to, with) in (1..blocks).flat_map(|to| {
            let own = &segment.bytes[to * 4096..][..4096];
            let others = others.iter().copied().filter(move |other| *other != own);
            others.chain([&[0; 4096][..], &[0xa5; 4096]]).map(move |with| (to, with))
        }) {
            let mut bytes = segment.bytes.clone();
            bytes[to * 4096..][..4096].copy_from_slice(with);
            file.write_all_at(&bytes, 0).unwrap();
            let found = segment.check(&bytes);
            for record in &segment.records {
                let place = segment.payload(*record);
                if place.len > 0 && found.vouch_for(place) {
                    assert!(segment.is_read(temp.path(), *record), "block {to}, {record:?}: {found:?}");
                    let range = place.offset as usize..(place.offset + place.len) as usize;
                    assert_eq!(bytes[range.clone()], segment.bytes[range]);
                } else if place.len > 0 {
                    refused += 1;
                    assert!(!found.damage.is_empty(), "block {to}, {record:?}");
                }
            }
            // Whatever the pieces in which it comes.
            for piece in [1, 7, 48, 4096, 5000] {
                let mut check = Check::new(segment.header.life, segment.size(), segment.header.seed());
                bytes.chunks(piece).for_each(|piece| check.feed(piece));
                assert_eq!(check.finish(Some(segment.used)), found);
            }
        }
        file.write_all_at(&segment.bytes, 0).unwrap();
    }
    assert!(refused > 20);
}

/// The end is believed where it is not known how far the segment was written, and a file that is cut short is not.
#[test]
fn a_segment_ends_where_nothing_follows() {
    let temp = tempfile::tempdir().unwrap();
    small_log(temp.path(), false);
    let segment = &sealed(temp.path())[0];
    assert_eq!(segment.check_until(&segment.bytes, None).damage, []);
    let last = *segment.records.last().unwrap();
    for until in [last.0 + 10, last.0 + 60, last.1 - 1] {
        let found = segment.check(&segment.bytes[..until as usize]);
        assert_eq!(found.damage.len(), 1, "cut at {until}: {found:?}");
        assert!(!found.vouch_for(segment.payload(last)));
    }
}

/// What a file holds of its former life is nothing, and neither is a copy of a record within a value.
#[test]
fn former_lives_and_copies_prove_nothing() {
    let temp = tempfile::tempdir().unwrap();
    small_log(temp.path(), false);
    let segment = &sealed(temp.path())[0];
    // All of it written once more, under the next number, over the first two records.
    let mut bytes = segment.bytes.clone();
    let header = SegmentHeader { life: 9, ..segment.header };
    bytes[..4096].copy_from_slice(&header.encode());
    let of_first = Header::decode(&bytes[4096..], header.seed().at(4096), segment.header.life).unwrap().0;
    let payload = &bytes[segment.payload(segment.records[0]).offset as usize..][..of_first.len as usize].to_vec();
    let (encoded, _) = Header { life: 9, ..of_first }.encode(header.seed().at(4096));
    bytes[4096..][..HEADER_BYTES].copy_from_slice(&encoded);
    bytes[4096 + HEADER_BYTES + payload.len()..8192].fill(0);
    let end = (4096 + HEADER_BYTES + payload.len()).next_multiple_of(8) as u32;
    let found = check(&bytes, 9, segment.size(), header.seed(), Some(8192));
    assert_eq!(found, Findings { damage: Vec::new(), end });

    // A value that holds the first record, in a record whose header is gone.
    let (from, to) = *segment.records.iter().max_by_key(|(from, to)| to - from).unwrap();
    let mut bytes = segment.bytes.clone();
    let first = segment.records[0];
    let at = (from + HEADER_BYTES as u32 + 64) as usize;
    bytes.copy_within(first.0 as usize..first.1 as usize, at);
    bytes[from as usize] ^= 1;
    let found = segment.check(&bytes);
    assert_eq!(found.damage.len(), 1, "{found:?}");
    assert!(found.damage[0].from <= from && found.damage[0].to >= to);
}
