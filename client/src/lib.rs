//! A small native client of the gRPC API that urd and etcd share, for the tests and the load harness: one connection,
//! any number of calls in flight on it, errors as code and text. It never retries and never reconnects, so that what a
//! server did is what the caller sees. Needs a tokio runtime; one thread is enough.

mod channel;
mod coordination;
mod error;
mod frames;
mod methods;
pub mod raw;
mod tls;
mod watch;

pub use channel::{Chunks, Client, Options, Receiver, Sender};
pub use error::Error;
pub use frames::{Frames, frame};
pub use http::uri::Scheme;
pub use methods::{Streaming, Unary, op};
pub use tls::Tls;
pub use urd::{
    error::Code,
    proto::{authpb, etcdserverpb, mvccpb, v3electionpb, v3lockpb},
};
pub use watch::Watcher;
