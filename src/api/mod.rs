//! The services of etcd, one file each, and what they share.
pub mod auth;
pub mod caller;
pub mod check;
pub mod cluster;
pub mod downgrade;
pub mod election;
pub mod encode;
pub mod health;
mod inside;
pub mod kv;
mod leader;
pub mod lease;
pub mod listing;
pub mod lock;
pub mod maintenance;
mod passwords;
pub mod range_stream;
pub mod request;
pub mod service;
pub mod snapshot;
#[cfg(test)]
mod testing;
pub mod values;
pub mod watch;
