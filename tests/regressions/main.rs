//! One file a bug that there was: what went wrong, and the shortest way there.

mod compaction_within_compaction;
mod defragment_on_a_full_disk;
