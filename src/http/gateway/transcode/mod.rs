//! JSON to protobuf and back, along the compiled descriptors of `proto/`: nothing here knows a message by name. Spelling,
//! leniencies and words of complaint are those of Go's encoding/json and of protojson with the options that etcd gives it:
//! names as they are declared, zero values left out, unknown fields passed over. (Protocol Buffers, "ProtoJSON Format";
//! etcd: embed/serve.go, registerGateway.)

mod base64;
mod number;
mod read;
mod scan;
mod schema;
mod token;
mod write;

#[cfg(test)]
mod tests;

pub use self::{
    base64::{decode as decode_base64, encode as encode_base64},
    read::{Read, read},
    scan::{End, Scan, Scanner},
    schema::{Method, Schema},
    write::{Escape, Input, Step, Writer, put_text},
};
