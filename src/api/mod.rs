//! The services of etcd, one file each, and what they share.
pub mod check;
pub mod encode;
pub mod request;
pub mod watch;
pub mod wire;
