//! urd.
pub mod api;
pub mod error;
pub mod limits;
pub mod raft;
pub mod store;

/// The generated wire types, one module a package.
pub mod proto {
    #![allow(missing_docs, clippy::all)]
    include!(concat!(env!("OUT_DIR"), "/protos.rs"));
}
