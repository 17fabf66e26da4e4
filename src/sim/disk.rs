//! What a disk may do besides being slow: refuse a write, be full, give back other bytes than it was given, put a block where
//! it does not belong. Of a damaged disk the simulator knows that it is; the member has to find out.
//!
//! Damage to the very last write that was acknowledged cannot be told from a write that the end of the process tore, whose loss
//! is no loss. So bits change only in what has a later write behind it; and a member whose last write went astray does not come
//! back once its process has ended, as it would have forgotten what it promised.

use std::{
    fs::{File, OpenOptions},
    os::unix::fs::FileExt,
};

use crate::{
    limits::LOG_BLOCK_BYTES,
    random::Random,
    wal::{disk::Dir, record::RECORDS_FROM, writer::PendingWrite},
};

#[derive(Default)]
pub struct Disk {
    /// The next write fails.
    pub fails: bool,
    /// A block of the next write goes elsewhere.
    pub misdirects: bool,
    /// A bit is read otherwise than it was written, at the next start.
    pub misreads: bool,
    /// There is no room for another segment.
    pub full: bool,
    /// It does not hold what was written.
    pub damaged: bool,
    /// Nor does it hold anything later, by which that would show.
    pub hides_damage: bool,
    /// Where the last write begins that is durable: segment and offset.
    last_write: Option<(u32, u32)>,
}

/// A bit that was changed.
pub struct Flip {
    file: File,
    offset: u64,
    mask: u8,
}

impl Flip {
    fn of(file: File, offset: u64, mask: u8) -> Flip {
        let flip = Flip { file, offset, mask };
        flip.turn();
        flip
    }

    fn turn(&self) {
        let mut byte = [0];
        self.file.read_exact_at(&mut byte, self.offset).expect("a byte");
        self.file.write_all_at(&[byte[0] ^ self.mask], self.offset).expect("a byte");
    }

    pub fn take_back(self) {
        self.turn();
    }
}

impl Disk {
    /// Whether it takes a write.
    pub fn takes(&mut self, dir: &Dir, write: &PendingWrite) -> bool {
        let needs_room = write.pieces.iter().any(|piece| !piece.segment.path().exists());
        let room = !self.full || !needs_room || !dir.list().expect("a folder").spares.is_empty();
        room && !std::mem::take(&mut self.fails)
    }

    pub fn write(&mut self, dir: &Dir, write: &PendingWrite, random: &mut Random) {
        self.hides_damage = false;
        let last = write.pieces.last().expect("a write has a piece");
        let room = (last.offset - RECORDS_FROM) / LOG_BLOCK_BYTES;
        if self.misdirects && room > 0 {
            self.misdirects = false;
            let file = OpenOptions::new().read(true).write(true).open(last.segment.path()).expect("a segment");
            let block = random.below(last.bytes().len() as u64 / u64::from(LOG_BLOCK_BYTES));
            let meant = u64::from(last.offset) + block * u64::from(LOG_BLOCK_BYTES);
            let mut before = vec![0; LOG_BLOCK_BYTES as usize];
            file.read_exact_at(&mut before, meant).expect("a block");
            dir.write(write).expect("a write");
            let wrong = RECORDS_FROM + random.below(room.into()) as u32 * LOG_BLOCK_BYTES;
            let bytes = &last.bytes()[(block * u64::from(LOG_BLOCK_BYTES)) as usize..][..LOG_BLOCK_BYTES as usize];
            file.write_all_at(bytes, wrong.into()).expect("a block");
            file.write_all_at(&before, meant).expect("a block");
            (self.damaged, self.hides_damage) = (true, true);
        } else {
            dir.write(write).expect("a write");
        }
        let first = &write.pieces[0];
        self.last_write = Some((first.segment.life(), first.offset));
    }

    /// Changes a bit that lies before the last write. None if there is none.
    pub fn flip(&self, dir: &Dir, random: &mut Random) -> Option<Flip> {
        let (last_life, last_offset) = self.last_write?;
        let listing = dir.list().expect("a folder");
        let mask = 1 << random.below(8);
        let open = |path| OpenOptions::new().read(true).write(true).open(path).expect("a file");
        if let (Some(bytes), true) = (listing.checkpoint, random.permille(300)) {
            return Some(Flip::of(open(dir.checkpoint_path()), random.below(bytes), mask));
        }
        let before: Vec<u32> = listing.segments.into_iter().filter(|life| *life <= last_life).collect();
        if before.is_empty() {
            return None;
        }
        let life = *random.pick(&before);
        let file = open(dir.segment_path(life));
        let end = if life == last_life { last_offset.into() } else { file.metadata().expect("a size").len() };
        let offset = random.below(end);
        Some(Flip::of(file, offset, mask))
    }
}
