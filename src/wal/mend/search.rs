//! The search for the records that lie between two that are known: every order of them that the writer could have written, with
//! every hard state that there may have been, within bounds. Knows bytes and entries; reads no files.

use std::ops::Range;

use bytes::Bytes;

use super::{
    super::{
        record::{self, ALIGN, HEADER_BYTES, Header, RECORDS_FROM, Type},
        recovery::Gap,
        replay::Image,
    },
    Ask, Blocks, Given, Part, Wanted, blocks, hard_state_of, votes,
};
use crate::{
    limits::{
        LOG_BLOCK_BYTES, MEND_COMMITS_MAX, MEND_HARD_STATES_MAX, MEND_RECORDS_MAX, MEND_STEPS_MAX, MEND_TERMS_MAX,
        MEND_TRIES_MAX,
    },
    store::{checkpoint::HardState, types::Place},
};

/// The next sound header behind the gap.
#[derive(Clone, Copy)]
pub(super) struct Next {
    pub part: usize,
    pub at: u32,
    pub header: Header,
}

/// What sound records behind the gap say of it.
#[derive(Clone, Copy, Default)]
struct Behind {
    /// The first entry.
    index: Option<u64>,
    hard_state: Option<HardState>,
    /// The first term.
    term: Option<u64>,
}

fn behind(parts: &[Part], next: Next) -> Behind {
    let part = &parts[next.part];
    let mut behind = Behind::default();
    for (at, header) in part.headers(next.at) {
        match header.kind {
            Type::Entry => behind.index = behind.index.or(Some(header.index)),
            Type::HardState if behind.hard_state.is_none() => {
                behind.hard_state =
                    part.sound_payload(at, &header).and_then(|payload| hard_state_of(&header, &payload));
            }
            _ => {}
        }
        if header.kind != Type::Moved {
            behind.term = behind.term.or(Some(header.term));
        }
        if behind.index.is_some() && behind.hard_state.is_some() {
            break;
        }
    }
    behind
}

/// A record that may have been there: where, and all but its chain. Of a hard state the term, index and payload are open.
#[derive(Clone)]
struct Slot {
    part: usize,
    at: u32,
    header: Header,
    payload: Bytes,
}

/// Where the writer would go on.
#[derive(Clone, Copy)]
struct Spot {
    part: usize,
    at: u32,
    write: u64,
    /// Of the next entry; None where nothing has told of any yet.
    index: Option<u64>,
    hard_states: usize,
}

/// Looks for the records that lead from the last sound one to the next sound header.
pub(super) struct Search<'a> {
    parts: &'a [Part],
    gap: &'a Gap,
    next: Next,
    behind: Behind,
    votes: Vec<u64>,
    /// Entries from other members; None: what is found in place is taken for what it says.
    given: Option<Vec<Given>>,
    hard_states_max: usize,
    slots: Vec<Slot>,
    steps_left: u32,
    tries_left: u32,
    /// Whether a hard state may differ from the one before in more than its commit index.
    differs: bool,
}

impl<'a> Search<'a> {
    pub fn new(parts: &'a [Part], gap: &'a Gap, next: Next) -> Self {
        let behind = behind(parts, next);
        Search {
            parts,
            gap,
            next,
            behind,
            votes: votes(gap, behind.hard_state.map(|hard_state| hard_state.vote)),
            given: None,
            hard_states_max: 0,
            slots: Vec::new(),
            steps_left: 0,
            tries_left: 0,
            differs: false,
        }
    }
}

impl Search<'_> {
    /// With as few hard states as possible; true if the records have been found, which `slots` are then.
    pub fn run(&mut self) -> bool {
        let index = match &self.given {
            Some(given) => given.first().map(|given| given.index),
            None => self.gap.index,
        };
        (self.steps_left, self.tries_left) = (MEND_STEPS_MAX, MEND_TRIES_MAX);
        for (most, differs) in (0..=MEND_HARD_STATES_MAX).flat_map(|most| [(most, false), (most, true)]) {
            (self.hard_states_max, self.differs) = (most, differs);
            self.slots.clear();
            let Gap { offset, cursor, .. } = *self.gap;
            if self.lay(Spot { part: 0, at: offset, write: cursor.write, index, hard_states: 0 }) {
                return true;
            }
        }
        false
    }

    /// With entries of other members; gives who has given them.
    ///
    /// # Errors
    /// Why it does not lead to the next sound header.
    pub fn run_with_entries(&mut self, ask: &mut Ask<'_>) -> Result<String, String> {
        match (self.gap.index, self.behind.index) {
            (Some(from), Some(behind)) if from >= behind => {
                Err("the records there are none of entries, and not all is known of them".into())
            }
            (Some(from), _) => self.with_entries_from(from, ask),
            (None, behind) => self.with_entries_before(behind, ask),
        }
    }

    /// The indexes are known.
    fn with_entries_from(&mut self, from: u64, ask: &mut Ask<'_>) -> Result<String, String> {
        let room = self.room();
        let most = (room / u64::from(record::record_bytes(0))).min(MEND_RECORDS_MAX as u64 - 1);
        let to = self.behind.index.map_or(from + most, |behind| behind - 1);
        if to - from >= MEND_RECORDS_MAX as u64 {
            return Err(format!("the records of {} entries are lost, more than can be mended", to - from + 1));
        }
        let (mut entries, mut giver, mut bytes) = (Vec::<Given>::new(), String::new(), 0);
        while entries.last().is_none_or(|last| last.index < to) && bytes < room {
            let next = entries.last().map_or(from, |last| last.index + 1);
            match ask(&Wanted { gap: self.gap, from: next, to }) {
                Ok(gift) if in_order(next, to, &gift.entries) => {
                    bytes += gift.entries.iter().map(room_of).sum::<u64>();
                    entries.extend(gift.entries);
                    giver = gift.giver;
                }
                Ok(gift) => return Err(format!("{} has given other entries than {next} to {to}", gift.giver)),
                // How many there were may be less than how many there could have been.
                Err(_) if self.behind.index.is_none() && !entries.is_empty() => break,
                Err(why) => return Err(why),
            }
        }
        self.given = Some(entries);
        match self.run() {
            true => Ok(giver),
            false => Err(self.refusal(&giver)),
        }
    }

    /// Only the index behind is known: from there back.
    fn with_entries_before(&mut self, behind: Option<u64>, ask: &mut Ask<'_>) -> Result<String, String> {
        let Some(behind) = behind else { return Err("nothing tells which entries were there".into()) };
        let (mut entries, mut bytes, room) = (Vec::new(), 0, self.room());
        let mut giver = String::new();
        for index in (1..behind).rev().take(MEND_RECORDS_MAX) {
            let gift = ask(&Wanted { gap: self.gap, from: index, to: index })?;
            if !in_order(index, index, &gift.entries) {
                return Err(format!("{} has given another entry than {index}", gift.giver));
            }
            bytes += room_of(&gift.entries[0]);
            if bytes > room {
                break;
            }
            entries.splice(0..0, gift.entries);
            giver = gift.giver;
            self.given = Some(entries.clone());
            if self.run() {
                return Ok(giver);
            }
        }
        Err(self.refusal(&giver))
    }

    fn refusal(&self, giver: &str) -> String {
        match self.tries_left == 0 || self.steps_left == 0 {
            true => "too much of it is lost: there are more ways how it may have been than may be tried".into(),
            false => format!("the entries that {giver} has given do not lead to the next sound record"),
        }
    }

    /// Bytes between the last sound record and the next sound header.
    fn room(&self) -> u64 {
        let Next { part, at, .. } = self.next;
        let before: u64 = self.parts[..part].iter().map(|part| u64::from(part.header.size)).sum();
        (before + u64::from(at)).saturating_sub(self.gap.offset.into())
    }

    /// The entries that have been made anew, and how many records they are with all others.
    pub fn indexes(&self) -> (Range<u64>, usize) {
        let entries = self.slots.iter().filter(|slot| slot.header.kind == Type::Entry);
        let indexes: Vec<u64> = entries.map(|slot| slot.header.index).collect();
        let behind = indexes.last().map_or(0, |last| last + 1);
        (indexes.first().copied().unwrap_or(0)..behind, self.slots.len())
    }

    /// Lays one more record, and all that can follow it.
    fn lay(&mut self, spot: Spot) -> bool {
        if !self.slots.is_empty() && self.reaches(spot) && self.leads() {
            return true;
        }
        if self.slots.len() >= MEND_RECORDS_MAX {
            return false;
        }
        // A write goes on, or the next one begins: at a block, or, if the segment was closed early, in the next segment.
        let begin = Spot { at: spot.at.next_multiple_of(LOG_BLOCK_BYTES), write: spot.write + 1, ..spot };
        let rolled = Spot { part: spot.part + 1, at: RECORDS_FROM, ..begin };
        for (first, spot) in [(false, spot), (true, begin), (true, rolled)] {
            if self.steps_left == 0 || self.tries_left == 0 {
                return false;
            }
            self.steps_left -= 1;
            // A log's first record begins its first write.
            if (first || spot.write > 0) && self.lay_at(first, spot) {
                return true;
            }
        }
        false
    }

    fn lay_at(&mut self, first: bool, spot: Spot) -> bool {
        if spot.write > self.next.header.write {
            return false;
        }
        self.lay_entry(first, spot)
            || (self.given.is_none() && self.lay_found_moved(first, spot))
            || (spot.hard_states < self.hard_states_max && self.lay_hard_state(first, spot))
    }

    /// Where the writer puts a record of so many bytes of payload: the next segment if it does not fit. None behind the gap.
    fn placed(&self, spot: Spot, payload: usize) -> Option<Spot> {
        let needed = record::record_bytes(payload);
        let mut spot = spot;
        if needed > self.parts.get(spot.part)?.header.size.saturating_sub(spot.at) {
            spot = Spot { part: spot.part + 1, at: RECORDS_FROM, ..spot };
        }
        let end = (spot.part, spot.at.checked_add(needed)?);
        (end <= (self.next.part, self.next.at)).then_some(spot)
    }

    fn lay_entry(&mut self, first: bool, spot: Spot) -> bool {
        let (placed, given) = match &self.given {
            Some(given) => {
                let next = spot.index.and_then(|index| given.iter().find(|given| given.index == index)).cloned();
                let Some(given) = next else { return false };
                let Some(placed) = self.placed(spot, given.data.len()) else { return false };
                (placed, given)
            }
            None => {
                let Some((placed, bytes, payload)) = self.found(spot) else { return false };
                let number = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes"));
                let kind = bytes[21];
                if kind > 2 {
                    return false;
                }
                let least = self.gap.hard_state.term.min(self.behind.term.unwrap_or(u64::MAX));
                let terms = least..=self.behind.term.unwrap_or(u64::MAX);
                let term = if terms.contains(&number(32)) { number(32) } else { least };
                let index = spot.index.unwrap_or_else(|| number(40));
                (placed, Given { index, term, kind, data: payload })
            }
        };
        let Given { index, term, kind, data } = given;
        let after = Spot { index: Some(index.saturating_add(1)), ..placed };
        self.lay_record(first, after, Type::Entry, kind, term, index, data)
    }

    /// What is left of a record, if it looks like one: where it is, its header's bytes and its payload.
    fn found(&self, spot: Spot) -> Option<(Spot, Bytes, Bytes)> {
        for spot in [spot, Spot { part: spot.part + 1, at: RECORDS_FROM, ..spot }] {
            let part = self.parts.get(spot.part)?;
            let Some(bytes) = part.bytes.get(spot.at as usize..spot.at as usize + HEADER_BYTES) else { continue };
            let len = u32::from_le_bytes(bytes[12..16].try_into().expect("4 bytes"));
            let Some(payload) = part.payload(spot.at, len) else { continue };
            if !record::resembles(bytes, part.header.life) {
                continue;
            }
            if self.placed(spot, payload.len()).is_some_and(|placed| (placed.part, placed.at) == (spot.part, spot.at)) {
                return Some((spot, part.bytes.slice_ref(bytes), payload));
            }
        }
        None
    }

    /// Values that were moved are known from what is left of them only.
    fn lay_found_moved(&mut self, first: bool, spot: Spot) -> bool {
        let Some((placed, bytes, payload)) = self.found(spot) else { return false };
        let life = self.parts[placed.part].header.life;
        let place = Place { segment: life, offset: placed.at + HEADER_BYTES as u32, len: payload.len() as u32 };
        if record::decode_moved(&payload, place).is_none_or(|moves| moves.is_empty()) {
            return false;
        }
        let index = u64::from_le_bytes(bytes[40..48].try_into().expect("8 bytes"));
        self.lay_record(first, placed, Type::Moved, 0, 0, index, payload)
    }

    fn lay_hard_state(&mut self, first: bool, spot: Spot) -> bool {
        let Some(placed) = self.placed(spot, 8) else { return false };
        let after = Spot { hard_states: spot.hard_states + 1, ..placed };
        self.lay_record(first, after, Type::HardState, 0, 0, 0, Bytes::from_static(&[0; 8]))
    }

    #[expect(clippy::too_many_arguments, reason = "the fields of a header, each once")]
    fn lay_record(
        &mut self,
        first: bool,
        spot: Spot,
        kind: Type,
        entry_type: u8,
        term: u64,
        index: u64,
        payload: Bytes,
    ) -> bool {
        let header = Header {
            payload_crc: 0,
            chain: 0,
            len: payload.len() as u32,
            life: self.parts[spot.part].header.life,
            kind,
            entry_type,
            first,
            write: spot.write,
            term,
            index,
        };
        let end = spot.at + record::record_bytes(payload.len());
        self.slots.push(Slot { part: spot.part, at: spot.at, header, payload });
        if self.lay(Spot { at: end, ..spot }) {
            return true;
        }
        self.slots.pop();
        false
    }

    /// Whether the writer would put the next sound record where it is.
    fn reaches(&self, spot: Spot) -> bool {
        let Next { part, at, header } = self.next;
        let is_next_part = spot.part + 1 == part && at == RECORDS_FROM;
        let (in_place, begins_next) = match header.first {
            true => (spot.at.next_multiple_of(LOG_BLOCK_BYTES) == at, is_next_part),
            false => {
                let room = self.parts[spot.part].header.size - spot.at;
                (spot.at == at, is_next_part && record::record_bytes(header.len as usize) > room)
            }
        };
        // As far as the next entry is known: unless that one overrules others, all those before it are there.
        let all = match (spot.index, self.behind.index) {
            (Some(index), Some(behind)) if self.gap.index.is_none_or(|first| first <= behind) => index == behind,
            _ => true,
        };
        // With fewer it has been tried before.
        let all = all && spot.hard_states == self.hard_states_max;
        all && header.write == spot.write + u64::from(header.first) && ((spot.part == part && in_place) || begins_next)
    }

    /// Whether the records lead to the next header's chain, with some hard states: those are in `slots` then.
    fn leads(&mut self) -> bool {
        let mut slots = std::mem::take(&mut self.slots);
        for slot in &mut slots {
            slot.header.payload_crc = crc32c::crc32c(&slot.payload);
        }
        let leads = self.leads_from(&mut slots, 0, self.gap.cursor.chain, self.gap.hard_state);
        self.slots = slots;
        leads
    }

    fn leads_from(&mut self, slots: &mut [Slot], at: usize, chain: u32, before: HardState) -> bool {
        let (mut at, mut chain) = (at, chain);
        while let Some(slot) = slots.get_mut(at) {
            if slot.header.kind == Type::HardState {
                return self.leads_with(slots, at, chain, before);
            }
            slot.header.chain = chain;
            (_, chain) = slot.header.encode(self.parts[slot.part].header.seed().at(slot.at));
            at += 1;
        }
        self.tries_left = self.tries_left.saturating_sub(1);
        chain == self.next.header.chain
    }

    /// Tries what the hard state at a slot may have been.
    fn leads_with(&mut self, slots: &mut [Slot], at: usize, chain: u32, before: HardState) -> bool {
        let (part, offset) = (&self.parts[slots[at].part], slots[at].at);
        let found = part.bytes.slice(offset as usize..offset as usize + HEADER_BYTES + 8);
        let number = |at: usize| u64::from_le_bytes(found[at..at + 8].try_into().expect("8 bytes"));
        let found = HardState { term: number(32), vote: number(HEADER_BYTES), commit: number(40) };
        let seed = part.header.seed().at(offset);

        // A commit index is never beyond what is in the log, and those behind are no lower.
        let entries = |slots: &[Slot]| {
            let last = slots.iter().rfind(|slot| slot.header.kind == Type::Entry);
            last.map(|slot| (slot.header.index, slot.header.term))
        };
        let last = entries(&slots[..at]).map(|(index, _)| index).or(self.gap.index.map(|index| index - 1));
        let known = self.behind.hard_state.map_or(u64::MAX, |hard_state| hard_state.commit);
        let most = last.or(self.behind.index).unwrap_or(before.commit).min(known).max(before.commit);
        let terms = before.term..=self.behind.term.unwrap_or(before.term).max(before.term);
        let terms: Vec<u64> = if self.differs { terms.take(MEND_TERMS_MAX).collect() } else { vec![before.term] };
        let votes = if self.differs { self.votes.clone() } else { vec![before.vote] };
        let mut guesses: Vec<(u64, u64)> = Vec::new();
        for term in terms {
            guesses.extend(votes.iter().map(|vote| (term, *vote)));
        }
        let commits = before.commit.max(most.saturating_sub(MEND_COMMITS_MAX))..=most;
        let tried = guesses
            .into_iter()
            .flat_map(|(term, vote)| commits.clone().map(move |commit| HardState { term, vote, commit }));
        // What is left of it, with one number or another as it was before; and what a new log begins with, which is committed.
        let (index, term) = entries(&slots[at..]).unwrap_or_default();
        let left = [
            found,
            HardState { term: before.term, ..found },
            HardState { vote: before.vote, ..found },
            HardState { commit: before.commit, ..found },
            HardState { commit: index, term, vote: 0 },
        ];
        for hard_state in left.into_iter().chain(tried) {
            if self.tries_left == 0 {
                return false;
            }
            let payload = hard_state.vote.to_le_bytes();
            let slot = &mut slots[at];
            slot.payload = Bytes::copy_from_slice(&payload);
            slot.header.payload_crc = crc32c::crc32c(&payload);
            (slot.header.term, slot.header.index, slot.header.chain) = (hard_state.term, hard_state.commit, chain);
            let (_, chain) = slot.header.encode(seed);
            if self.leads_from(slots, at + 1, chain, hard_state) {
                return true;
            }
        }
        false
    }

    /// The records in their places, and zeros where the writer leaves them. None if they do not follow one another there.
    pub fn written(&self) -> Option<Vec<Blocks>> {
        let mut images: Vec<(Vec<u8>, Option<Range<usize>>)> =
            self.parts.iter().map(|part| (part.bytes.to_vec(), None)).collect();
        let mut put = |part: usize, at: u32, bytes: &[u8]| {
            let (image, changed) = &mut images[part];
            let range = at as usize..at as usize + bytes.len();
            image[range.clone()].copy_from_slice(bytes);
            *changed = Some(changed.take().map_or(range.clone(), |known| known.start..range.end));
        };
        let mut end = (0, self.gap.offset);
        let places = self.slots.iter().map(|slot| (slot.part, slot.at)).chain([(self.next.part, self.next.at)]);
        for (place, slot) in places.zip(self.slots.iter().map(Some).chain([None])) {
            // Behind a write, and behind a segment's last record, zeros go on to the block's end.
            let until = match place.0 == end.0 {
                true => place.1,
                false => end.1.next_multiple_of(LOG_BLOCK_BYTES),
            };
            put(end.0, end.1, &vec![0; (until - end.1) as usize]);
            let Some(Slot { part, at, header, payload }) = slot else { break };
            let (head, _) = header.encode(self.parts[*part].header.seed().at(*at));
            put(*part, *at, &head);
            put(*part, *at + HEADER_BYTES as u32, payload);
            let (behind, record_end) =
                (*at + HEADER_BYTES as u32 + payload.len() as u32, *at + record::record_bytes(payload.len()));
            put(*part, behind, &vec![0; (record_end - behind) as usize]);
            end = (*part, record_end);
        }
        let mut cursor = self.gap.cursor;
        for slot in &self.slots {
            let image = Image::new(&images[slot.part].0, &self.parts[slot.part].header);
            cursor = image.record_at(slot.at, cursor).ok()?.cursor;
        }
        if self.next.header.chain != cursor.chain {
            return None;
        }
        let changed = self.parts.iter().zip(&images);
        let changed = changed.filter_map(|(part, (image, changed))| Some((part, image, changed.clone()?)));
        Some(changed.map(|(part, image, changed)| blocks(part.header.life, image, changed)).collect())
    }
}

fn room_of(given: &Given) -> u64 {
    (HEADER_BYTES + given.data.len()).next_multiple_of(ALIGN as usize) as u64
}

/// Whether these are entries from `from` on, none behind `to`.
fn in_order(from: u64, to: u64, entries: &[Given]) -> bool {
    let last = entries.last().map_or(0, |last| last.index);
    !entries.is_empty() && last <= to && entries.iter().map(|given| given.index).eq(from..=last)
}
