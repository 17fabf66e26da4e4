//! One file a bug that there was: what went wrong, and the shortest way there.

#[path = "../server/mod.rs"]
mod server;

mod answers_nobody_reads;
mod authenticate_unknown_user;
mod block_gone_astray;
mod compaction_within_compaction;
mod defragment_on_a_full_disk;
mod expired_lease_of_a_corrupt_cluster;
mod lease_just_granted;
mod lease_of_others_keys;
mod quota_counted_twice;
mod txn_prev_kv_and_lease;
mod watch_beyond_one_key;
