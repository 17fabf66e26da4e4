//! The log, which is the database: records, segments, the writer, recovery. The codec and the recovery logic are
//! plain state machines; files are touched in `disk.rs` only.

pub mod table;
