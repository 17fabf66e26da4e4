//! The versions urd tells. Wherever etcd's protocols carry a version it is that of the etcd which urd implements, for
//! clients and other members decide by it what they may ask; urd's own is told beside it.

/// The etcd release whose behaviour is implemented.
pub const ETCD: &str = "3.7.3";

/// The cluster version that a member of that release proposes.
pub const CLUSTER: &str = "3.7.0";

/// The version of the storage's schema that it states.
pub const STORAGE: &str = "3.7.0";

/// urd's own release.
pub const URD: &str = env!("CARGO_PKG_VERSION");
