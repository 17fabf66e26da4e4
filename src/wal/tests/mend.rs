//! Damages logs in every way that one block can be damaged, and has them mended from entries that somebody else has. What comes
//! of it is the log as it was, to the byte, or a refusal that changes nothing.

use std::collections::BTreeMap;

use super::{
    super::{
        bulk::UNREADABLE,
        mend::{self, Gift, Given, Mended, Wanted},
        record::HEADER_BYTES,
    },
    *,
};
use crate::limits::LOG_BLOCK_BYTES;

const BLOCK: usize = LOG_BLOCK_BYTES as usize;

/// Committed entries of another member, by index.
type Others = BTreeMap<u64, Given>;

fn given(entry: &LogEntry) -> (u64, Given) {
    let LogEntry { index, term, kind, .. } = *entry;
    (index, Given { index, term, kind, data: entry.data.clone() })
}

fn others_of(writes: &[Vec<Written>]) -> Others {
    let entries = writes.iter().flatten().filter_map(|written| match written {
        Written::Entry(entry) => Some(given(entry)),
        _ => None,
    });
    entries.collect()
}

/// As another member answers: a few at a time.
fn give(others: &Others, wanted: &Wanted<'_>) -> Result<Gift, String> {
    let entries: Vec<Given> = others.range(wanted.from..=wanted.to).take(3).map(|(_, given)| given.clone()).collect();
    match entries.first() {
        Some(first) if first.index == wanted.from => Ok(Gift { entries, giver: "another".into() }),
        _ => Err("nobody has them".into()),
    }
}

fn nobody(_: &Wanted<'_>) -> Result<Gift, String> {
    Err("nobody is there".into())
}

fn mended(
    dir: &Dir,
    options: &Options,
    ask: &mut dyn FnMut(&Wanted<'_>) -> Result<Gift, String>,
) -> (Result<Recovered, RecoveryError>, Vec<Mended>) {
    let mut told = Vec::new();
    let recovered = mend::recover(dir, options, ask, &mut |mended| told.push(mended.clone()));
    (recovered, told)
}

fn in_memory() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

fn files(dir: &Dir) -> BTreeMap<u32, Vec<u8>> {
    let lives = dir.list().unwrap().segments;
    lives.into_iter().map(|life| (life, fs::read(dir.segment_path(life)).unwrap())).collect()
}

/// Writes damaged bytes in the place of a segment, and has them mended. None if the damage is none that a start refuses. True: it is
/// as it was. False: it is refused and nothing was changed.
fn heals(dir: &Dir, options: &Options, life: u32, sound: &[u8], damaged: &[u8], others: &Others) -> Option<bool> {
    let path = dir.segment_path(life);
    fs::write(&path, damaged).unwrap();
    let heals = match recovery::read(dir) {
        Err(RecoveryError::Damaged { gap: Some(_), .. }) => {
            let (recovered, told) = mended(dir, options, &mut |wanted| give(others, wanted));
            let after = fs::read(&path).unwrap();
            match recovered {
                Ok(_) => {
                    assert!(!told.is_empty());
                    assert!(after == sound, "mended to something else: {told:?}");
                    Some(true)
                }
                Err(RecoveryError::Damaged { what, .. }) => {
                    assert!(what.contains("it could not be mended: "), "{what}");
                    assert!(!told.is_empty() || after == damaged, "changed, and refused");
                    Some(false)
                }
                Err(other) => panic!("{other}"),
            }
        }
        _ => None,
    };
    fs::write(&path, sound).unwrap();
    heals
}

/// Of a record of moved values only what its header says of itself can be made anew.
#[test]
fn every_flipped_byte_is_mended_but_for_those_that_only_moved_values_know() {
    for crosses in [false, true] {
        let temp = in_memory();
        let writes = small_log(temp.path(), crosses);
        let others = others_of(&writes);
        let dir = Dir::open(temp.path()).unwrap();
        let extents = extents(temp.path());
        let kinds: Vec<&Written> = writes.iter().flatten().collect();
        let (mut healed, mut refused) = (0, 0);
        for (life, sound) in files(&dir) {
            for at in RECORDS_FROM as usize..sound.len() {
                let mut damaged = sound.clone();
                damaged[at] ^= 1 << (at % 8);
                let Some(heals) = heals(&dir, &SMALL, life, &sound, &damaged, &others) else { continue };
                let hit = extents.iter().position(|it| it.0 == life && (it.1..it.2).contains(&(at as u32))).unwrap();
                let within = at - extents[hit].1 as usize;
                let only_here = matches!(within, 12..16 | 40..48 | HEADER_BYTES..);
                let is_lost = matches!(kinds[hit], Written::Moved(..)) && only_here;
                assert_eq!(heals, !is_lost, "byte {at} of {life}: {:?} at {within}", kinds[hit]);
                healed += u32::from(heals);
                refused += u32::from(!heals);
            }
        }
        // Where the last write is the second, the moved values are in it.
        let (most, least) = if crosses { (300, 0) } else { (4000, 41) };
        assert!(healed > most && refused >= least, "{healed} {refused}");
    }
}

#[test]
fn what_is_left_of_a_record_is_enough_where_its_payload_is_whole() {
    let temp = in_memory();
    small_log(temp.path(), false);
    let dir = Dir::open(temp.path()).unwrap();
    let sound = fs::read(dir.segment_path(1)).unwrap();
    for at in [0, 4, 8, 16, 20, 22, 24, 31] {
        let mut damaged = sound.clone();
        let (_, record, ..) = extents(temp.path())[2];
        damaged[record as usize + at] ^= 4;
        fs::write(dir.segment_path(1), &damaged).unwrap();
        let (recovered, told) = mended(&dir, &SMALL, &mut nobody);
        assert!(recovered.is_ok(), "byte {at}");
        assert_eq!((told.len(), told[0].records, told[0].indexes.clone(), &told[0].giver), (1, 1, 2..3, &None));
        assert!(fs::read(dir.segment_path(1)).unwrap() == sound);
    }
    // The same with nobody to ask for what is not there any more.
    let (_, _, end, _) = extents(temp.path())[1];
    let mut damaged = sound.clone();
    damaged[end as usize - 1] ^= 4;
    fs::write(dir.segment_path(1), &damaged).unwrap();
    let Err(RecoveryError::Damaged { what, .. }) = mended(&dir, &SMALL, &mut nobody).0 else { panic!("from where?") };
    assert!(what.ends_with("it could not be mended: nobody is there"), "{what}");
    assert!(fs::read(dir.segment_path(1)).unwrap() == damaged);
}

/// A log as the raft core writes it, of so many writes: entries, a hard state whose commit index comes after them, here and there a
/// new term; gives what another member has of it.
fn busy_log(path: &Path, version: u32, seed: u64, count: usize) -> (Dir, Others) {
    let (dir, Recovered { mut writer, .. }) = begun_in(version, path);
    let mut random = seed;
    let mut below = move |bound: u64| {
        random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (random >> 33) % bound
    };
    let (mut index, mut term, mut vote, mut commit) = (0, 1, 0xe1, 0);
    let mut others = Others::new();
    for number in 0..count {
        for _ in 0..if number == 0 { 3 } else { below(40) * below(2) + below(3) } {
            index += 1;
            let len = if below(20) == 0 { below(9000) } else { below(150) };
            let data: Vec<u8> = (0..len).map(|_| below(256) as u8).collect();
            others.extend([given(&entry(&mut writer, index, term, &data))]);
        }
        if below(12) == 0 {
            (term, vote) = (term + 1 + below(2), [0, 0xe1, 0xe2][below(3) as usize]);
            writer.append_hard_state(term, vote, commit);
        }
        commit += below(index - commit + 1);
        if below(10) > 0 || !writer.is_open() {
            writer.append_hard_state(term, vote, commit);
        }
        write(&dir, &mut writer);
    }
    (dir, others)
}

#[test]
fn a_lost_block_is_mended_wherever_it_lies() {
    for (version, seed) in [(FORMAT_VERSION, 1), (FORMAT_VERSION, 2), (FORMAT_VERSION_WITHOUT_PLACE, 3)] {
        let temp = in_memory();
        let (dir, others) = busy_log(temp.path(), version, seed, 80);
        assert!(dir.list().unwrap().segments.len() > 3);
        let (mut healed, mut refused) = (0, 0);
        for (life, sound) in files(&dir) {
            for block in 1..sound.len() / BLOCK {
                let range = block * BLOCK..(block + 1) * BLOCK;
                let zeros = |bytes: &mut [u8]| bytes.fill(0);
                let noise = |bytes: &mut [u8]| {
                    bytes.iter_mut().enumerate().for_each(|(at, byte)| *byte = (at * 7 % 251) as u8);
                };
                let sector = |bytes: &mut [u8]| bytes[1024..1536].fill(0);
                for damage in [&zeros as &dyn Fn(&mut [u8]), &noise, &sector] {
                    let mut damaged = sound.clone();
                    damage(&mut damaged[range.clone()]);
                    match heals(&dir, &OPTIONS, life, &sound, &damaged, &others) {
                        Some(true) => healed += 1,
                        Some(false) => refused += 1,
                        None => {}
                    }
                }
            }
        }
        println!("version {version}: {healed} mended, {refused} refused");
        assert!(healed > 100 && refused * 20 < healed, "{healed} mended, {refused} refused");
    }
}

#[test]
fn another_entry_than_the_one_that_was_lost_is_not_taken() {
    let temp = in_memory();
    let writes = small_log(temp.path(), false);
    let others = others_of(&writes);
    let dir = Dir::open(temp.path()).unwrap();
    let sound = fs::read(dir.segment_path(1)).unwrap();
    // Entries 6 to 8 are of the second write.
    let of_write = extents(temp.path()).into_iter().filter(|it| (it.0, it.3) == (1, 2));
    let places: Vec<(u32, u32)> = of_write.map(|it| (it.1, it.2)).collect();
    let mut header = sound.clone();
    header[places[2].0 as usize..][..HEADER_BYTES].fill(0);
    let mut payload = sound.clone();
    payload[places[2].1 as usize - 1] ^= 1;
    for damaged in [header, payload] {
        let wrong: [&dyn Fn(&mut Given); 4] = [
            &|given| given.term += 1,
            &|given| given.kind = (given.kind + 1) % 3,
            &|given| given.data = given.data.slice(1..),
            &|given| {
                let mut data = given.data.to_vec();
                data[0] ^= 1;
                given.data = data.into();
            },
        ];
        for change in wrong {
            let mut others = others.clone();
            change(others.get_mut(&7).unwrap());
            assert_eq!(heals(&dir, &SMALL, 1, &sound, &damaged, &others), Some(false));
        }
        // None, or with other indexes than were asked for.
        for gift in [vec![], vec![others[&6].clone()], vec![others[&7].clone(), others[&9].clone()]] {
            fs::write(dir.segment_path(1), &damaged).unwrap();
            let mut ask = |_: &Wanted<'_>| Ok(Gift { entries: gift.clone(), giver: "a liar".into() });
            let (refused, told) = mended(&dir, &SMALL, &mut ask);
            let first_is_it = gift.first().is_some_and(|given| given.index == 7);
            match refused {
                Err(RecoveryError::Damaged { what, .. }) => assert!(what.contains("a liar has"), "{what}"),
                Ok(_) if first_is_it => assert!(fs::read(dir.segment_path(1)).unwrap() == sound),
                other => panic!("{:?} {told:?}", other.err()),
            }
        }
        assert_eq!(heals(&dir, &SMALL, 1, &sound, &damaged, &others), Some(true));
    }
}

#[test]
fn blocks_that_cannot_be_read_are_written_anew() {
    let temp = in_memory();
    let (dir, others) = busy_log(temp.path(), FORMAT_VERSION, 9, 60);
    let sound = files(&dir);
    let mut healed = 0;
    for (life, bytes) in &sound {
        let path = dir.segment_path(*life);
        for block in (BLOCK..bytes.len()).step_by(BLOCK) {
            UNREADABLE.with_borrow_mut(|lost| lost.push((path.clone(), block as u64)));
            let (recovered, told) = mended(&dir, &OPTIONS, &mut |wanted| give(&others, wanted));
            let is_readable = UNREADABLE.with_borrow_mut(|lost| std::mem::take(lost).is_empty());
            match recovered {
                Ok(_) => {
                    assert!(is_readable && !told.is_empty());
                    healed += 1;
                }
                // What is there may be the last write, or nothing: that is not known.
                Err(RecoveryError::Disk(_)) => assert!(told.is_empty() && !is_readable),
                Err(RecoveryError::Damaged { what, .. }) => assert!(what.contains("Input/output error"), "{what}"),
                Err(other) => panic!("{other}"),
            }
        }
    }
    assert!(files(&dir) == sound);
    assert!(healed > 30, "{healed}");
}

/// Entries that are applied may lie behind the checkpoint's position: then nothing before the first says which it is.
#[test]
fn the_first_record_behind_the_checkpoint_is_mended_and_those_before_it_in_its_segment() {
    let temp = in_memory();
    let (dir, Recovered { mut writer, .. }) = open(temp.path());
    let (mut state, mut others, mut position) = (State::new(2), Others::new(), None);
    for index in 1..=10u64 {
        let entry = entry(&mut writer, index, 1, &[index as u8; 700]);
        others.extend([given(&entry)]);
        writer.append_hard_state(1, 7, index - 1);
        write(&dir, &mut writer);
        if index <= 8 {
            state.apply_empty(index, 1);
        }
        if index == 5 {
            position = Some((writer.position(), writer.extents()));
        }
    }
    let (position, extents) = position.unwrap();
    let head = CheckpointHead { hard_state: HardState { term: 1, vote: 7, commit: 8 }, position, extents };
    dir.write_checkpoint(&state, &head, Pace::Hurried).unwrap();
    drop(writer);
    let sound = fs::read(dir.segment_path(1)).unwrap();
    for index in 1..=9 {
        for len in [4, 60, BLOCK] {
            let mut damaged = sound.clone();
            damaged[index * BLOCK..][..len].fill(0);
            let heals = heals(&dir, &OPTIONS, 1, &sound, &damaged, &others);
            // What a segment begins with follows something that is in another one, or nowhere.
            assert_eq!(heals, if index == 1 { None } else { Some(true) }, "{len} bytes of entry {index}");
        }
    }
}

#[test]
fn what_is_lost_in_several_places_is_mended_in_each() {
    let temp = in_memory();
    let (dir, others) = busy_log(temp.path(), FORMAT_VERSION, 5, 60);
    let sound = files(&dir);
    let placed = extents(temp.path());
    let last = placed.last().unwrap().3;
    let entries: Vec<_> = placed.iter().filter(|it| it.3 + 1 < last).step_by(40).collect();
    assert!(entries.len() > 4);
    for (life, from, ..) in &entries {
        let file = fs::File::options().write(true).open(dir.segment_path(*life)).unwrap();
        file.write_all_at(&[0; 24], u64::from(*from)).unwrap();
    }
    let (recovered, told) = mended(&dir, &OPTIONS, &mut |wanted| give(&others, wanted));
    recovered.map(drop).unwrap_or_else(|cause| panic!("{cause}"));
    assert_eq!(told.len(), entries.len());
    assert!(files(&dir) == sound);
}

#[test]
fn it_is_told_what_was_mended_and_by_whom() {
    let temp = in_memory();
    let writes = small_log(temp.path(), false);
    let others = others_of(&writes);
    let dir = Dir::open(temp.path()).unwrap();
    let (life, from, to, _) = extents(temp.path())[7];
    assert_eq!(life, 1);
    let file = fs::File::options().write(true).open(dir.segment_path(1)).unwrap();
    file.write_all_at(&vec![0; (to - from) as usize], from.into()).unwrap();
    let (_, told) = mended(&dir, &SMALL, &mut |wanted| give(&others, wanted));
    let [told] = &told[..] else { panic!("{told:?}") };
    assert_eq!((&told.file, told.records, told.indexes.clone()), (&dir.segment_path(1), 1, 6..7));
    assert_eq!((told.offset, told.giver.as_deref()), (from, Some("another")));
}
