//! Listeners, and what happens to a connection before a protocol takes it: it is accepted by one task, given a seat on
//! the least-loaded shard, handed over, and looked at until its protocol is known; TLS is spoken in between where the
//! listener says so. No byte of a protocol is answered here.

mod for_hyper;
pub mod listener;
pub mod seats;
pub mod sniff;
pub mod tls;

pub use self::{
    for_hyper::ForHyper,
    listener::{Arrival, BindError, Listener},
    seats::{Seat, Seats},
    sniff::{Protocol, Rewound, SniffError, sniff},
};
