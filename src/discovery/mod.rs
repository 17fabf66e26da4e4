//! How a member without data learns who founds its cluster with it: from the SRV records of a DNS domain (`srv`), or at a
//! meeting place, which is another cluster (`registry`). Asked once, before the executors start, and never again once there
//! is a log. Nothing is decided here but who the members are. (etcd: embed.Config.GetDNSClusterNames;
//! etcdserver/api/v3discovery.)

mod client;
mod dns;
pub mod registry;
pub mod srv;

#[doc(hidden)]
pub use dns::message::fuzz_dns;
