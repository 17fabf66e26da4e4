//! Who may do what. Users, roles and their permissions are a part of the replicated state (`store`), changed by logged
//! requests and read through the same immutable views as the keys; `authorize` alone decides, on the shard that a request
//! has come to and again when it is applied. Tokens and passwords are proven here too. All of it is plain: no I/O, no clock,
//! no executor. (etcd API, service Auth; etcd: server/auth.)
//!
//! * `state` what there is and how requests change it; `ranges` the keys that permissions come to.
//! * `authorize` what a request asks for, and whether its user may.
//! * `tokens` from a token to a user: those of this member's memory, or signed ones (`jwt`, whose keys `keys` reads).
//! * `password` bcrypt; `base64` how hashes and signatures travel.

mod authorize;
pub mod base64;
pub mod jwt;
mod keys;
pub mod password;
mod ranges;
mod state;
pub mod tokens;

pub use self::{
    authorize::{Ask, Who, authorize},
    ranges::Ranges,
    state::{Auth, AuthAnswer, ROOT, TokenChange},
};

#[cfg(test)]
mod tests;
