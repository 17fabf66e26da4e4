//! A shard's slice of the lease deadlines.

/// Deadlines of the leases that this shard owns.
#[derive(Debug, Default)]
pub struct Deadlines {}
