//! Looks all sealed segments through, round after round, for what is not what was written, and mends it while the member
//! serves. Values that lie in a damaged record are asked of other members and put at the log's end, as values that are moved;
//! once that is durable their events point there. Nothing is written in place. What a read has met (`wal/doubts.rs`) is
//! looked through at once.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    io,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;

use super::{
    core::sealed,
    driver::Driver,
    segments::io_of,
    space::{Mended, NotMoved},
};
use crate::{
    limits, log,
    observe::log::shown,
    runtime,
    store::{
        index::Index,
        types::{Place, Revision},
    },
    wal::{
        bulk::Pieces,
        doubts::Doubts,
        record::{MOVED_ITEM_BYTES, MovedValue},
        scrub::{Check, Damage, Findings},
    },
};

/// A value that is asked of other members.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    pub revision: Revision,
    /// Bytes of the value.
    pub len: u32,
    /// CRC-32C of the key: what is told is of the same key, or of another history.
    pub key_crc: u32,
}

pub struct Scrub {
    driver: Rc<Driver>,
    /// In which all segments are looked through once; zero: never.
    interval: Duration,
    round: Round,
    doubts: Arc<Doubts>,
    /// Segments that were found damaged, or that a read has doubted.
    known: BTreeMap<u32, Known>,
}

/// How far the segments have been looked through.
struct Round {
    /// By the clock: intervals since 1970.
    number: u64,
    /// The last segment that was looked at; 0: none yet.
    last: u32,
}

/// What is known of a segment in which something was found.
struct Known {
    /// Where the damage begins that the operator was told of.
    told: BTreeSet<u32>,
    /// Values that nobody has.
    unmended: u64,
    /// A read has met damage since it was looked through last.
    is_doubted: bool,
    /// How often it was looked through for that, and not before when it is again.
    tries: u32,
    again: Instant,
}

/// How long to rest between two pieces of a segment.
#[derive(Clone, Copy)]
enum Rest {
    /// Nobody waits.
    Long,
    /// Somebody could not read.
    Short,
}

impl Rest {
    fn duration(self) -> Duration {
        Duration::from_millis(match self {
            Rest::Long => limits::SCRUB_REST_MS,
            Rest::Short => limits::BULK_REST_MS,
        })
    }
}

impl Scrub {
    pub fn new(driver: Rc<Driver>) -> Self {
        let doubts = driver.core().writer().table().doubts().clone();
        let interval = Duration::from_millis(driver.member().config.scrub_interval_ms);
        Scrub { driver, interval, round: Round { number: 0, last: 0 }, doubts, known: BTreeMap::new() }
    }

    /// Runs until the executor ends.
    pub async fn run(mut self) {
        self.begin_round();
        loop {
            while let Some(life) = self.doubts.take() {
                self.doubted(life);
            }
            self.forget();
            match self.due() {
                Some((life, rest)) => self.look_through(life, rest).await,
                None => {
                    let (doubts, wait) = (self.doubts.clone(), self.wait());
                    runtime::timeout(wait, doubts.any()).await;
                }
            }
        }
    }

    /// Sealed segments that are read from their files, by life.
    fn segments(&self) -> Vec<u32> {
        let core = self.driver.core();
        sealed(core.writer()).filter(|segment| !segment.is_in_memory()).map(|segment| segment.life()).collect()
    }

    fn doubted(&mut self, life: u32) {
        let now = runtime::now();
        self.known.entry(life).or_insert_with(|| Known::new(now)).is_doubted = true;
    }

    /// Of segments that have gone nothing is known.
    fn forget(&mut self) {
        let core = self.driver.core();
        let table = core.writer().table();
        self.known.retain(|life, _| table.get(*life).is_some());
        let unmended: u64 = self.known.values().map(|known| known.unmended).sum();
        self.driver.member().metrics.core.damaged_values.set(unmended as i64);
    }

    // ---- when ----

    /// Where the round is by the clock, in intervals since 1970: so a member that is started again goes on about where it was.
    fn clock(&self) -> Option<(u64, u64)> {
        let interval = u64::try_from(self.interval.as_millis()).ok().filter(|interval| *interval > 0)?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |it| it.as_millis() as u64);
        Some((now / interval, now % interval))
    }

    fn begin_round(&mut self) {
        let Some((number, into)) = self.clock() else { return };
        let segments = self.segments();
        let before = share(into, self.interval, segments.len()).checked_sub(1);
        self.round = Round { number, last: before.map_or(0, |before| segments[before]) };
    }

    /// What is to be looked through now.
    fn due(&mut self) -> Option<(u32, Rest)> {
        let now = runtime::now();
        let waits = self.known.iter().find(|(_, known)| known.wants_a_look() && known.again <= now);
        if let Some((life, _)) = waits {
            return Some((*life, Rest::Short));
        }
        let (number, into) = self.clock()?;
        let segments = self.segments();
        let mut next = segments.partition_point(|life| *life <= self.round.last);
        if next == segments.len() && self.round.number != number {
            self.round = Round { number, last: 0 };
            next = 0;
        }
        let is_late = self.round.number != number;
        let life = *segments.get(next).filter(|_| is_late || next <= share(into, self.interval, segments.len()))?;
        self.round.last = life;
        Some((life, Rest::Long))
    }

    /// How long until there may be something to do.
    fn wait(&self) -> Duration {
        let now = runtime::now();
        let again = self.known.values().filter(|known| known.wants_a_look()).map(|known| known.again - now).min();
        let look = Duration::from_millis(limits::SCRUB_LOOK_MS);
        let round = if self.interval.is_zero() { look } else { look.min(self.interval) };
        again.map_or(round, |again| again.min(round)).max(Duration::from_millis(limits::SCRUB_REST_MS))
    }

    // ---- what ----

    async fn look_through(&mut self, life: u32, rest: Rest) {
        let findings = match self.check(life, rest).await {
            Ok(Some(findings)) => findings,
            // It has gone, or is about to.
            Ok(None) => {
                self.known.remove(&life);
                return;
            }
            Err(cause) => {
                let file = self.driver.files.dir().segment_path(life);
                let what = "a segment of the log cannot be looked through for damage; trying again";
                log!(Warn, what, "file" = shown(file.display()), "error" = shown(&cause));
                let now = runtime::now();
                let known = self.known.entry(life).or_insert_with(|| Known::new(now));
                known.looked(now, known.unmended);
                known.is_doubted = true;
                return;
            }
        };
        let news = self.tell(life, &findings);
        let mended = self.mend(life, findings, news).await;
        let now = runtime::now();
        if news || mended.left > 0 || self.known.contains_key(&life) {
            self.known.entry(life).or_insert_with(|| Known::new(now)).looked(now, mended.left);
        }
        if mended.done > 0 || mended.left > 0 && news {
            let file = self.driver.files.dir().segment_path(life);
            self.driver.member().metrics.core.mended_values.add(mended.done);
            if mended.left == 0 {
                log!(
                    Info,
                    "values of a damaged segment were fetched from other members and written anew",
                    "file" = shown(file.display()),
                    "values" = mended.done
                );
            } else {
                log!(
                    Error,
                    "values of a damaged segment are with no other member that answers; they are refused to who asks for \
                     them, and asked for again",
                    "file" = shown(file.display()),
                    "values" = mended.left,
                    "values-mended" = mended.done,
                    "cure" = "start the other members; of a member alone restore a snapshot, or overwrite the keys"
                );
            }
        }
    }

    /// Reads a segment whole, from the disk, piece by piece. None if it is not there any more.
    async fn check(&self, life: u32, rest: Rest) -> io::Result<Option<Findings>> {
        let Some((used, mut check)) = self.begin_check(life) else { return Ok(None) };
        let dir = self.driver.files.dir().clone();
        let mut pieces = None;
        loop {
            // Held while it is read from: its file is not recycled meanwhile.
            let Some(segment) = self.driver.core().writer().table().get(life).cloned() else { return Ok(None) };
            let dir = dir.clone();
            let (read, now_pieces, now_check) = runtime::bulk(move || {
                let read = read_piece(|| dir.segment_pieces(life).map_err(io_of), &mut pieces, &mut check);
                drop(segment);
                (read, pieces, check)
            })
            .await;
            (pieces, check) = (now_pieces, now_check);
            match read? {
                0 => return Ok(Some(check.finish(used))),
                count => self.driver.member().metrics.core.scrubbed_bytes.add(count as u64),
            }
            runtime::sleep(rest.duration()).await;
        }
    }

    /// And where the segment's records end, if that is known.
    fn begin_check(&self, life: u32) -> Option<(Option<u32>, Check)> {
        let core = self.driver.core();
        let segment = core.writer().table().get(life).filter(|segment| !segment.is_in_memory())?;
        // It is not of some that no checkpoint has named, and so no value is in them.
        let has_values = core.state().index.usage().of(life).is_some();
        let used = Some(segment.used()).filter(|used| *used < segment.size() || has_values);
        Some((used, Check::new(life, segment.size(), segment.seed())))
    }

    /// Tells the operator what was not known before; whether there was something.
    fn tell(&mut self, life: u32, findings: &Findings) -> bool {
        if findings.damage.is_empty() {
            return false;
        }
        let now = runtime::now();
        let known = self.known.entry(life).or_insert_with(|| Known::new(now));
        let file = self.driver.files.dir().segment_path(life);
        let mut news = false;
        for Damage { from, to, index, what } in &findings.damage {
            if known.told.insert(*from) {
                news = true;
                self.driver.member().metrics.core.damaged_records.increment();
                log!(
                    Warn,
                    "a record of the log is damaged",
                    "file" = shown(file.display()),
                    "offset" = u64::from(*from),
                    "bytes" = u64::from(to - from),
                    "index" = *index,
                    "error" = *what
                );
            }
        }
        news
    }

    /// Has the values that a segment does not give any more asked of other members, and written anew. `news`: of damage that
    /// was not known.
    async fn mend(&self, life: u32, findings: Findings, news: bool) -> Outcome {
        let outcome = self.mend_values(life, findings).await;
        if news || outcome.done > 0 {
            // Where there is no room for what is left of the segment, it stays where it is.
            let _ = self.hand_over(life, Vec::new()).await;
        }
        outcome
    }

    async fn mend_values(&self, life: u32, findings: Findings) -> Outcome {
        let mut outcome = Outcome::default();
        let findings = Arc::new(findings);
        let Some(usage) = self.driver.core().state().index.usage().of(life) else { return outcome };
        let mut from = Some(Revision::new(usage.oldest, 0));
        let mut asks = true;
        while let Some(begin) = from {
            let (index, findings) = (self.driver.core().state().index.clone(), findings.clone());
            let slice = runtime::bulk(move || unsound(&index, life, &findings, begin, usage.newest)).await;
            from = slice.next;
            let count = slice.values.len() as u64;
            if count == 0 || !asks {
                outcome.left += count;
                continue;
            }
            let values = self.fetch(&slice).await;
            let fetched = values.len() as u64;
            // Where others have none of so many, or there is no room for them, the rest is left for another time.
            asks = fetched > 0 && self.hand_over(life, values).await.is_ok();
            let done = if asks { fetched } else { 0 };
            outcome.done += done;
            outcome.left += count - done;
        }
        outcome
    }

    /// Asks the other members.
    async fn fetch(&self, slice: &Slice) -> Vec<MovedValue> {
        // One that several events share is asked for once.
        let mut places = HashMap::new();
        let mut wanted = Vec::new();
        for (place, one) in &slice.values {
            places.entry(*place).or_insert_with(|| {
                wanted.push(*one);
                wanted.len() - 1
            });
        }
        let told = self.driver.values_of_others(wanted).await;
        let moved = slice.values.iter().filter_map(|(place, one)| {
            let value: Bytes = told[places[place]].clone()?;
            Some(MovedValue { revision: one.revision, from: *place, value })
        });
        moved.collect()
    }

    /// Has what was fetched written, as soon as no other job moves anything; if that is nothing, the segment emptied.
    async fn hand_over(&self, life: u32, values: Vec<MovedValue>) -> Result<(), NotMoved> {
        let (mended, done) = Mended::new(life, values);
        self.driver.hand_over_mended(mended);
        done.await
    }
}

/// What has become of the values of a segment that cannot be read.
#[derive(Clone, Copy, Debug, Default)]
struct Outcome {
    done: u64,
    left: u64,
}

impl Known {
    fn new(now: Instant) -> Self {
        Known { told: BTreeSet::new(), unmended: 0, is_doubted: false, tries: 0, again: now }
    }

    fn wants_a_look(&self) -> bool {
        self.is_doubted || self.unmended > 0
    }

    /// It has been looked through. The next time for the same reason comes ever later.
    fn looked(&mut self, now: Instant, unmended: u64) {
        let doubled = limits::MEND_AGAIN_MS << self.tries.min(32);
        self.again = now + Duration::from_millis(doubled.min(limits::MEND_AGAIN_MS_MAX));
        self.tries += 1;
        (self.is_doubted, self.unmended) = (false, unmended);
    }
}

/// The segment of so many that is due so far into an interval.
fn share(into_ms: u64, interval: Duration, segments: usize) -> usize {
    (u128::from(into_ms) * segments as u128 / interval.as_millis().max(1)) as usize
}

/// Feeds one more piece of a file into a check; 0 at its end.
fn read_piece(
    open: impl FnOnce() -> io::Result<Pieces>,
    pieces: &mut Option<Pieces>,
    check: &mut Check,
) -> io::Result<usize> {
    let pieces = match pieces {
        Some(pieces) => pieces,
        None => pieces.insert(open()?),
    };
    let piece = pieces.read_on()?;
    check.feed(piece);
    Ok(piece.len())
}

/// Values that a segment does not give any more.
#[derive(Default)]
struct Slice {
    values: Vec<(Place, Wanted)>,
    bytes: usize,
    /// Where to go on.
    next: Option<Revision>,
}

/// As many of them as one question may ask for, from a revision on.
fn unsound(index: &Index, life: u32, findings: &Findings, from: Revision, through: i64) -> Slice {
    let mut slice = Slice::default();
    for event in index.event_refs(from, through) {
        let (revision, place) = (event.meta.revision, event.meta.place);
        if place.len == 0 || place.segment != life || findings.vouch_for(place) {
            continue;
        }
        let is_full = slice.values.len() >= limits::MEND_VALUES_MAX || slice.bytes >= limits::MEND_BYTES_MAX;
        if is_full {
            slice.next = Some(revision);
            break;
        }
        slice.bytes += place.len as usize + MOVED_ITEM_BYTES;
        let key_crc = crc32c::crc32c(event.key);
        slice.values.push((place, Wanted { revision, len: place.len, key_crc }));
    }
    slice
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_segment_has_its_share_of_a_day() {
        let day = Duration::from_secs(24 * 3600);
        let hour = 3_600_000;
        assert_eq!([0, 1, 12, 23].map(|hours| share(hours * hour, day, 24)), [0, 1, 12, 23]);
        assert_eq!((share(24 * hour - 1, day, 5), share(24 * hour - 1, day, 0)), (4, 0));
        assert_eq!(share(hour, day, 1_000_000_000), 41_666_666);
    }

    #[test]
    fn it_is_looked_again_ever_more_seldom() {
        let now = Instant::now();
        let mut known = Known::new(now);
        let mut waited = Vec::new();
        for _ in 0..100 {
            known.looked(now, 1);
            waited.push(known.again - now);
        }
        assert_eq!(waited[..3], [5, 10, 20].map(Duration::from_secs));
        assert_eq!(waited[99], Duration::from_secs(3600));
        assert!(waited.is_sorted() && known.wants_a_look());
        known.looked(now, 0);
        assert!(!known.wants_a_look());
    }

    #[test]
    fn values_that_nothing_vouches_for_are_wanted_a_part_at_a_time() {
        const LEN: u32 = 10;
        let mut index = Index::new();
        let count = limits::MEND_VALUES_MAX as i64 * 3;
        for main in 2..2 + count {
            // Every other one in another segment, and one after the other in this one.
            let place = Place { segment: 7 + (main % 2) as u32, offset: 4096 + main as u32 * LEN, len: LEN };
            index.put(Revision::new(main, 0), format!("key{main}").as_bytes(), 0, place);
        }
        let damage = |from, to| Damage { from, to, index: 1, what: "" };
        let at = |main: u32| 4096 + main * LEN;
        // Within a value, over two of them, and behind the last record.
        let damage = vec![damage(at(4) + 3, at(4) + 4), damage(at(8), at(10) + 1)];
        let findings = Findings { damage, end: at(100) };
        let first = unsound(&index, 7, &findings, Revision::ZERO, i64::MAX);
        let mains = |slice: &Slice| slice.values.iter().map(|(_, one)| one.revision.main).collect::<Vec<_>>();
        assert_eq!(mains(&first)[..5], [4, 8, 10, 100, 102]);
        assert_eq!(first.values.len(), limits::MEND_VALUES_MAX);
        let (place, one) = first.values[1];
        assert_eq!((place.offset, one.len, one.key_crc), (at(8), LEN, crc32c::crc32c(b"key8")));
        let second = unsound(&index, 7, &findings, first.next.unwrap(), i64::MAX);
        assert_eq!(second.next, None);
        let all: Vec<i64> = mains(&first).into_iter().chain(mains(&second)).collect();
        let wanted: Vec<i64> = [4, 8, 10].into_iter().chain((100..2 + count).step_by(2)).collect();
        assert_eq!(all, wanted);
    }
}
