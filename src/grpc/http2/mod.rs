//! HTTP/2, the server's half, as plain synchronous code: bytes in, requests and bytes out. It knows no socket, no task
//! and no clock but the time that comes with the bytes. The connection's task (`grpc/connection.rs`) drives it and its
//! calls reach into it by the key of their stream.
//!
//! Bounded whatever a client does: what it may send is bounded by windows, what is to be sent by what the handlers
//! give; headers, resets, faults and empty frames are counted against `limits.rs`; and nothing is read from a client
//! that does not take what it is owed. (RFC 9113, RFC 7541.)

mod connection;
mod encode;
mod field;
mod frame;
mod fuzz;
mod head;
mod hpack;
mod huffman;
mod output;
mod receive;
mod send;
mod stream;

pub(super) use self::{
    connection::{BodyEnd, Config, Connection},
    encode::{CONTENT_TYPE_GRPC, Encoder, put_field, put_http_status},
    frame::Reason,
    head::Head,
    stream::Key,
};
pub use self::{
    field::{Metadata, Text},
    fuzz::fuzz_connection,
    send::Gone,
};
