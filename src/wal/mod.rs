//! The log, which is the database: records, segments, the writer, recovery. The codec, the writer and the recovery
//! logic are plain state machines; files are touched in `disk.rs` only. The driver above makes the hot writes itself:
//! the writer hands it block-aligned pieces of memory. `docs/format.md` draws every byte.
//!
//! A record's way: `writer` puts it into `segment` memory in the form of `record` → the driver writes the piece →
//! readers find it through `table` → after a restart `replay` reads it back, `recovery` decides what is to be believed.

pub mod bulk;
pub mod disk;
pub mod doubts;
pub mod inspect;
pub mod lock;
mod map;
mod memory;
pub mod mend;
pub mod proof;
pub mod record;
pub mod recovery;
pub mod replay;
pub mod scrub;
pub mod segment;
pub mod spool;
pub mod table;
pub mod window;
pub mod writer;

pub use crate::store::checkpoint::LogPosition;

#[cfg(test)]
mod tests;
