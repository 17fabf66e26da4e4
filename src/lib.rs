//! urd: an etcd-compatible, strongly consistent key-value store on io_uring, one pinned executor per core.
//!
//! # The tour, in the order in which a put passes
//!
//! * [`config`] reads etcd's flags and variables; [`server`] starts an executor a core and says who runs where.
//! * [`net`] accepts, gives each connection to the least-loaded shard and tells HTTP/2 from HTTP/1.1.
//! * [`grpc`] takes messages out of HTTP/2 streams and puts answers and statuses back; [`http`] serves health, version,
//!   metrics, and the API in JSON.
//! * [`api`] has one file a service: it checks a request in etcd's order and has it proposed, or reads the published
//!   state and writes the answer straight from the index ([`wire`] is the pen).
//! * [`shard`] is what one core owns: the requests that wait, the watches, the lease deadlines.
//! * [`peers`] carries messages to the other members and brings theirs; [`discovery`] finds them where a cluster is founded.
//! * [`raft`] gathers proposals, logs them in one durable write, applies what is committed and publishes the new root.
//! * [`store`] is the state and what a request does to it: a copy-on-write index of keys and events that points at values.
//! * [`auth`] is the part of that state that says who may do what, and the one function that decides it.
//! * [`bolt`] is etcd's database format, for the way to etcd and back: snapshots.
//! * [`wal`] is where the values lie: segments of checksummed records, written once, and what a restart makes of them.
//!
//! Beneath all of them: [`runtime`] (executors on io_uring), [`observe`] (logs, metrics, traces), [`limits`] (every bound and
//! its sum), [`error`] (every text a client can be given), [`random`], [`version`].
//!
//! Arrows between rooms point down this list, never up. `docs/architecture.md` tells why it is built so,
//! `docs/format.md` draws the bytes on disk.

pub mod api;
pub mod auth;
pub mod bolt;
pub mod config;
pub mod discovery;
pub mod error;
pub mod grpc;
pub mod http;
pub mod limits;
pub mod net;
pub mod observe;
pub mod peers;
pub mod raft;
pub mod random;
pub mod runtime;
pub mod server;
pub mod shard;
#[cfg(any(test, feature = "sim"))]
pub mod sim;
pub mod store;
pub mod version;
pub mod wal;
pub mod wire;

/// The generated wire types, one module a package.
pub mod proto {
    #![allow(missing_docs, clippy::all)]
    include!(concat!(env!("OUT_DIR"), "/protos.rs"));
}

/// The compiled descriptors of `proto/`, a `google.protobuf.FileDescriptorSet`.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
