//! urd.
pub mod api;
pub mod config;
pub mod error;
pub mod grpc;
pub mod http;
pub mod limits;
pub mod net;
pub mod observe;
pub mod raft;
pub mod runtime;
pub mod server;
pub mod shard;
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
